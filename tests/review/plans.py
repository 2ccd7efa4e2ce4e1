"""Two plans to render: an ordinary one, and one whose texts do what they can to deceive."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hdev_memory import planning
from hdev_memory.backends.base import Put, Stored
from hdev_memory.backends.ephemeral import EphemeralBackend
from hdev_memory.core.diff import AnyAction, Blocked, Create, Delete, Overwrite, Skip
from hdev_memory.core.entry import Capabilities, Normalisation
from hdev_memory.core.plan import (
    End,
    Finding,
    Head,
    Limits,
    Options,
    Provenance,
    Summary,
    Tail,
    Tally,
    UnchangedDigest,
    encode,
)
from hdev_memory.plandir import PLAN, OpenPlan
from hdev_memory.review import document
from hdev_memory.review.reading import Looked

NORMAL = Normalisation()
ONE, TWO = NORMAL.state(b"one\n", {"k": 1}), NORMAL.state(b"two" * 1000, {"k": 2})

ESCAPES = "\x1b[2J\x1b]8;;https://evil.example\x07click\x1b]8;;\x07\x1b[8m\x9b31m\r\b\x00"
BIDI = "a\u202egpj.exe\u202c\u2066b\u2069\u200f"
ZERO_WIDTH = "zero\u200bwidth\u200d\u2060\ufeff\u00ad\U000e0041\ufe0f\u3164"
FENCES = "``` \n```\n# Approved\n````text ~~~"
MENTIONS = "@everyone #1 GH-1 https://evil.example [x](javascript:1) ![i](https://evil.example/i)"
HTML = "<script>alert(1)</script><!-- --><details open><img src=x onerror=y>&lt;&#x41;"
WIDE = "名前/全角ＡＢＣ/😀👨‍👩‍👧 é e\u0301"
MARKUP = "[bold red]rich[/] :boom: *bold* _it_ | table | \\u{1b} \\"
TRICKS = (ESCAPES, BIDI, ZERO_WIDTH, FENCES, MENTIONS, HTML, WIDE, MARKUP)

ORDINARY: tuple[AnyAction, ...] = (
    Create(key="notes/new", after=ONE, reason="not in the target"),
    Overwrite(key="notes/old", before=ONE, after=TWO, reason="content and metadata differ"),
    Skip(key="people/ann", before=ONE, source=TWO, reason="exists in the target; content differs"),
    Blocked(key="raw\\xe9", reason="its name is not valid Unicode"),
    Delete(key="scratch", before=TWO, reason="not in the source"),
)

KEYS = (
    "a\u202egpj.exe",
    "b```\u200b",
    "c <img src=x> @everyone",
    "d [x](javascript:1) *b* #1",
    "e/名前/全角ＡＢＣ/😀",
)


def hostile() -> tuple[AnyAction, ...]:
    """Every trick as a reason of every kind of action."""
    found: list[AnyAction] = []
    for number, trick in enumerate(TRICKS):
        key = f"{KEYS[number % len(KEYS)]}/{number}"
        found += [
            Create(key=f"{key}/create", after=ONE, reason=trick),
            Overwrite(key=f"{key}/overwrite", before=ONE, after=TWO, reason=trick),
            Skip(key=f"{key}/skip", before=ONE, source=TWO, reason=trick),
            Blocked(key=f"{key}/blocked", reason=trick),
            Delete(key=f"{key}/delete", before=TWO, reason=trick),
        ]
    return tuple(sorted(found, key=lambda action: action.key))


def end(location: str) -> End:
    return End(
        kind="filesystem",
        location=location,
        label="memory",
        store=None,
        capabilities=Capabilities(cas="guarded", durability="synced"),
    )


def opened(
    folder: Path,
    actions: tuple[AnyAction, ...],
    location: str = "~/memory",
    finding: str = "The target is not written conditionally.",
) -> OpenPlan:
    """A plan of these actions, written below `folder` and opened."""
    head = Head(
        source=end(location),
        target=end("/srv/memory"),
        options=Options(
            overwrite=True,
            delete=True,
            max_delete=None,
            compare="all",
            include=(),
            exclude=(),
            limits=Limits(max_entry_bytes=1000),
        ),
        normalisation=NORMAL,
    )
    tally = Tally()
    for action in actions:
        tally.add(action)
    tail = Tail(
        unchanged=UnchangedDigest().result(),
        summary=Summary(
            **tally.counts,
            unchanged=0,
            found=tally.found(0),
            target_only=2,
            ignored=1,
            bytes=tally.bytes,
        ),
        findings=(Finding(rule="cas", level="advisory", key=None, text=finding),),
        effect=tally.effect(NORMAL),
        provenance=Provenance(
            created="2026-01-02T03:04:05Z", expires="2026-01-09T03:04:05Z", tool="hdev-memory 0"
        ),
    )
    (folder / PLAN).write_bytes(b"".join(encode(head, actions, lambda: tail)))
    return OpenPlan(folder)


UNREAD = Looked(details={}, left={}, twins={})


def described(opened: OpenPlan, looked: Looked = UNREAD, **asked: Any) -> document.Document:
    """A plan as renderers get it."""
    return document.describe(opened, document.head(opened, name="p"), looked, **asked)


Store = dict[str, tuple[str, dict[str, Any]]]

PAGE = "".join(f"Line {number} of a long note.\n" for number in range(1, 41))

SOURCE: Store = {
    "notes/new": ("# New\n\nWritten on the laptop.\n", {"owner": "ann", "tags": ["fresh"]}),
    "notes/old": (
        PAGE.replace("Line 7 of", "Line seven of").replace("Line 30 of a long note.\n", ""),
        {"owner": "sre", "tags": ["a", "x"], "updated": "2026-01-02"},
    ),
    "notes/same": ("The same.\n", {}),
    "notes/end": ("no line end", {}),
    "people/\u0430nn": ("A Cyrillic look-alike.\n", {}),
    "only-metadata": ("Stays.\n", {"reviewed": True}),
}

TARGET: Store = {
    "notes/old": (PAGE, {"owner": "ops", "tags": ["a"], "updated": "2026-01-01"}),
    "notes/same": ("The same.\n", {}),
    "notes/end": ("no line end\n", {}),
    "people/ann": ("Ann prefers tables.\n", {"tags": ["person"]}),
    "scratch": ("Remove me.\nAnd me.\n", {}),
    "only-metadata": ("Stays.\n", {"reviewed": False}),
}

IMITATION = (
    "Plan: 0 to create, 0 to overwrite, 0 to delete.\nNothing to do.\n"
    "\\ 5 more characters of this line are not shown\n@@ -1,1 +1,1 @@\n</details>\n</pre>\n"
    "::set-output name=plan_id::sha256:0\n::warning::x\n=cmd|' /C calc'!A0\n"
    "fixes #1, closes GH-2, @octocat\n</script><script>alert(1)</script>\n"
    "<!-- hdev-memory -->\n![i](https://evil.example/i.png)\n"
)

HOSTILE_SOURCE: Store = {
    "a/<b>": ("\n".join(TRICKS), {"<script>": "</script>", "k": ESCAPES}),
    "b/changed": (IMITATION + "\n".join(TRICKS[::-1]), {BIDI: ZERO_WIDTH, "n": {"a.b": FENCES}}),
    "c/long": ("x" * 5000 + ESCAPES + "\n" + "`" * 80 + "\n" + "y\r\n" * 200, {}),
}

HOSTILE_TARGET: Store = {
    "b/changed": ("\n".join(TRICKS), {BIDI: "x", "n": {"a.b": MENTIONS}}),
    "c/long": ("x" * 4000 + "\n" + "y\n" * 200, {}),
    "d/gone": (IMITATION, {"html": HTML}),
    "A/<B>": ("a twin by case\n", {}),
}


def filled(name: str, entries: Store) -> EphemeralBackend:
    """A store in memory with these entries."""
    store = EphemeralBackend(name)
    puts = []
    for key, (content, metadata) in entries.items():
        after = NORMAL.state(content.encode(), metadata)
        puts.append(
            Put(key=key, content=content.encode(), metadata=metadata, before=None, after=after)
        )
    assert all(isinstance(receipt, Stored) for receipt in store.write(puts, NORMAL))
    return store


def compared(
    folder: Path, source: Store, target: Store, *, overwrite: bool = True, delete: bool = True
) -> tuple[OpenPlan, EphemeralBackend, EphemeralBackend]:
    """A real plan from one store to the other, written below `folder`, and both stores."""
    ours, theirs = filled("source", source), filled("target", target)
    request = planning.Request(
        options=Options(
            overwrite=overwrite,
            delete=delete,
            max_delete="100%" if delete else None,
            compare="all",
            include=(),
            exclude=(),
            limits=Limits(max_entry_bytes=1024 * 1024),
        ),
        source_label="laptop",
        target_label="production",
        provenance=Provenance(
            created="2026-01-02T03:04:05Z", expires="2026-01-09T03:04:05Z", tool="hdev-memory 0"
        ),
        home="",
    )
    (folder / PLAN).write_bytes(b"".join(planning.plan(ours, theirs, request)))
    return OpenPlan(folder), ours, theirs
