"""Checks of failures that are told, and of limits that are declared."""

from __future__ import annotations

from msgspec.structs import replace

from hdev_memory.backends.base import Drifted, Failed, Stored
from hdev_memory.conformance.subject import NotApplicable, Subject, broken, same
from hdev_memory.core.entry import Entry


def one_bad_entry(subject: Subject) -> None:
    bad = replace(subject.put("a"), key=f"{subject.folder}/../b")
    changes = [subject.put("a"), bad, subject.put("c"), subject.put("d", before=subject.state())]
    receipts = subject.backend.write(changes, subject.normalisation)
    subject.record.keys.update(change.key for change in changes if change is not bad)

    wanted = [Stored, Failed, Stored, Drifted]
    same([type(receipt) for receipt in receipts], wanted, "the receipts")
    same([r.key for r in receipts], [change.key for change in changes], "the keys of the receipts")
    same(subject.names(subject.backend.keys(subject.scope)), ["a", "c"], "the names listed")


def failures_are_told(subject: Subject) -> None:
    bad = replace(subject.put("a"), key=f"{subject.folder}/../b")
    (receipt,) = subject.backend.write([bad], subject.normalisation)
    if not isinstance(receipt, Failed):
        broken("the receipt to be Failed", receipt)
    same(receipt.intact, True, "whether the receipt says that nothing was changed")
    if not receipt.reason.strip() or not receipt.reason.isprintable():
        broken("a reason for people, on one line", receipt.reason)


def receipts_are_what_stands(subject: Subject) -> None:
    lying = replace(subject.put("a", b"sent"), after=subject.state(b"never sent"))
    (receipt,) = subject.write(lying)
    found = subject.read("a")
    if isinstance(receipt, Stored):
        stands = subject.state(found.content) if isinstance(found, Entry) else None
        same(receipt.state, stands, "the state in the receipt")


_MOST_SENT = 8 * 1024 * 1024
"""No content larger than this is sent to find out about a limit."""


def entry_limit(subject: Subject) -> None:
    limit = subject.capabilities.max_entry_bytes
    if limit is None or limit >= _MOST_SENT:
        subject.observe("max_entry_bytes", "not tried")
        raise NotApplicable("no limit on content is declared, or it is large")
    subject.made("most", b"x" * limit)
    subject.stands("most", b"x" * limit)
    (receipt,) = subject.write(subject.put("more", b"x" * (limit + 1)))
    subject.observe("max_entry_bytes", f"{limit} bytes were accepted")
    if isinstance(receipt, Stored):
        subject.note("content beyond the declared limit was accepted")
        return
    if not (isinstance(receipt, Failed) and receipt.intact):
        broken("content beyond the limit to fail, with nothing changed", receipt)
    subject.absent("more")


def name_limit(subject: Subject) -> None:
    limit = subject.capabilities.max_segment_bytes
    length = min(limit or 241, 1023 - len(subject.folder))
    names = ["n" * length, "n" * (length - 1) + "m"]
    for name in names:
        subject.made(name, name[-1].encode())
    for name in names:
        subject.stands(name, name[-1].encode())
    subject.observe("max_segment_bytes", f"{length} bytes were accepted")
    if limit is None or length < limit:
        return
    change = subject.put("m" * (length + 1))
    (receipt,) = subject.write(change)
    if isinstance(receipt, Stored):
        subject.note("a name beyond the declared limit was accepted")
    elif not isinstance(receipt, Failed):
        broken("a name beyond the limit to fail", receipt)


def longest_key(subject: Subject) -> None:
    left = 1024 - len(subject.folder) - 1
    name = "/".join(c * 200 for c in "abcdefgh")[: left - 1].rstrip("/")
    names = [name + "x", name + "y"]
    for name in names:
        subject.made(name, name[-1].encode())

    for name in names:
        subject.stands(name, name[-1].encode())
    same(subject.names(subject.backend.keys(subject.scope)), names, "the names listed")
