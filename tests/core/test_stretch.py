"""Comparing by stretches comes to what comparing entry by entry comes to."""

from itertools import groupby

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from hdev_memory.core.diff import Rules, Unchanged, UnchangedStretch, diff
from hdev_memory.core.entry import (
    Capabilities,
    Entry,
    EntryState,
    Normalisation,
    State,
    Unreadable,
)
from hdev_memory.core.plan import UnchangedDigest
from hdev_memory.core.stretch import Stretch, is_plain, plain_line, read_line, state_line

NORMAL = Normalisation()
KEYS = st.sampled_from(
    [
        "a",
        "a-b",
        "a/b",
        "a/b-c",
        "a/b.md/c",
        "a/d",
        "a/b.md/c.md/x",
        "b",
        "b.md/a",
        "b.md/b",
        "global",
    ]
)
STORE = st.dictionaries(KEYS, st.sampled_from([b"", b"one", b"two", None]))
RULES = Rules(
    overwrite=True,
    delete=True,
    compare="all",
    capabilities=Capabilities(cas="guarded", durability="synced", beside=(".md/",)),
)


def states(store):
    return [
        NORMAL.entry_state(Entry(key=key, content=content, metadata={"k": key}))
        if content is not None
        else Unreadable(key=key, reason="broken")
        for key, content in sorted(store.items(), key=lambda item: item[0])
    ]


def stretched(items, cut):
    """The same items, those of one folder that follow one another in stretches of `cut`."""
    kind = lambda item: isinstance(item, EntryState) and item.key.rpartition("/")[0]  # noqa: E731
    for one, found in groupby(items, kind):
        group = list(found)
        if one is False:
            yield from group
            continue
        for start in range(0, len(group), cut):
            part = group[start : start + cut]
            yield Stretch(
                first=part[0].key,
                last=part[-1].key,
                count=len(part),
                size=sum(item.state.bytes for item in part),
                lines=b"".join(state_line(item.key, item.state) for item in part),
                metadata=msgspec.json.encode([item.metadata for item in part]),
            )


def singly(outcomes):
    for outcome in outcomes:
        if isinstance(outcome, UnchangedStretch):
            for entry in outcome.stretch.entries():
                yield Unchanged(key=entry.key, state=entry.state)
        else:
            yield outcome


@given(STORE, STORE, st.integers(1, 4), st.integers(1, 4))
def test_stretches_have_the_outcomes_of_their_entries(source, target, one, other):
    ours, theirs = states(source), states(target)
    expected = list(diff(ours, theirs, RULES))

    assert list(singly(diff(stretched(ours, one), stretched(theirs, other), RULES))) == expected
    assert list(singly(diff(stretched(ours, one), theirs, RULES))) == expected
    assert list(singly(diff(ours, stretched(theirs, other), RULES))) == expected


@given(STORE, st.integers(1, 4))
def test_a_stretch_is_its_entries_in_their_order(store, cut):
    items = states(store)
    found = []
    for item in stretched(items, cut):
        found += item.entries() if isinstance(item, Stretch) else [item]

    assert found == items


@given(STORE)
def test_a_digest_over_stretches_is_that_over_entries(store):
    items = [item for item in states(store) if isinstance(item, EntryState)]
    by_entry, by_stretch = UnchangedDigest(), UnchangedDigest()
    for item in items:
        by_entry.add(item.key, item.state)
    for stretch in stretched(items, 3):
        by_stretch.add_stretch(stretch)

    assert by_entry.result() == by_stretch.result()


@given(st.text(min_size=1))
def test_a_plain_line_is_the_line_of_its_state(key):
    state = State(content="a" * 64, metadata="b" * 64, bytes=7)
    if is_plain(key):
        assert plain_line(key, "a" * 64, "b" * 64, 7).encode() == state_line(key, state)


def test_most_keys_are_plain():
    assert is_plain("team/note-1.v2 (old)")
    assert read_line(state_line("k", State(content="a" * 64, metadata="b" * 64, bytes=1)))[0] == "k"
