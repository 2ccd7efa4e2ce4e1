"""Documents for the HTML page: what is compared of both plans, and many actions."""

from __future__ import annotations

from pathlib import Path

from tests.review import plans

from hdev_memory.core.diff import AnyAction, Create, Delete, Overwrite, Skip
from hdev_memory.review import document, reading

AUDIT = document.AuditHead(
    seq=1, digest="9f" * 32, event="planned", time="2026-01-02T03:04:05Z"
)  # fmt: skip


def compared(folder: Path, source: plans.Store, target: plans.Store) -> document.Document:
    """A real plan from one store to the other, with what its entries hold."""
    opened, ours, theirs = plans.compared(folder, source, target)
    with opened:
        looked = reading.read(opened, ours, theirs)
        heading = document.head(opened, name=plans.HTML, audit=AUDIT)
        return document.describe(opened, heading, looked)


def ordinary(folder: Path) -> document.Document:
    return compared(folder, plans.SOURCE, plans.TARGET)


def hostile(folder: Path) -> document.Document:
    return compared(folder, plans.HOSTILE_SOURCE, plans.HOSTILE_TARGET)


def reasons(folder: Path) -> document.Document:
    """Every trick as the reason of every kind of action, as a location, and as a finding."""
    with plans.opened(folder, plans.hostile(), plans.BIDI, plans.HTML) as opened:
        return plans.described(opened)


def many(folder: Path, count: int, limit: int | None = None) -> document.Document:
    """Of ten actions six create, two overwrite, one deletes and one is skipped."""
    with plans.opened(folder, tuple(_action(number) for number in range(count))) as opened:
        return plans.described(opened, limit=limit)


def _action(number: int) -> AnyAction:
    key = f"area{number * 7 // 1000:03}/topic{number // 20:04}/note{number:06}"
    match number % 10:
        case 0 | 1:
            return Overwrite(key=key, before=plans.ONE, after=plans.TWO, reason="content differs")
        case 2:
            return Delete(key=key, before=plans.TWO, reason="not in the source")
        case 3:
            return Skip(key=key, before=plans.ONE, source=plans.TWO, reason="exists in the target")
        case _:
            return Create(key=key, after=plans.ONE, reason="not in the target")
