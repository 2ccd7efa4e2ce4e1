"""The neutral review of a plan: compared once, made inert once, rendered many times."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterator
from typing import assert_never

import msgspec

from hdev_memory.core.diff import AnyAction, Blocked, Create, Delete, Overwrite, Skip
from hdev_memory.core.entry import Value
from hdev_memory.core.plan import End, Summary
from hdev_memory.plandir import OpenPlan
from hdev_memory.review.inert import inert
from hdev_memory.review.metadata import NONE, Changes

KINDS = ("create", "overwrite", "blocked", "skip", "delete")
"""In the order of a review in a terminal; deletes come last, as they run last."""

GRAVEST = ("delete", "overwrite", "blocked", "create", "skip")
"""What destroys first: the order of a review that is read from its top, and may be cut."""

SYMBOLS = {"create": "+", "overwrite": "~", "delete": "-", "skip": "=", "blocked": "!"}

NEVER_CUT = frozenset({"overwrite", "delete", "blocked"})
"""Kinds that are listed in full whatever the limit: they are what a review is for."""


_KIND: dict[type[AnyAction], str] = {
    Create: "create",
    Overwrite: "overwrite",
    Delete: "delete",
    Skip: "skip",
    Blocked: "blocked",
}


class Row(Value, frozen=True):
    """One action, its texts inert; `before` and `after` are sizes in bytes, None for absence.

    `details` are lines below it: how its metadata differs, where that was looked at.
    """

    kind: str
    key: str
    before: int | None
    after: int | None
    reason: str
    details: tuple[str, ...] = ()


class EndLine(Value, frozen=True):
    """One end in words."""

    kind: str
    location: str
    promises: str


class Document(Value, frozen=True):
    """Everything that a renderer needs; `omitted` counts the rows left out, by kind."""

    name: str
    plan_id: str
    effect: str
    source: EndLine
    target: EndLine
    options: str
    rows: dict[str, list[Row]]
    omitted: dict[str, int]
    summary: Summary
    findings: tuple[str, ...]
    created: str
    expires: str | None


def describe(
    opened: OpenPlan,
    *,
    name: str,
    limit: int | None = 200,
    only: str | None = None,
    key: str | None = None,
    changes: Changes = NONE,
) -> Document:
    """Describe a plan; `limit` rows of each kind that may be cut, None for all.

    `only` keeps one kind of action, `key` those whose key matches a glob; both leave the totals as
    they are. `changes` are differences of metadata that were read from both ends.
    """
    plan = opened.plan
    rows: dict[str, list[Row]] = {kind: [] for kind in KINDS}
    omitted = dict.fromkeys(KINDS, 0)
    left = msgspec.structs.asdict(plan.tail.summary)
    for action in opened.actions():
        kind = _KIND[type(action)]
        left[kind] -= 1
        if (only is not None and kind != only) or (
            key is not None and not fnmatch.fnmatchcase(action.key, key)
        ):
            continue
        if limit is not None and kind not in NEVER_CUT and len(rows[kind]) >= limit:
            omitted[kind] += 1  # without a row: making one costs ten times as much as counting it
            if key is None and not any(left[other] for other in KINDS if other != kind):
                omitted[kind] += left[kind]
                break
        else:
            rows[kind].append(_row(action, changes.lines.get(action.key, ())))
    return Document(
        name=inert(name),
        plan_id=plan.plan_id,
        effect=plan.tail.effect,
        source=_end(plan.head.source),
        target=_end(plan.head.target),
        options=_options(opened),
        rows=rows,
        omitted=omitted,
        summary=plan.tail.summary,
        findings=(*(inert(finding.text) for finding in plan.tail.findings), *_unlooked(changes)),
        created=plan.tail.provenance.created,
        expires=plan.tail.provenance.expires,
    )


def _unlooked(changes: Changes) -> Iterator[str]:
    if changes.left:
        yield f"Differences of metadata are not shown for {changes.left} further overwrites."


def _row(action: AnyAction, details: tuple[str, ...]) -> Row:
    match action:
        case Create():
            before = action.before.bytes if action.before is not None else None
            return _of(action, before, action.after.bytes)
        case Overwrite():
            return _of(action, action.before.bytes, action.after.bytes, details)
        case Delete():
            return _of(action, action.before.bytes, None)
        case Skip():
            return _of(action, action.before.bytes, action.before.bytes)
        case Blocked():
            return _of(action, None, None)
        case _:
            assert_never(action)


def _of(
    action: AnyAction,
    before: int | None,
    after: int | None,
    details: tuple[str, ...] = (),
) -> Row:
    return Row(
        kind=_KIND[type(action)],
        key=shown_key(action.key),
        before=before,
        after=after,
        reason=inert(action.reason),
        details=details,
    )


def shown_key(key: str) -> str:
    """A key, inert, with the spaces spelled out that a table or a line's end would hide."""
    return re.sub(r"^ +| +$| (?= )", lambda found: "\\u{20}" * len(found[0]), inert(key))


def _end(end: End) -> EndLine:
    promises = {
        "atomic": "writes are conditional",
        "guarded": "writes are guarded by re-reading",
        "none": "writes are not guarded",
    }[end.capabilities.cas]
    durable = "durable" if end.capabilities.durability == "synced" else "durability unknown"
    return EndLine(kind=end.kind, location=inert(end.location), promises=f"{promises}, {durable}")


def _options(opened: OpenPlan) -> str:
    options = opened.plan.head.options
    return inert(", ".join(_said(options.overwrite, options.delete, options.compare)))


def _said(overwrite: bool, delete: bool, compare: str) -> Iterator[str]:
    yield "overwriting is " + ("on" if overwrite else "off")
    yield "deleting is " + ("on" if delete else "off")
    if compare == "content":
        yield "metadata is not compared"


def totals(summary: Summary) -> str:
    """The sentence that everybody looks for first."""
    return (
        f"Plan: {summary.create} to create, {summary.overwrite} to overwrite, "
        f"{summary.delete} to delete."
    )


def rest(summary: Summary) -> str:
    """What the plan leaves alone, in one sentence."""
    parts = [
        f"{summary.skip} skipped",
        f"{summary.blocked} blocked",
        f"{summary.unchanged} unchanged",
    ]
    if summary.target_only:
        parts.append(f"{summary.target_only} only in the target (kept)")
    if summary.ignored:
        parts.append(
            f"{summary.ignored} other {'file' if summary.ignored == 1 else 'files'} ignored"
        )
    return ", ".join(parts) + f"; {size(summary.bytes)} to write."


def cut(document: Document) -> str:
    """Which rows are left out, by kind, in one sentence; empty when none is."""
    parts = [f"{document.omitted[kind]} {kind}" for kind in GRAVEST if document.omitted[kind]]
    return f"NOT SHOWN HERE: {', '.join(parts)}." if parts else ""


def size(count: int | None) -> str:
    """A number of bytes for people: `812 B`, `2.0 KiB`, `1.4 MiB`."""
    if count is None:
        return ""
    if count < 1024:
        return f"{count} B"
    number, unit = count / 1024, "KiB"
    for larger in ("MiB", "GiB"):
        if number < 1024:
            break
        number, unit = number / 1024, larger
    return f"{number:.1f} {unit}"


def sizes(row: Row) -> str:
    """The size of a row: one number, or two where it changes."""
    if row.kind == "overwrite" and row.before != row.after:
        return f"{size(row.before)} → {size(row.after)}"
    return size(row.after if row.after is not None else row.before)
