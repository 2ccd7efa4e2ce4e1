"""Two plans to render: an ordinary one, and one whose texts do what they can to deceive."""

from __future__ import annotations

from pathlib import Path

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
from hdev_memory.review.metadata import Changes

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


NOTHING = Changes(lines={}, left=0)

CHANGES = Changes(
    lines={"notes/old": ('owner: "ops" -> "sre"', 'tags: added "x"')},
    left=3,
)
