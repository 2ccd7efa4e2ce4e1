"""How the metadata of two entries differs, in inert texts; never stored in a plan.

deepdiff is imported where a value has parts to compare, and only there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from hdev_memory.backends.base import Reader
from hdev_memory.core.digest import NotCanonical, canonical_json, sha256
from hdev_memory.core.entry import Entry, Metadata, Normalisation, Value
from hdev_memory.review.inert import inert, spaced

MAX_ENTRIES = 50
"""Entries whose metadata is read back to tell of drift."""

MAX_BYTES = 16 * 1024
"""Metadata whose canonical JSON is longer is not compared piece by piece."""

MAX_CHANGES = 8

_PLAIN_NAME = re.compile(r"[\w-]+")
MAX_VALUE = 60
"""Characters of a value; a longer one is cut."""


class MetadataChange(Value, frozen=True):
    """One value, inert: `before` is None where it was added, `after` where it was removed.

    `path` is `owner.name[2]`; what was removed is counted in the list before, what was added in the
    one after. `bookkeeping` is True for what backends rewrite by themselves, which
    is no part of any digest.
    """

    path: str
    before: str | None
    after: str | None
    bookkeeping: bool = False

    @property
    def line(self) -> str:
        if self.before is None:
            return f"{self.path}: added {self.after}"
        if self.after is None:
            return f"{self.path}: removed {self.before}"
        return f"{self.path}: {self.before} -> {self.after}"


class MetadataChanges(Value, frozen=True):
    """What differs: the first changes, how many more there are, or why that cannot be told."""

    changes: tuple[MetadataChange, ...] = ()
    left: int = 0
    note: str = ""

    @property
    def lines(self) -> tuple[str, ...]:
        """For messages: a line for each, and one that counts the rest."""
        more = (f"… and {self.left} more differences",) if self.left else ()
        return (*(change.line for change in self.changes), *more, *filter(None, (self.note,)))


def between(
    keys: Iterable[str],
    source: Reader,
    target: Reader,
    normalisation: Normalisation,
    hidden: Callable[[Entry], bool],
    limit: int = MAX_ENTRIES,
) -> dict[str, tuple[str, ...]]:
    """From the target's metadata to the source's, for the first keys that both hold unlike.

    Nothing is told where either entry is to be hidden.
    """
    wanted = list(keys)[:limit]
    found = {}
    both = zip(source.read(wanted), target.read(wanted), strict=True)
    for key, (ours, theirs) in zip(wanted, both, strict=True):
        if not isinstance(ours, Entry) or not isinstance(theirs, Entry):
            continue
        if not hidden(ours) and not hidden(theirs):
            lines = differences(
                normalisation.metadata(theirs.metadata), normalisation.metadata(ours.metadata)
            ).lines
            if lines:
                found[key] = lines
    return found


def differences(
    before: Metadata, after: Metadata, max_changes: int = MAX_CHANGES
) -> MetadataChanges:
    """What tells two metadata apart; empty only where they have the same canonical form."""
    try:
        sizes = [len(canonical_json(metadata)) for metadata in (before, after)]
    except NotCanonical as error:
        return MetadataChanges(note=f"cannot be compared: one side {error}")
    if max(sizes) > MAX_BYTES:
        if canonical_json(before) == canonical_json(after):
            return MetadataChanges()
        note = f"too long to be compared here ({sizes[0]} and {sizes[1]} bytes)"
        return MetadataChanges(note=note)
    found = [change for key in sorted({*before, *after}) for change in _of_key(key, before, after)]
    return MetadataChanges(
        changes=tuple(found[:max_changes]), left=max(0, len(found) - max_changes)
    )


def bookkeeping(
    before: Metadata, after: Metadata, normalisation: Normalisation
) -> tuple[MetadataChange, ...]:
    """What will be copied of the values that backends keep for themselves, and differs."""
    return tuple(
        MetadataChange(
            path=inert(key),
            before=_kept(before[key]) if key in before else None,
            after=_kept(after[key]),
            bookkeeping=True,
        )
        for key in normalisation.bookkeeping
        if key in after and (key not in before or not _same(before[key], after[key]))
    )


def _kept(value: Any) -> str:
    """A bookkeeping value; no digest covers it, so it may have no canonical form."""
    try:
        return _value(value)
    except NotCanonical as error:
        return f"(cannot be shown: it {error})"


def _same(before: Any, after: Any) -> bool:
    try:
        return canonical_json(before) == canonical_json(after)
    except NotCanonical:
        return False


def _of_key(key: str, before: Metadata, after: Metadata) -> list[MetadataChange]:
    if key not in after:
        return [MetadataChange(path=_path([key]), before=_value(before[key]), after=None)]
    if key not in before:
        return [MetadataChange(path=_path([key]), before=None, after=_value(after[key]))]
    if _same(before[key], after[key]):
        return []
    return _deep(key, before[key], after[key])


def _deep(key: str, before: Any, after: Any) -> list[MetadataChange]:
    from deepdiff import DeepDiff

    found = DeepDiff(_leaves(before), _leaves(after), view="tree", ignore_private_variables=False)
    changes = []
    for kind, levels in found.items():
        for level in levels:
            path = [key, *level.path(output_format="list")]
            one = None if kind.endswith("_added") else _shown(level.t1)
            other = None if kind.endswith("_removed") else _shown(level.t2)
            changes.append(MetadataChange(path=_path(path), before=one, after=other))
    return changes


def _leaves(value: Any) -> Any:
    """The value with each leaf as its canonical JSON text: deepdiff takes True and 1 for equal."""
    if isinstance(value, dict):
        return {name: _leaves(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_leaves(item) for item in value]
    return canonical_json(value).decode()


def _value(value: Any) -> str:
    return _shown(_leaves(value))


def _shown(leaves: Any) -> str:
    """JSON of what `_leaves` made, inert and not too long."""
    return _short(spaced(_json(leaves)))


def _short(text: str) -> str:
    """The text, or its beginning with a digest of the whole: two texts never look the same."""
    if len(text) <= MAX_VALUE:
        return text
    return f"{text[:MAX_VALUE]}… ({len(text)} characters, sha256 {sha256(text.encode())[:12]})"


def _json(leaves: Any) -> str:
    if isinstance(leaves, dict):
        return (
            "{" + ", ".join(f"{json.dumps(k)}: {_json(item)}" for k, item in leaves.items()) + "}"
        )
    if isinstance(leaves, list):
        return "[" + ", ".join(_json(item) for item in leaves) + "]"
    return str(leaves)


def _path(path: Sequence[str | int]) -> str:
    """`owner.name[2]`, inert; a name that is no plain word stands in quotes."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            name = part if _PLAIN_NAME.fullmatch(part) else json.dumps(part, ensure_ascii=False)
            text += f".{name}" if text else name
    return _short(inert(text))
