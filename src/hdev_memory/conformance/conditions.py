"""Checks of preconditions: nothing is written over what was not expected."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence

from hdev_memory.backends.base import (
    Backend,
    Change,
    Drifted,
    Failed,
    Put,
    Receipt,
    Session,
    Stored,
)
from hdev_memory.conformance.subject import NotApplicable, Subject, broken, same
from hdev_memory.core.entry import Entry


def create_over_existing(subject: Subject) -> None:
    theirs = subject.made("a", b"theirs")
    subject.drifts(subject.put("a", b"ours"), theirs)
    subject.stands("a", b"theirs")


def stale_overwrite(subject: Subject) -> None:
    theirs = subject.made("a", b"theirs")
    stale = subject.state(b"what we saw")
    subject.drifts(subject.put("a", b"ours", before=stale), theirs)
    subject.stands("a", b"theirs")


def stale_metadata(subject: Subject) -> None:
    theirs = subject.made("a", b"same", {"k": "theirs"})
    stale = subject.state(b"same", {"k": "what we saw"})
    subject.drifts(subject.put("a", b"same", {"k": "ours"}, before=stale), theirs)
    same(subject.entry("a").metadata.get("k"), "theirs", "the metadata")


def stale_removal(subject: Subject) -> None:
    theirs = subject.made("a", b"theirs")
    subject.drifts(subject.remove("a", subject.state(b"what we saw")), theirs)
    subject.stands("a", b"theirs")


def interleaved_create(subject: Subject) -> None:
    _interleaved(subject, "create", subject.put("a", b"ours"), subject.put("a", b"theirs"))


def interleaved_overwrite(subject: Subject) -> None:
    before = subject.made("a", b"before")
    _interleaved(
        subject,
        "overwrite",
        subject.put("a", b"ours", before=before),
        subject.put("a", b"theirs", before=before),
    )


def interleaved_removal(subject: Subject) -> None:
    before = subject.made("a", b"before")
    _interleaved(
        subject,
        "removal",
        subject.remove("a", before),
        subject.put("a", b"theirs", before=before),
    )


def _interleaved(subject: Subject, what: str, ours: Change, theirs: Put) -> None:
    """Somebody else writes after our look and before our effect: in the intent, where that is."""
    happened: list[Receipt] = []

    def meanwhile(changes: Sequence[Change]) -> None:
        with subject.connection() as other:
            happened.extend(subject.write(theirs, through=other))

    (receipt,) = subject.write(ours, session=Session(intend=meanwhile))
    same(happened, [Stored(key=theirs.key, state=theirs.after)], "the receipt of the other writer")
    found = subject.read("a")
    kept = isinstance(found, Entry) and found.content == b"theirs"
    told = isinstance(receipt, Drifted | Failed)
    interleaved = subject.record.interleaved
    interleaved[what] = kept and told
    lost = [name for name, seen in interleaved.items() if not seen]
    subject.observe(
        "cas",
        f"lost updates between look and effect ({', '.join(lost)})"
        if lost
        else f"kept {len(interleaved)} of {len(interleaved)} updates between look and effect",
    )
    declared = subject.capabilities.cas
    if declared != "atomic":
        if kept and told:
            subject.note(f"cas is declared `{declared}`, and the other update was kept")
        raise NotApplicable(f"cas is declared `{declared}`")
    if not kept:
        broken("the update of the other writer to stand (cas is declared `atomic`)", found)
    if not told:
        broken("a receipt that tells of the other writer", receipt)


def _together(subject: Subject, work: Callable[[int, Backend], None], count: int) -> None:
    """Let several writers work at once, every other one through a connection of its own."""
    start = threading.Barrier(count)
    errors: list[Exception] = []

    def writer(number: int) -> None:
        with contextlib.ExitStack() as stack:
            try:
                own = stack.enter_context(subject.connection()) if number % 2 else subject.backend
                start.wait()
                work(number, own)
            except Exception as error:  # noqa: BLE001 - carried to the thread of the check
                start.abort()
                errors.append(error)

    threads = [threading.Thread(target=writer, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            thread.join()
    finally:  # after an interrupt too: what they still write must be there to be cleaned
        for thread in threads:
            thread.join()
    real = [error for error in errors if not isinstance(error, threading.BrokenBarrierError)]
    if errors:
        raise (real or errors)[0]


def one_winner(subject: Subject) -> None:
    subject.require_atomic()
    receipts: list[Receipt] = []

    def contend(number: int, backend: Backend) -> None:
        receipts.extend(subject.write(subject.put("a", b"%d" % number), through=backend))

    _together(subject, contend, 8)
    winners = [receipt for receipt in receipts if isinstance(receipt, Stored)]
    same(len(winners), 1, "the number of writers that created one entry")
    same(subject.state(subject.entry("a").content), winners[0].state, "what stands")


def no_lost_update(subject: Subject) -> None:
    subject.require_atomic()
    subject.made("count", b"0")
    acknowledged: list[int] = []
    kept: list[str] = []

    def count(number: int, backend: Backend) -> None:
        for _ in range(10):
            found = subject.read("count", through=backend)
            if not isinstance(found, Entry):
                continue
            counted = int(found.content.split()[0]) + 1
            content = b"%d by %d" % (counted, number)
            put = subject.put("count", content, before=subject.state(found.content))
            (receipt,) = subject.write(put, through=backend)
            if isinstance(receipt, Stored):
                acknowledged.append(counted)
            if receipt.kept:
                kept.append(receipt.kept)

    _together(subject, count, 2)
    if not acknowledged:
        broken("at least one of several writers to get through", acknowledged)
    if kept:  # displaced, but not lost: a receipt tells the name under which it was set aside
        subject.note(f"{len(kept)} versions were set aside while several writers met")
        return
    counts = sorted(acknowledged)
    same(counts, sorted(set(counts)), "the counts that were acknowledged, each once")
    stands = int(subject.entry("count").content.split()[0])
    if stands < counts[-1]:  # it may be higher: a writer that was replaced at once is not told so
        broken(f"a count of {counts[-1]} or more to stand", stands)
