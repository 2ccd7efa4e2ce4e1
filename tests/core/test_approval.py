"""What an approval says, and when a plan has enough of them."""

from itertools import combinations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hdev_memory.core import approval, audit
from hdev_memory.core.approval import Dubious, Genuine, Group, Past, Requirement, judge

TARGET = approval.Target(kind="filesystem", location="~/t", store=None)
ABOUT = approval.Subject(
    plan="sha256:" + "a" * 64, effect="b" * 64, target=TARGET, author="author@x"
)
NOW = "2026-06-01T12:00:00Z"
SAID = approval.Statement(
    format=approval.FORMAT,
    decision="approve",
    plan=ABOUT.plan,
    effect=ABOUT.effect,
    target=TARGET,
    principal="ann@x",
    role="person",
    comment="looks good",
    created="2026-06-01T11:00:00Z",
    expires="2026-06-02T12:00:00Z",
    nonce="0" * 32,
)


def genuine(key="k1", *, agent=False, name=None, owners=(), **changed):
    if changed.get("decision") == "reject":
        changed.setdefault("expires", None)
    said = msgspec.structs.replace(SAID, **changed)
    name = name if name is not None else said.name
    return Genuine(name, said, key, (said.principal, *owners), agent)


def test_a_statement_comes_back_as_it_was():
    for said in (SAID, genuine(decision="reject").statement, genuine(comment="ü\n\\").statement):
        assert approval.decode(approval.encode(said)) == said


@pytest.mark.parametrize("pattern", [0x01, 0x20, 0x80])
def test_a_flip_of_any_byte_is_refused_or_says_something_else(pattern):
    raw = approval.encode(SAID)
    for offset in range(len(raw)):
        flipped = bytearray(raw)
        flipped[offset] ^= pattern
        try:
            said = approval.decode(bytes(flipped))
        except approval.NoStatement:
            continue
        assert said != SAID


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        (b'"comment"', b' "comment"', "not in canonical form"),
        (b"}\n", b"}", "not in canonical form"),
        (b"}\n", b"}\r\n", "not in canonical form"),
        (b"}\n", b',"more":1}\n', "unknown field"),
        (b'"role":"person"', b'"role":"admin"', "Invalid enum value"),
        (b"hdev-approval/1", b"hdev-approval/2", "Invalid enum value"),
        (b'"role":"person",', b"", "missing required field"),
        (b'"role":"person"', b'"role":"person","role":"person"', "not in canonical form"),
        (b"ann@x", b"*", "Expected `str` matching"),
        (b"ann@x", b"../ann", "Expected `str` matching"),
        (b"ann@x", b"", "Expected `str` matching"),
        (b"2026-06-01T11", b"2026-02-30T11", "which there is not"),
        (b"2026-06-01T11", b"2026-06-01T24", "which there is not"),
        (b"2026-06-01T11", b"0000-06-01T11", "which there is not"),
        (b"2026-06-02", b"2026-06-01", "expires before it was made"),
        (b"T12:00:00Z", b"T12:00:00Z\\n", "Expected `str` matching"),
        (b'"approve"', b'"reject"', "rejection with an expiry"),
        (b"looks good", b"x" * 1001, "length <= 1000"),
        (b"looks good", b"x" * 20_000, "too long"),
        (b"looks good", b"\xff", "cannot be read"),
    ],
)
def test_what_is_no_statement(old, new, why):
    raw = approval.encode(genuine(expires="2026-06-02T10:00:00Z").statement)
    if old.startswith((b"2026-06-02", b"T12")):
        raw = approval.encode(SAID)
    if why == "expires before it was made":
        raw, old, new = raw, b"2026-06-02T12:00:00Z", b"2026-06-01T11:00:00Z"
    assert old in raw

    with pytest.raises(approval.NoStatement, match=why):
        approval.decode(raw.replace(old, new, 1))


