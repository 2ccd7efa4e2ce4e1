"""Checks of what lasts: acknowledged writes, the intent before them, changes cut off."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from msgspec.structs import replace

from hdev_memory.backends.base import Change, Drifted, Failed, Removed, Session, Stored
from hdev_memory.conformance.subject import Subject, broken, same


def found_again(subject: Subject) -> None:
    first = subject.made("a", b"one", {"k": 1})
    subject.made("b", b"other")
    gone = subject.made("c")
    subject.write(
        subject.put("a", b"two", {"k": 2}, before=first),
        subject.remove("c", gone),
    )
    with subject.connection() as other:
        subject.stands("a", b"two", through=other)
        same(subject.entry("a", through=other).metadata.get("k"), 2, "the metadata")
        subject.stands("b", b"other", through=other)
        subject.absent("c", through=other)
        listed = subject.names(other.keys(subject.scope))
    same([name for name in listed if name != "c"], ["a", "b"], "the names listed")
    subject.observe(
        "durability", "found again by a second connection; power loss is not seen from outside"
    )


def nothing_before_intent(subject: Subject) -> None:
    before = subject.made("old", b"before")
    gone = subject.made("gone", b"before")
    seen: list[object] = []

    def look(changes: Sequence[Change]) -> None:
        with subject.connection() as other:
            subject.absent("new", through=other)
            subject.stands("old", b"before", through=other)
            subject.stands("gone", b"before", through=other)
        seen.append(changes)

    receipts = subject.write(
        subject.put("new", b"after"),
        subject.put("old", b"after", before=before),
        subject.remove("gone", gone),
        session=Session(intend=look),
    )
    same([type(receipt) for receipt in receipts], [Stored, Stored, Removed], "the receipts")
    same(len(seen), 1, "how often the intent was asked for")


def intent_names_changes(subject: Subject) -> None:
    before = subject.made("old", b"before")
    asked: list[list[str]] = []

    def note(changes: Sequence[Change]) -> None:
        asked.append([change.key for change in changes])

    wrong = replace(subject.put("a"), key=f"{subject.folder}/../b")
    good = [subject.put("new"), subject.put("old", b"after", before=before)]
    receipts = subject.backend.write(
        [good[0], wrong, good[1]], subject.normalisation, Session(intend=note)
    )
    subject.record.keys.update(change.key for change in good)

    same([type(receipt) for receipt in receipts], [Stored, Failed, Stored], "the receipts")
    same(asked, [[change.key for change in good]], "the changes that the intent was told")


def failing_intent(subject: Subject) -> None:
    before = subject.made("old", b"before")

    class Refused(Exception):
        pass

    def refuse(changes: Sequence[Change]) -> None:
        raise Refused

    with contextlib.suppress(Refused):
        receipts = subject.write(
            subject.put("new", b"after"),
            subject.put("old", b"after", before=before),
            session=Session(intend=refuse),
        )
        broken("a write to raise what the intent raised", receipts)
    subject.absent("new")
    subject.stands("old", b"before")
    same(subject.names(subject.backend.keys(subject.scope)), ["old"], "the names listed")


def cut_off_is_finished(subject: Subject) -> None:
    old, new = subject.state(b"old", {"k": "old"}), subject.state(b"new", {"k": "new"})
    halves = {"before": old, "after": new, "content": subject.state(b"new", {"k": "old"})}
    halves["metadata"] = subject.state(b"old", {"k": "new"})
    for name, half in halves.items():
        content = b"new" if half.content == new.content else b"old"
        value = "new" if half.metadata == new.metadata else "old"
        subject.made(name, content, {"k": value})
        put = subject.put(name, b"new", {"k": "new"}, before=old, resumed=True)
        (receipt,) = subject.write(put)
        same(receipt, Stored(key=put.key, state=new), f"the receipt of one cut off: {name}")
        subject.stands(name, b"new")
        (receipt,) = subject.write(subject.put(name, b"new", {"k": "new"}, before=old))
        same(receipt, Drifted(key=put.key, found=new), "the receipt of one that was not cut off")


def cut_off_removal_is_finished(subject: Subject) -> None:
    state = subject.made("there", b"old")
    for name in ("there", "gone"):
        (receipt,) = subject.write(subject.remove(name, state, resumed=True))
        same(receipt, Removed(key=subject.key(name)), f"the receipt of one cut off: {name}")
        subject.absent(name)


def resumed_still_guards(subject: Subject) -> None:
    theirs = subject.made("a", b"theirs")
    old = subject.state(b"old")
    subject.drifts(subject.put("a", b"new", before=old, resumed=True), theirs)
    subject.drifts(subject.remove("a", old, resumed=True), theirs)
    subject.stands("a", b"theirs")


def tidying(subject: Subject) -> None:
    subject.made("a", b"one")
    subject.made("d/b", b"two")
    listed = subject.listed()
    keys = [subject.key("a"), subject.key("d/b")]
    kept = subject.backend.tidy(["0"], keys, {}, subject.normalisation)

    same(list(kept), [], "the names kept")
    same(subject.listed(), listed, "the entries")
