"""Checks of what is shown: entries, absence, answers in order, listings."""

from __future__ import annotations

from hdev_memory.backends.base import Drifted, Failed, Removed, Scope, Stored
from hdev_memory.conformance.subject import NotApplicable, Subject, broken, same
from hdev_memory.core.digest import sha256
from hdev_memory.core.entry import BOOKKEEPING, Absent, EntryState, Parts, Unreadable


def new_entry(subject: Subject) -> None:
    metadata = {"k": "v"}
    subject.made("a/b", b"hello\n", metadata)

    found = subject.entry("a/b")
    same(found.content, b"hello\n", "the content")
    same(subject.normalisation.metadata(found.metadata), metadata, "the metadata")


def overwrite(subject: Subject) -> None:
    before = subject.made("a", b"one")
    change = subject.put("a", b"two", before=before)
    (receipt,) = subject.write(change)

    same(receipt, Stored(key=change.key, state=change.after), "the receipt")
    subject.stands("a", b"two")


def removal(subject: Subject) -> None:
    before = subject.made("a")
    change = subject.remove("a", before)
    (receipt,) = subject.write(change)

    same(receipt, Removed(key=change.key), "the receipt")
    subject.absent("a")
    same(subject.listed(), [], "what is listed")


def metadata_round_trip(subject: Subject) -> None:
    sent = {
        "k": [1, {"ü": None, "deep": {"list": [[], {}]}}],
        "flag": True,
        "empty": "",
        "text": "a\nb \U0001f600",
        "number": -(2**53) + 1,
        "version": 7,
        "created": "then",
    }
    subject.made("a", metadata=sent)

    found = subject.entry("a").metadata
    if subject.capabilities.metadata == "merge":  # such a store adds bookkeeping of its own
        found = {name: value for name, value in found.items() if name in sent}
    same(found, sent, "the metadata")


def metadata_as_declared(subject: Subject) -> None:
    before = subject.made("a", metadata={"old": 1})
    subject.write(subject.put("a", metadata={"new": 2}, before=before))

    found = subject.entry("a").metadata
    left = {name: value for name, value in found.items() if name not in BOOKKEEPING}
    subject.observe("metadata", "merge" if "old" in left else "replace")
    if subject.capabilities.metadata == "merge":
        if left == {"new": 2}:
            subject.note("metadata is declared `merge`, and was replaced")
        same(left.get("new"), 2, "the metadata that was sent")
    else:
        same(left, {"new": 2}, "the metadata after an overwrite (declared `replace`)")


def reading_in_order(subject: Subject) -> None:
    for name in ("here", "d/here"):
        subject.made(name, name.encode())
    asked = ["here", "gone", "d/gone", "d/here", "here", "d"]
    answers = list(subject.backend.read([subject.key(name) for name in asked]))

    same([a.key for a in answers], [subject.key(name) for name in asked], "the keys answered")
    for name, answer in zip(asked, answers, strict=True):
        if name.endswith("here"):
            same(answer, subject.read(name), f"the answer for {name}")
            subject.stands(name, name.encode())
        elif not (isinstance(answer, Unreadable) and name == "d" and subject.beside_folder):
            same(answer, Absent(key=subject.key(name)), f"the answer for {name}")


def absence(subject: Subject) -> None:
    subject.made("a")
    for name in ("b", "none/b", "aa", "none"):
        subject.absent(name)


def removing_nothing(subject: Subject) -> None:
    change = subject.remove("a", subject.state())
    (receipt,) = subject.write(change)

    same(receipt, Drifted(key=change.key, found=None), "the receipt")


def overwriting_nothing(subject: Subject) -> None:
    change = subject.put("a", before=subject.state(b"what we saw"))
    (receipt,) = subject.write(change)

    same(receipt, Drifted(key=change.key, found=None), "the receipt")
    subject.absent("a")


def looking_creates_nothing(subject: Subject) -> None:
    before = list(subject.backend.keys(subject.scope))
    for name in ("a", "d/e/f"):
        subject.absent(name)
        subject.backend.obstacle(subject.key(name))
        subject.backend.parts(subject.key(name), subject.normalisation)
    subject.listed()

    same(list(subject.backend.keys(subject.scope)), before, "the keys")
    for name in ("a", "d/e/f", "d", "d/e"):
        subject.absent(name)


def unreadable(subject: Subject) -> None:
    damage = subject.faults.damage
    if damage is None:
        raise NotApplicable("only somebody inside of the store can make an entry unreadable")
    subject.made("a", b"precious")
    with damage(subject.key("a")):
        found = subject.read("a")
        listed = subject.listed()
        receipts = subject.write(subject.put("a", b"ours"))

    if not isinstance(found, Unreadable):
        broken("what cannot be read to be told as unreadable", found)
    same([type(item) for item in listed], [Unreadable], "what the snapshot shows")
    if not isinstance(receipts[0], Failed):
        broken("the receipt of a create over it to be Failed", receipts[0])
    subject.stands("a", b"precious")


def complete_and_sorted(subject: Subject) -> None:
    names = ["a-b", "a0", "b/c/d", "b/c2", "b-c", "z", "B", "é"]
    names += [] if subject.beside_folder else ["b", "b/c"]
    names += ["a.b"] if subject.capabilities.names == "any" else []
    for name in sorted(names, reverse=True):
        subject.made(name)

    wanted = sorted(subject.key(name) for name in names)
    same([item.key for item in subject.listed()], wanted, "the keys of the snapshot")
    same(list(subject.backend.keys(subject.scope)), wanted, "the keys listed")


def scope(subject: Subject) -> None:
    for name in ("a/x", "b/x", "b/y", "b/draft-z"):
        subject.made(name)
    wanted = Scope(include=[f"/{subject.folder}/b/"], exclude=["draft-*", "y"])
    found = subject.backend.snapshot(wanted, subject.normalisation)

    same([item.key for item in found], [subject.key("b/x")], "the keys of the snapshot")
    same(list(subject.backend.keys(wanted)), [subject.key("b/x")], "the keys listed")


def states_of_now(subject: Subject) -> None:
    first = subject.made("a", b"one", {"k": 1})
    gone = subject.made("b")
    subject.made("c", b"three")
    subject.listed()
    change = subject.put("a", b"two", {"k": 2}, before=first)
    subject.write(change, subject.remove("b", gone))

    wanted = [(subject.key("a"), change.after), (subject.key("c"), subject.state(b"three"))]
    found = [(i.key, i.state) if isinstance(i, EntryState) else i for i in subject.listed()]
    same(found, wanted, "the snapshot")


def healthy(subject: Subject) -> None:
    changes = [subject.put(f"d{n % 3}/k{n:03}", b"%d" % n) for n in range(70)]
    receipts = subject.write(*changes)

    wanted = {change.key: change.after for change in changes}
    same(list(receipts), [Stored(key=c.key, state=c.after) for c in changes], "the receipts")
    found = [(i.key, i.state) if isinstance(i, EntryState) else i for i in subject.listed()]
    same(found, sorted(wanted.items(), key=lambda item: item[0]), "the snapshot")


def parts(subject: Subject) -> None:
    metadata = {"k": 1}
    state = subject.made("a", b"content", metadata)
    normal = subject.normalisation

    wanted = Parts(content=sha256(b"content"), metadata=state.metadata)
    same(subject.backend.parts(subject.key("a"), normal), wanted, "the parts of an entry")
    found = subject.backend.parts(subject.key("b"), normal)
    same(found, Parts(content=None, metadata=None), "the parts of nothing")