WORTH = [
    ("a good one counts", genuine(), {}, "counts", "is signed"),
    ("another plan", genuine(plan="sha256:" + "c" * 64), {}, "nothing", "about another plan"),
    ("another effect", genuine(effect="c" * 64), {}, "nothing", "about another effect"),
    ("another target",
     genuine(target=approval.Target("http", "https://h", "s")), {}, "nothing", "another target"),
    ("another plan with the same effect", genuine(plan="sha256:" + "c" * 64),
     {"bind": "effect"}, "counts", "is signed"),
    ("another effect, bound to it", genuine(effect="c" * 64), {"bind": "effect"},
     "nothing", "another effect"),
    ("an agent by its own word", genuine(role="agent"), {}, "nothing", "an agent's"),
    ("an agent by the trust root", genuine(agent=True), {}, "nothing", "an agent's"),
    ("the author", genuine(principal="author@x"), {}, "nothing", "made the plan"),
    ("the author in capitals", genuine(principal="AUTHOR@X"), {}, "nothing", "made the plan"),
    ("the author by another name of their key", genuine(owners=("author@x",)), {},
     "nothing", "made the plan"),
    ("the author where that is allowed", genuine(principal="author@x"),
     {"exclude_author": False}, "counts", "is signed"),
    ("expired at this second", genuine(expires=NOW), {}, "nothing", "expired at"),
    ("one that never expires", genuine(expires=None), {}, "counts", "is signed"),
    ("too old", genuine(), {"max_age": 3599}, "nothing", "older than"),
    ("old enough to count", genuine(), {"max_age": 3600}, "counts", "is signed"),
    ("from the future", genuine(created="2026-06-01T12:05:01Z"), {}, "nothing", "in the future"),
    ("by a clock that is a little ahead",
     genuine(created="2026-06-01T12:05:00Z"), {}, "counts", "is signed"),
    ("under another name", genuine(name="x.json"), {}, "nothing", "a name that is not its own"),
    ("a rejection", genuine(decision="reject"), {}, "blocks", "rejects"),
    ("a rejection under another name",
     genuine(decision="reject", name="x.json"), {}, "blocks", "rejects"),
    ("a rejection by an agent", genuine(decision="reject", agent=True), {}, "blocks", ""),
    ("a rejection by the author",
     genuine(decision="reject", principal="author@x"), {}, "blocks", ""),
    ("a rejection of another plan",
     genuine(decision="reject", plan="sha256:" + "c" * 64), {}, "nothing", "about another plan"),
    ("a rejection of the same effect",
     genuine(decision="reject", plan="sha256:" + "c" * 64), {"bind": "effect"}, "blocks", ""),
    ("no approval at all", Dubious("x", "it is a cat"), {}, "nothing", "it is a cat"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("item", "asked", "worth", "why"), [row[1:] for row in WORTH], ids=[row[0] for row in WORTH]
)
def test_what_one_is_worth(item, asked, worth, why):
    verdict = judge([item], Requirement(count=1, **asked), ABOUT, NOW, Past())
    (standing,) = verdict.standings

    assert (standing.worth, why in standing.why) == (worth, True), standing
    assert verdict.allowed == (worth == "counts")
    assert len(verdict.counted) == (worth == "counts")


def test_nothing_is_needed_where_nothing_is_asked_but_a_rejection_blocks_all_the_same():
    nobody = Requirement()

    assert judge([], nobody, ABOUT, NOW, Past()).allowed
    assert not judge([genuine(decision="reject")], nobody, ABOUT, NOW, Past()).allowed


def test_a_rejection_that_only_the_log_still_names_blocks():
    verdict = judge([genuine()], Requirement(count=1), ABOUT, NOW, Past(rejected_by={"bob@x"}))

    assert not verdict.allowed
    assert verdict.missing == ("bob@x has rejected it",)


def test_a_nonce_that_a_finished_run_has_used_up_does_not_count_again():
    verdict = judge([genuine()], Requirement(count=1), ABOUT, NOW, Past(spent={"0" * 32}))

    assert not verdict.allowed


def vote(principal, key, nonce):
    return genuine(key, principal=principal, nonce=f"{nonce:032x}")


@pytest.mark.parametrize(
    ("votes", "most"),
    [
        ([("a", "k", 1), ("b", "l", 2)], 2),
        ([("a", "k", 1), ("a", "l", 2)], 1),
        ([("a", "k", 1), ("A", "l", 2)], 1),
        ([("a", "k", 1), ("b", "k", 2)], 1),
        ([("a", "k", 1), ("b", "l", 1)], 1),
        ([("a", "k", 1), ("a", "k", 1)], 1),
        # Three principals and three keys, and yet only two that share nothing.
        ([("a", "k", 1), ("a", "l", 2), ("a", "m", 3), ("b", "m", 4), ("c", "m", 5)], 2),
        # The first that comes must not take what the second needs.
        ([("a", "k", 1), ("a", "l", 2), ("b", "k", 3)], 2),
    ],
)
def test_principals_keys_and_nonces_are_counted_once(votes, most):
    items = [vote(*one) for one in votes]

    for count in (most, most + 1):
        verdict = judge(items, Requirement(count=count), ABOUT, NOW, Past())
        assert verdict.allowed == (count == most)
        assert len(verdict.counted) == most


def test_groups_are_filled_by_those_who_count_anyway():
    asked = Requirement(
        count=2,
        groups={"ops": Group(("a", "c"), 1), "legal": Group(("B",), 1)},
    )
    ann, bob, cid = vote("a", "k", 1), vote("b", "l", 2), vote("c", "m", 3)

    assert judge([ann, bob], asked, ABOUT, NOW, Past()).allowed
    lacking = judge([ann, cid], asked, ABOUT, NOW, Past())
    assert lacking.missing == ("0 of 1 by the group legal count",)


def test_one_key_does_not_fill_a_group_and_count_for_somebody_else():
    asked = Requirement(count=1, groups={"ops": Group(("b",), 1)})
    shared = [vote("a", "k", 1), vote("b", "k", 2)]

    assert judge(shared, asked, ABOUT, NOW, Past()).allowed
    two = msgspec.structs.replace(asked, count=2)
    assert not judge(shared, two, ABOUT, NOW, Past()).allowed


def test_many_who_share_keys_are_never_counted_too_often():
    """More ways to choose than are looked at: what is found then is too few, never too many."""
    votes = [vote(f"p{n}", f"k{(n + step) % 20}", 100 * step + n)
             for n in range(21) for step in (0, 1, 2)]  # fmt: skip
    verdict = judge(votes, Requirement(count=21), ABOUT, NOW, Past())

    assert not verdict.allowed
    assert len({one.key for one in verdict.counted}) == len(verdict.counted)


PRINCIPALS = st.sampled_from(["ann@x", "bob@x", "Bob@x", "cid@x", "author@x"])
ANY = st.builds(
    lambda key, agent, stray, **changed: genuine(
        key, agent=agent, name="stray.json" if stray else None, **changed
    ),
    key=st.sampled_from(["k1", "k2", "k3"]),
    agent=st.sampled_from([False, False, False, True]),
    stray=st.sampled_from([False, False, False, True]),
    principal=PRINCIPALS,
    role=st.sampled_from(["person", "person", "person", "agent"]),
    plan=st.sampled_from([ABOUT.plan, ABOUT.plan, "sha256:" + "c" * 64]),
    expires=st.sampled_from([None, "2026-06-02T12:00:00Z", NOW]),
    nonce=st.sampled_from([f"{number:032x}" for number in range(8)]),
    decision=st.sampled_from(["approve"] * 9 + ["reject"]).map(str),
).map(
    lambda one: (
        genuine(
            one.key,
            agent=one.agent,
            name=one.name,
            **{**msgspec.structs.asdict(one.statement), "expires": None},
        )
        if one.statement.decision == "reject"
        else one
    )
)
SOME = st.lists(ANY | st.builds(Dubious, st.text(max_size=3), st.just("no")), max_size=7)
ASKED = st.builds(
    Requirement,
    count=st.integers(0, 3),
    groups=st.dictionaries(
        st.just("ops"),
        st.builds(Group, st.lists(PRINCIPALS, max_size=2).map(tuple), st.integers(1, 2)),
        max_size=1,
    ),
    exclude_author=st.booleans(),
    bind=st.sampled_from(["plan", "effect"]),
)
PAST = st.builds(Past, spent=st.frozensets(st.just("0" * 32)))


def allowed(items, asked, before):
    return judge(items, asked, ABOUT, NOW, before).allowed


@given(SOME, ASKED, PAST, ANY)
def test_a_rejection_more_never_allows(items, asked, before, one):
    rejection = genuine(
        one.key, principal=one.statement.principal, nonce=one.statement.nonce, decision="reject"
    )

    assert not allowed([*items, rejection], asked, before)


@given(SOME, ASKED, PAST)
def test_an_approval_less_never_allows(items, asked, before):
    if not allowed(items, asked, before):
        for number, one in enumerate(items):
            if isinstance(one, Dubious) or one.statement.decision == "approve":
                assert not allowed(items[:number] + items[number + 1 :], asked, before)


@given(SOME, ASKED, PAST, st.randoms(use_true_random=False))
def test_the_order_decides_nothing(items, asked, before, chance):
    shuffled = list(items)
    chance.shuffle(shuffled)
    one = judge(items, asked, ABOUT, NOW, before)
    other = judge(shuffled, asked, ABOUT, NOW, before)

    assert (one.allowed, one.missing, one.counted) == (other.allowed, other.missing, other.counted)
    assert sorted(map(str, one.standings)) == sorted(map(str, other.standings))


@given(SOME, ASKED, PAST, ANY)
def test_an_agent_an_author_or_a_copy_more_never_allows(items, asked, before, one):
    if not allowed(items, asked, before):
        more = [msgspec.structs.replace(one, agent=True), *items]
        if asked.exclude_author:
            more.append(genuine("k9", principal="author@x", nonce="9" * 32))
        for item in more:
            assert not allowed([*items, item], asked, before)


def exhaustive(items, asked, before):
    """The same question by trying every set; each statement is looked at alone first."""
    worth = [judge([one], asked, ABOUT, NOW, before).standings[0].worth for one in items]
    votes = [one for one, found in zip(items, worth, strict=True) if found == "counts"]
    for size in range(len(votes) + 1):
        for chosen in combinations(votes, size):
            parts = (
                [one.statement.principal.lower() for one in chosen],
                [one.key for one in chosen],
                [one.statement.nonce for one in chosen],
            )
            if any(len(set(part)) != len(part) for part in parts):
                continue
            if len(chosen) >= asked.count and all(
                sum(who in map(str.lower, group.principals) for who in parts[0]) >= group.require
                for group in asked.groups.values()
            ):
                return "blocks" not in worth
    return False


@given(SOME, ASKED, PAST)
def test_a_plan_is_allowed_exactly_where_some_set_fills_all(items, asked, before):
    assert allowed(items, asked, before) == exhaustive(items, asked, before)


@given(SOME, ASKED, PAST)
def test_those_who_counted_share_nothing(items, asked, before):
    counted = judge(items, asked, ABOUT, NOW, before).counted

    for part in ("key", "nonce"):
        assert len({getattr(one, part) for one in counted}) == len(counted)
    assert len({one.principal.lower() for one in counted}) == len(counted)


def record(event, evidence=""):
    return audit.Record(
        seq=1, prev=audit.GENESIS, time="2026-01-02T03:04:05.678Z", event=event, run="r",
        plan="p", actor="a", evidence=evidence,
    )  # fmt: skip


def test_the_log_tells_which_nonces_are_used_up_and_who_rejected():
    counted = judge([genuine()], Requirement(count=1), ABOUT, NOW, Past()).counted
    began = record("started", "durability none: x; " + approval.used(counted))

    assert approval.past([began]).spent == frozenset()
    assert approval.past([began, record("stopped")]).spent == frozenset()
    assert approval.past([began, record("finished")]).spent == {"0" * 32}
    assert approval.past([record("started"), record("finished")]).spent == frozenset()
    assert approval.past([record("rejected", "bob@x SHA256:k statement d")]).rejected_by == {
        "bob@x"
    }
