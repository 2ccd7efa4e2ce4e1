"""What is decided for each entry."""

from hypothesis import given
from hypothesis import strategies as st

from hdev_memory.core.diff import (
    Blocked,
    Create,
    Delete,
    Overwrite,
    Rules,
    Skip,
    TargetOnly,
    Unchanged,
    Verdict,
    diff,
    judge,
)
from hdev_memory.core.entry import (
    PLACEHOLDER_CONTENT,
    Capabilities,
    Entry,
    Normalisation,
    Unreadable,
)

NORMAL = Normalisation()
KEYS = st.sampled_from(["a", "a-b", "a/b", "a/x.md/c", "b", "global"])
STORE = st.dictionaries(KEYS, st.sampled_from([b"", b"one", b"two"]))


def snapshot(store):
    return [
        NORMAL.entry_state(Entry(key=key, content=content, metadata={}))
        for key, content in sorted(store.items())
    ]


def rules(*, overwrite=False, delete=False, **capabilities):
    promised = Capabilities(cas="guarded", durability="synced", **capabilities)
    return Rules(overwrite=overwrite, delete=delete, compare="all", capabilities=promised)


@given(STORE, STORE, st.booleans(), st.booleans())
def test_outcomes_equal_a_model_of_two_dicts(source, target, overwrite, delete):
    found = list(
        diff(snapshot(source), snapshot(target), rules(overwrite=overwrite, delete=delete))
    )

    expected = []
    for key in sorted(source | target):
        if key not in target:
            expected.append((key, Create))
        elif key not in source:
            expected.append((key, Delete if delete else TargetOnly))
        elif source[key] == target[key]:
            expected.append((key, Unchanged))
        else:
            expected.append((key, Overwrite if overwrite else Skip))
    assert [(outcome.key, type(outcome)) for outcome in found] == expected


def test_an_unreadable_entry_blocks_on_either_side_and_is_never_deleted():
    broken = [Unreadable(key="a", reason="broken")]
    whole = snapshot({"a": b"one"})
    all_on = rules(overwrite=True, delete=True)

    for source, target in ((broken, whole), (whole, broken), (broken, []), ([], broken)):
        assert [type(outcome) for outcome in diff(source, target, all_on)] == [Blocked]


def test_a_placeholder_global_counts_as_absent_and_is_never_deleted():
    target = snapshot({"global": PLACEHOLDER_CONTENT})

    (made,) = diff(snapshot({"global": b"ours"}), target, rules())
    (kept,) = diff([], target, rules(delete=True))

    assert isinstance(made, Create)
    assert made.before == target[0].state
    assert isinstance(kept, TargetOnly)


def test_a_merging_target_keeps_its_own_metadata_and_planning_again_finds_nothing():
    ours = NORMAL.entry_state(Entry(key="a", content=b"x", metadata={"k": 1}))
    theirs = NORMAL.entry_state(Entry(key="a", content=b"y", metadata={"own": 2}))
    merged = NORMAL.entry_state(Entry(key="a", content=b"x", metadata={"k": 1, "own": 2}))
    merging = rules(overwrite=True, metadata="merge")

    (first,) = diff([ours], [theirs], merging)
    (second,) = diff([ours], [merged], merging)

    assert isinstance(first, Overwrite)
    assert (first.after, first.source) == (merged.state, ours.state)
    assert isinstance(second, Unchanged)


def test_names_that_cannot_stand_side_by_side_are_blocked():
    source = snapshot({"foo": b"1", "foo-x": b"2", "foo/bar": b"3"})

    outcomes = list(diff(source, [], rules(beside=("/",))))

    assert [type(outcome) for outcome in outcomes] == [Create, Create, Blocked]


def test_too_large_an_entry_is_blocked_in_the_words_of_the_existing_tool():
    (outcome,) = diff(snapshot({"a": b"one"}), [], rules(max_entry_bytes=2))

    assert isinstance(outcome, Blocked)
    assert outcome.reason == "Content too large for target backend"


def test_judge_knows_ready_done_and_drift():
    one, two = (entry.state for entry in snapshot({"a": b"one", "b": b"two"}))
    create = Create(key="a", after=one, reason="")
    change = Overwrite(key="a", before=one, after=two, reason="")
    delete = Delete(key="a", before=one, reason="")

    assert [judge(create, now) for now in (None, one, two)] == [
        Verdict.READY,
        Verdict.DONE,
        Verdict.DRIFT,
    ]
    assert [judge(change, now) for now in (one, two, None)] == [
        Verdict.READY,
        Verdict.DONE,
        Verdict.DRIFT,
    ]
    assert [judge(delete, now) for now in (one, None, two)] == [
        Verdict.READY,
        Verdict.DONE,
        Verdict.DRIFT,
    ]
