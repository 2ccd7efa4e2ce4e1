"""The comparison of a plan's log with its server's, case by case."""

import pytest

from hdev_memory.core.audit import GENESIS, Record, Write
from hdev_memory.core.compare import Later, compare
from hdev_memory.core.entry import Normalisation

PLAN, OTHER = "sha256:" + "a" * 64, "sha256:" + "b" * 64
TIME = "2026-01-02T03:04:05.678Z"
OLD, NEW, WRONG = (Normalisation().state(text, {}) for text in (b"old", b"new", b"wrong"))
UNVERIFIED = "unverified"


def ours(event, key="a", run="r1", **more):
    return Record(
        seq=1, prev=GENESIS, time=TIME, event=event, run=run, plan=PLAN, actor="ann", key=key,
        **more,
    )  # fmt: skip


def intent(key="a", run="r1", before=OLD, after=NEW):
    return ours("intent", key, run, before=before, after=after)


def done(key="a", run="r1", before=OLD, after=NEW):
    return ours("done", key, run, before=before, after=after)


def theirs(key="a", run="r1", plan=PLAN, *, before=OLD, after=NEW, status="done", by="ci", seq=1):
    return Write(
        seq=seq, prev=GENESIS, time=TIME, by=by, role="write", key=key, status=status,
        before=before, after=after, plan=plan, run=run,
    )  # fmt: skip


def compared(here, there, *, exact=True):
    return compare(here, there, PLAN, exact=exact, unverified=UNVERIFIED)


DONE = [intent(), done()]


@pytest.mark.parametrize("status", ["done", "recovered"])
def test_both_tell_the_same(status):
    found = compared(DONE, [theirs(status=status)])

    assert (found.agree, found.settled, found.disagreements, found.later) == (1, 0, (), ())


@pytest.mark.parametrize(
    ("here", "there", "kind"),
    [
        ([], [theirs()], "missing here"),
        (DONE, [theirs(), theirs()], "missing here"),
        (DONE, [theirs(run="r2")], "missing there"),
        (DONE, [], "missing there"),
        (DONE, [theirs(plan=OTHER)], "missing there"),
        ([intent(), ours("failed", evidence="read-back")], [theirs()], "failed here"),
        ([intent(), ours("drift")], [theirs()], "failed here"),
        (DONE, [theirs(status="unknown")], "unknown there"),
        (DONE, [theirs(after=WRONG)], "differs"),
        (DONE, [theirs(after=None)], "differs"),
        (DONE, [theirs(before=None)], "differs"),
        ([done()], [], "missing there"),
        ([done(after=WRONG)], [theirs()], "differs"),
        ([intent(), done(after=WRONG)], [theirs()], "differs"),
        ([intent(), done(before=None)], [theirs()], "differs"),
    ],
)
def test_what_is_told_in_two_ways_is_found(here, there, kind):
    assert kind in [one.kind for one in compared(here, there).disagreements]


@pytest.mark.parametrize("here", [[intent()], [intent(), ours("failed", evidence=UNVERIFIED)]])
def test_the_server_settles_what_the_plans_log_does_not_know(here):
    found = compared(here, [theirs()])

    assert (found.agree, found.settled, found.disagreements) == (0, 1, ())


@pytest.mark.parametrize(
    ("here", "there"),
    [
        ([intent()], []),
        ([intent(), ours("failed", evidence="read-back")], []),
        ([intent(), ours("failed", evidence="read-back")], [theirs(status="unknown")]),
    ],
)
def test_what_neither_says_was_done_is_no_disagreement(here, there):
    found = compared(here, there)

    assert (found.agree, found.settled, found.disagreements) == (0, 0, ())


def test_states_before_are_not_compared_where_line_ends_are_not_exact():
    assert compared(DONE, [theirs(before=WRONG)], exact=False).disagreements == ()


def test_the_last_of_those_who_wrote_later_is_told_and_is_no_disagreement():
    there = [
        theirs(plan="", by="before", seq=1),
        theirs(seq=2),
        theirs(plan="", by="bob", seq=3),
        theirs(plan=OTHER, by="cy", seq=4),
        theirs(key="elsewhere", plan="", by="dee", seq=5),
    ]
    found = compared(DONE, there)

    assert found.disagreements == ()
    assert found.later == (Later(key="a", by="cy", time=TIME, plan=OTHER, seq=4),)
