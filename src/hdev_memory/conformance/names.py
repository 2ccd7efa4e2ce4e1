"""Checks that names stay apart, and that no key leads elsewhere."""

from __future__ import annotations

from msgspec.structs import replace

from hdev_memory.backends.base import Failed, Remove, Removed, Stored
from hdev_memory.conformance.subject import NotApplicable, Subject, broken, same
from hdev_memory.core.entry import Entry

_NAMES = [
    "notes/v1.2",
    "c#",
    "c?x",
    "100%41",
    "ä/日本",
    "a b",
    "+",
    "a&b=c;d",
    "'\"",
    "~",
    "-x",
    "$HOME",
]


def unusual_names(subject: Subject) -> None:
    _apart(subject, [name for name in _NAMES if subject.capabilities.objection(name) is None])


def names_of_other_case(subject: Subject) -> None:
    _apart(subject, ["Case", "case", "CASE"])


def names_of_other_normal_form(subject: Subject) -> None:
    _apart(subject, ["caf\u00e9", "cafe\u0301", "\u212b", "\u00c5"])


def names_that_decode(subject: Subject) -> None:
    _apart(subject, ["100%41", "100A", "a+b", "a b", "a%2Fb", "a/b", "c%20d", "c d"])


def names_with_dots(subject: Subject) -> None:
    if subject.capabilities.names == "no-suffix":
        subject.observe("names", "not tried")
        raise NotApplicable("names are declared `no-suffix`")
    _apart(subject, ["v1", "v1.2", "v1.3", "v1.", ".v1", "v1.md"])
    subject.observe("names", "any")


def _apart(subject: Subject, names: list[str]) -> None:
    """Each name is an entry of its own."""
    for name in names:
        subject.made(name, name.encode())
    for name in names:
        subject.stands(name, name.encode())
    same(subject.names(subject.backend.keys(subject.scope)), sorted(names), "the names listed")


def keys_that_escape(subject: Subject) -> None:
    stray = subject.prefix + "-escaped"
    for key in (
        f"../{stray}", f"/{stray}", f"{subject.folder}/../{stray}", f"{subject.folder}/./{stray}",
        f"{subject.folder}//b", f"{subject.folder}/b/", f"{subject.folder}\\b",
        f"{subject.folder}/a\nb", f"{subject.folder}/a\0b",
    ):  # fmt: skip
        change = subject.put("a")
        receipts = subject.backend.write([replace(change, key=key)], subject.normalisation)
        answers = list(subject.backend.read([key]))
        if any(isinstance(receipt, Stored) for receipt in receipts):
            subject.backend.write([Remove(key=key, before=change.after)], subject.normalisation)
        if [type(receipt) for receipt in receipts] != [Failed]:
            broken(f"a write of the key {key!r} to fail", receipts)
        if len(answers) != 1 or isinstance(answers[0], Entry):
            broken(f"no entry under the key {key!r}", answers)
    same(subject.listed(), [], "what is listed")


def neighbours(subject: Subject) -> None:
    around = ["a-b", "aa", "a0", "b", "d/a"]
    for name in around:
        subject.made(name, name.encode(), {"name": name})
    listed = subject.listed()
    first = subject.made("a")
    second = subject.put("a", b"other", before=first)
    subject.write(second)
    for name in around:
        subject.stands(name, name.encode())
    subject.write(subject.remove("a", second.after))

    same(subject.listed(), listed, "the entries beside the one that was changed")


def entry_beside_folder(subject: Subject) -> None:
    if subject.beside_folder:
        subject.observe("beside", "not tried for /")
        raise NotApplicable("an entry is declared not to stand beside a folder of its name")
    first = subject.made("a", b"entry")
    subject.made("a/b", b"below")
    subject.stands("a", b"entry")
    (receipt,) = subject.write(subject.remove("a", first))

    same(receipt, Removed(key=subject.key("a")), "the receipt")
    subject.stands("a/b", b"below")
    same(subject.names(subject.backend.keys(subject.scope)), ["a/b"], "the names listed")
    subject.observe("beside", "an entry stood beside a folder of its name")


def obstacles(subject: Subject) -> None:
    suffixes = [suffix for suffix in subject.capabilities.beside if suffix.endswith("/")]
    for number, suffix in enumerate(suffixes):
        subject.made(f"e{number}")
        subject.made(f"f{number}{suffix}b")
        list(subject.backend.keys(subject.scope))
        for name in (f"e{number}{suffix}b", f"f{number}"):
            if subject.backend.obstacle(subject.key(name)) is None:
                broken(f"an obstacle to {name}, which is declared not to stand there", None)
    reason = subject.backend.obstacle(subject.key("free"))
    same(reason, None, "the obstacle to a name that nothing is near")
