"""How the metadata of two entries differs, in a few inert lines; never stored in a plan.

A plan holds only digests of metadata, so the entries are read back from both ends and compared with
those digests first. deepdiff is imported where there is a difference to show, and only there.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from hdev_memory.backends.base import Reader
from hdev_memory.core.diff import Overwrite, needed
from hdev_memory.core.digest import NotCanonical, canonical_json
from hdev_memory.core.entry import (
    Entry,
    Metadata,
    Normalisation,
    Value,
    metadata_digest,
)
from hdev_memory.plandir import OpenPlan
from hdev_memory.review.inert import inert

MAX_ENTRIES = 50
"""Entries whose metadata is read back for one review."""

MAX_BYTES = 16 * 1024
"""Metadata whose canonical JSON is longer is not compared piece by piece."""

MAX_LINES = 8
MAX_VALUE = 60
"""Characters of a value; a longer one is cut."""

CHANGED = ("it has changed since the plan was made: make the plan again",)


class Changes(Value, frozen=True):
    """Lines for each key; `left` counts the entries that were not looked at."""

    lines: dict[str, tuple[str, ...]]
    left: int


NONE = Changes(lines={}, left=0)


def of_plan(opened: OpenPlan, source: Reader, target: Reader, limit: int = MAX_ENTRIES) -> Changes:
    """What a plan's overwrites do to metadata, for the first `limit` that change it."""
    if not opened.plan.tail.summary.overwrite:
        return NONE  # spares a pass over the actions
    actions: list[Overwrite] = []
    left = 0
    for action in opened.actions():
        if isinstance(action, Overwrite) and action.before.metadata != action.after.metadata:
            if len(actions) < limit:
                actions.append(action)
            else:
                left += 1
    normalisation = opened.plan.head.normalisation
    keys = [action.key for action in actions]
    lines = {
        action.key: _as_planned(action, ours, theirs, normalisation)
        for action, (ours, theirs) in zip(actions, _both(keys, source, target), strict=True)
    }
    return Changes(lines=lines, left=left)


def between(
    keys: Iterable[str],
    source: Reader,
    target: Reader,
    normalisation: Normalisation,
    limit: int = MAX_ENTRIES,
) -> dict[str, tuple[str, ...]]:
    """From the target's metadata to the source's, for the first keys that both hold unlike."""
    wanted = list(keys)[:limit]
    found = {}
    for key, (ours, theirs) in zip(wanted, _both(wanted, source, target), strict=True):
        if isinstance(ours, Entry) and isinstance(theirs, Entry):
            lines = differences(
                normalisation.metadata(theirs.metadata), normalisation.metadata(ours.metadata)
            )
            if lines:
                found[key] = tuple(lines)
    return found


def _both(keys: Sequence[str], source: Reader, target: Reader) -> Iterator[tuple[object, object]]:
    return zip(source.read(keys), target.read(keys), strict=True)


def _as_planned(
    action: Overwrite, ours: object, theirs: object, normalisation: Normalisation
) -> tuple[str, ...]:
    """The lines of an overwrite, if both ends still are what the plan says."""
    if not isinstance(ours, Entry) or not isinstance(theirs, Entry):
        return CHANGED
    before = normalisation.metadata(theirs.metadata)
    after = normalisation.metadata(ours.metadata)
    try:
        planned = normalisation.state(
            theirs.content, theirs.metadata
        ) == action.before and normalisation.state(ours.content, ours.metadata) == needed(action)
        if action.source is not None:  # the target keeps what only it has
            after = {**before, **after}
        if not planned or metadata_digest(after) != action.after.metadata:
            return CHANGED
    except NotCanonical:
        return CHANGED
    return tuple(differences(before, after))


def differences(before: Metadata, after: Metadata) -> list[str]:
    """Inert lines that tell two metadata apart; [] only where they have the same canonical form.

    At most MAX_LINES, the last of which then counts the others.
    """
    try:
        sizes = [len(canonical_json(metadata)) for metadata in (before, after)]
    except NotCanonical as error:
        return [f"cannot be compared: one side {error}"]
    if max(sizes) > MAX_BYTES:
        if canonical_json(before) == canonical_json(after):
            return []
        return [f"too long to be compared here ({sizes[0]} and {sizes[1]} bytes)"]
    lines = [line for key in sorted({*before, *after}) for line in _of_key(key, before, after)]
    if len(lines) > MAX_LINES:
        left = len(lines) - (MAX_LINES - 1)
        lines[MAX_LINES - 1 :] = [f"… and {left} more differences"]
    return lines


def _of_key(key: str, before: Metadata, after: Metadata) -> list[str]:
    if key not in after:
        return [f"{inert(key)}: removed {_value(before[key])}"]
    if key not in before:
        return [f"{inert(key)}: added {_value(after[key])}"]
    if canonical_json(before[key]) == canonical_json(after[key]):
        return []
    return _deep(key, before[key], after[key])


def _deep(key: str, before: Any, after: Any) -> list[str]:
    from deepdiff import DeepDiff

    found = DeepDiff(_leaves(before), _leaves(after), view="tree", ignore_private_variables=False)
    lines = []
    for kind, levels in found.items():
        for level in levels:
            path = [key, *level.path(output_format="list")]
            match kind:
                case "dictionary_item_added":
                    text = f"added {_shown(level.t2)}"
                case "dictionary_item_removed":
                    text = f"removed {_shown(level.t1)}"
                case "iterable_item_added":
                    path, text = path[:-1], f"added {_shown(level.t2)}"
                case "iterable_item_removed":
                    path, text = path[:-1], f"removed {_shown(level.t1)}"
                case _:
                    text = f"{_shown(level.t1)} -> {_shown(level.t2)}"
            lines.append(f"{_path(path)}: {text}")
    return lines


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
    text = inert(_json(leaves))
    return text if len(text) <= MAX_VALUE else text[: MAX_VALUE - 1] + "…"


def _json(leaves: Any) -> str:
    if isinstance(leaves, dict):
        return (
            "{" + ", ".join(f"{json.dumps(k)}: {_json(item)}" for k, item in leaves.items()) + "}"
        )
    if isinstance(leaves, list):
        return "[" + ", ".join(_json(item) for item in leaves) + "]"
    return str(leaves)


def _path(path: Sequence[str | int]) -> str:
    """`owner.name[2]`, inert; a dot in a name is not told from the dot between two."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += f".{inert(part)}" if text else inert(part)
    return text if len(text) <= MAX_VALUE else text[: MAX_VALUE - 1] + "…"
