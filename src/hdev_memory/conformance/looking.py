"""Checks of what a backend shows: entries, absence, names, exact bytes, listings."""

from __future__ import annotations

from msgspec.structs import replace

from hdev_memory.backends.base import Drifted, Failed, Remove, Removed, Scope, Stored
from hdev_memory.conformance.subject import (
    NotApplicable,
    Subject,
    broken,
    same,
)
from hdev_memory.core.digest import sha256
from hdev_memory.core.entry import (
    BOOKKEEPING,
    Absent,
    Entry,
    EntryState,
    Parts,
    Unreadable,
)

# basic


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
        elif not (isinstance(answer, Unreadable) and name == "d" and _beside_folder(subject)):
            same(answer, Absent(key=subject.key(name)), f"the answer for {name}")


# not-found


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


# names

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


def _beside_folder(subject: Subject) -> bool:
    return "/" in subject.capabilities.beside


def entry_beside_folder(subject: Subject) -> None:
    if _beside_folder(subject):
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


# integrity


def _comes_back(subject: Subject, *contents: bytes) -> None:
    for number, content in enumerate(contents):
        subject.made(f"c{number}", content)
    for number, content in enumerate(contents):
        subject.stands(f"c{number}", content)


def empty_content(subject: Subject) -> None:
    _comes_back(subject, b"")
    same(len(subject.listed()), 1, "the number of entries listed")


def byte_order_mark(subject: Subject) -> None:
    _comes_back(subject, b"\xef\xbb\xbfbom\n", b"\xef\xbb\xbf", b"a\xef\xbb\xbfb")


def blanks_at_the_ends(subject: Subject) -> None:
    _comes_back(subject, b"no newline", b"one\n", b"two\n\n", b"\n", b" ", b"\ta \n ", b"\n---\n")


def line_ends(subject: Subject) -> None:
    sent = b"a\r\nb\rc\n\r\n"
    subject.made("a", sent)
    found = subject.entry("a").content
    subject.observe("line_ends", "exact" if found == sent else "changed")
    if subject.capabilities.line_ends == "exact":
        same(found, sent, "the content (line ends are declared `exact`)")
        return
    if found == sent:
        subject.note("line ends are declared `lf`, and came back exactly")
    same(subject.normalisation.content(found), b"a\nb\nc\n\n", "the content, with LF line ends")


def every_script(subject: Subject) -> None:
    _comes_back(
        subject,
        "astral \U0001f600 e\u0301 \u00e9 \u202e\u2028\u2029\u0085\ufeff end".encode(),
        b"nul \0 escape \x1b[31m bell \x07 delete \x7f",
        b'{"content": "\\u0041\\n", "success": false}',
    )


def large_content(subject: Subject) -> None:
    size = min(1 << 20, subject.capabilities.max_entry_bytes or 1 << 20)
    line = b"%07d\n"
    content = b"".join(line % number for number in range(size // 8))[:size]
    _comes_back(subject, content)


# list


def complete_and_sorted(subject: Subject) -> None:
    names = ["a-b", "a0", "b/c/d", "b/c2", "b-c", "z", "B", "é"]
    names += [] if _beside_folder(subject) else ["b", "b/c"]
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
