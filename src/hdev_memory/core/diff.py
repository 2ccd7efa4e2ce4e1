"""What to do with each entry: the merge-join of two sorted snapshots, and `judge`."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Iterator
from typing import Literal, assert_never

import msgspec

from hdev_memory.core.digest import sha256
from hdev_memory.core.entry import (
    PLACEHOLDER_CONTENT,
    PLACEHOLDER_KEY,
    Capabilities,
    EntryState,
    Metadata,
    Parts,
    State,
    Unreadable,
    Value,
    metadata_digest,
)
from hdev_memory.core.stretch import Stretch

Observed = EntryState | Unreadable
Seen = Observed | Stretch
"""What a snapshot consists of; only readers that know stretches hand them out."""

TOO_LARGE = "Content too large for target backend"


class Action(Value, frozen=True, tag_field="action", omit_defaults=True):
    """The base of the five actions; `key` orders them in a plan."""

    key: str


class Create(Action, frozen=True, tag="create"):
    """Write an entry that the target lacks.

    `before` is set only where the target holds the placeholder `global`, which counts as absent.
    `source` is set only where the target merges metadata, so that what is read differs from
    what will stand there.
    """

    after: State
    reason: str
    before: State | None = None
    source: State | None = None


class Overwrite(Action, frozen=True, tag="overwrite"):
    """Replace what the target has; `source` as in Create."""

    before: State
    after: State
    reason: str
    source: State | None = None


class Delete(Action, frozen=True, tag="delete"):
    """Remove an entry that the source lacks."""

    before: State
    reason: str


class Skip(Action, frozen=True, tag="skip"):
    """Leave alone an entry that exists in the target and differs; overwriting is off."""

    before: State
    source: State
    reason: str


class Blocked(Action, frozen=True, tag="blocked"):
    """Leave alone what cannot be read, represented or told apart; `key` may be a display name.

    `side` says which end holds it: only what the source holds counts as found there.
    """

    reason: str
    side: Literal["source", "target"] = "source"


AnyAction = Create | Overwrite | Delete | Skip | Blocked
Writing = Create | Overwrite | Delete


class Unchanged(Value, frozen=True):
    """Both ends hold the same."""

    key: str
    state: State


class UnchangedStretch(Value, frozen=True):
    """Both ends hold the same, for all entries of a stretch."""

    stretch: Stretch


class TargetOnly(Value, frozen=True):
    """Only the target holds it, and deleting is off; `readable` is False where it is damaged."""

    key: str
    readable: bool = True


Outcome = AnyAction | Unchanged | UnchangedStretch | TargetOnly


class Rules(Value, frozen=True):
    """What decides, beside the two snapshots."""

    overwrite: bool
    delete: bool
    compare: Literal["content", "all"]
    capabilities: Capabilities


def transition(action: Writing) -> tuple[State | None, State | None]:
    """The target's states before and after a writing action; None is absence."""
    match action:
        case Create():
            return action.before, action.after
        case Overwrite():
            return action.before, action.after
        case Delete():
            return action.before, None
        case _:
            assert_never(action)


def needed(action: Create | Overwrite) -> State:
    """The state in which the source must be for this action."""
    return action.source or action.after


class Verdict(enum.Enum):
    READY = "ready"
    DONE = "done"
    DRIFT = "drift"


def judge(action: Writing, current: State | None) -> Verdict:
    """What the target's current state means for an action.

    The one rule for a first run, a rerun, a stale plan, and a change that was in flight when the
    machine died: as before -> ready; as after -> already done; anything else -> drift.
    """
    before, after = transition(action)
    if current == before:
        return Verdict.READY
    if current == after:
        return Verdict.DONE
    return Verdict.DRIFT


def interrupted(before: State | None, after: State | None, parts: Parts) -> bool:
    """Whether a change from `before` to `after` that was cut off explains these parts.

    Each part is then as it was or as it shall be. Only to be asked for a change whose intent is in
    the log without an outcome; of any other entry the same parts are drift.
    """
    ends = (before, after)
    contents = {end.content if end is not None else None for end in ends}
    metadata = {end.metadata if end is not None else None for end in ends}
    if _EMPTY_METADATA in metadata:
        metadata.add(None)  # a missing sidecar is empty metadata
    return parts.content in contents and parts.metadata in metadata


_EMPTY_METADATA = metadata_digest({})


def diff(
    source: Iterable[Seen],
    target: Iterable[Seen],
    rules: Rules,
    obstacle: Callable[[str], str | None] = lambda key: None,
) -> Iterator[Outcome]:
    """One outcome for each key that either end holds, sorted by key, with flat memory.

    Both snapshots come sorted by key; stretches that are alike have one outcome together.
    `obstacle` asks the target what stands in the way of a new entry of this key now; it is asked
    for creates only.
    """
    live: list[str] = []  # keys that will stand in the target and are string prefixes of this one
    passed: Stretch | None = None
    for key, ours, theirs in _join(source, target):
        while live and not key.startswith(live[-1]):
            live.pop()
        if passed is not None:
            live.extend(passed.prefixes_of(key))
            passed = None
        if isinstance(ours, Stretch):
            passed = ours
            yield UnchangedStretch(stretch=ours)
            continue
        assert not isinstance(theirs, Stretch)
        outcome = _decide(key, ours, theirs, rules)
        if isinstance(outcome, Create):
            reason = (
                _beside(key, live, rules.capabilities)
                or rules.capabilities.objection(key)
                or obstacle(key)
            )
            if reason is not None:
                outcome = Blocked(key=key, reason=reason)
        if theirs is not None or isinstance(outcome, Create):
            live.append(key)
        yield outcome


def _join(
    source: Iterable[Seen], target: Iterable[Seen]
) -> Iterator[tuple[str, Seen | None, Seen | None]]:
    """(key, ours, theirs); both are a stretch where two are alike, and else neither is one."""
    left, right = _Side(source, "source"), _Side(target, "target")
    while left.head is not None or right.head is not None:
        ours, theirs = left.head, right.head
        if isinstance(ours, Stretch) and isinstance(theirs, Stretch) and ours.lines == theirs.lines:
            yield ours.first, ours, theirs
            left.advance()
            right.advance()
        elif theirs is None or (ours is not None and left.key < right.key):
            yield left.key, left.single(), None
            left.advance()
        elif ours is None or right.key < left.key:
            yield right.key, None, right.single()
            right.advance()
        else:
            yield left.key, left.single(), right.single()
            left.advance()
            right.advance()


class _Side:
    """One snapshot: what comes next in it, and its key.

    A stretch stays one until its first entry is asked for by itself.
    """

    def __init__(self, snapshot: Iterable[Seen], side: str) -> None:
        self._items = iter(snapshot)
        self._opened: Iterator[EntryState] = iter(())
        self._side = side
        self.key = self._last = ""
        self.head: Seen | None = None
        self.advance()

    def advance(self) -> None:
        opened = next(self._opened, None)
        if opened is not None:
            self.head, self.key = opened, opened.key
            return
        self.head = item = next(self._items, None)
        if item is None:
            return
        first, last = (item.first, item.last) if isinstance(item, Stretch) else (item.key, item.key)
        if first <= self._last:
            raise AssertionError(f"the {self._side} snapshot is not sorted by key")
        self.key, self._last = first, last

    def single(self) -> Observed | None:
        """The entry that comes next, by itself."""
        if isinstance(self.head, Stretch):
            self._opened = self.head.entries()
            self.head = next(self._opened)
        return self.head


def _beside(key: str, live: list[str], capabilities: Capabilities) -> str | None:
    shadowing = capabilities.shadow(key, live)
    if shadowing is None:
        return None
    return f"cannot stand beside the entry {shadowing} in this backend"


def _decide(key: str, ours: Observed | None, theirs: Observed | None, rules: Rules) -> Outcome:
    match ours, theirs:
        case Unreadable(), _:
            return Blocked(key=key, reason=f"source: {ours.reason}")
        case EntryState(), Unreadable():
            return Blocked(key=key, reason=f"target: {theirs.reason}", side="source")
        case None, Unreadable():
            if rules.delete:
                return Blocked(key=key, reason=f"target: {theirs.reason}", side="target")
            return TargetOnly(key=key, readable=False)
        case None, EntryState():
            if rules.delete and not _is_placeholder(theirs):
                return Delete(key=key, before=theirs.state, reason="not in the source")
            return TargetOnly(key=key)
        case EntryState(), None:
            return _create(ours, None, rules)
        case EntryState(), EntryState():
            return _change(ours, theirs, rules)
        case _:
            raise AssertionError("a key that neither end holds")


def _create(ours: EntryState, placeholder: EntryState | None, rules: Rules) -> Create | Blocked:
    if _too_large(ours, rules):
        return Blocked(key=ours.key, reason=TOO_LARGE)
    after = _standing(ours, placeholder, rules)
    reason = "not in the target"
    if placeholder is not None:
        reason = "the target holds only the placeholder text"
    return Create(
        key=ours.key,
        after=after,
        reason=_with_note(reason, ours),
        before=placeholder.state if placeholder is not None else None,
        source=ours.state if after != ours.state else None,
    )


def _change(ours: EntryState, theirs: EntryState, rules: Rules) -> Outcome:
    after = _standing(ours, theirs, rules)
    content = after.content != theirs.state.content
    metadata = after.metadata != theirs.state.metadata
    if not content and (not metadata or rules.compare == "content"):
        return Unchanged(key=ours.key, state=theirs.state)
    if _is_placeholder(theirs):
        return _create(ours, theirs, rules)
    differs = {
        (True, True): "content and metadata differ",
        (True, False): "content differs",
        (False, True): "metadata differs",
    }[content, metadata]
    if not rules.overwrite:
        reason = f"exists in the target; {differs}; overwriting is off"
        return Skip(key=ours.key, before=theirs.state, source=ours.state, reason=reason)
    if _too_large(ours, rules):
        return Blocked(key=ours.key, reason=TOO_LARGE)
    return Overwrite(
        key=ours.key,
        before=theirs.state,
        after=after,
        reason=_with_note(differs, ours),
        source=ours.state if after != ours.state else None,
    )


def _standing(ours: EntryState, theirs: EntryState | None, rules: Rules) -> State:
    """What will stand in the target once `ours` is written over `theirs`."""
    if theirs is None or rules.capabilities.metadata == "replace":
        return ours.state
    if not theirs.metadata.keys() - ours.metadata.keys():
        return ours.state
    merged: Metadata = {**theirs.metadata, **ours.metadata}
    return msgspec.structs.replace(ours.state, metadata=metadata_digest(merged))


def _too_large(ours: EntryState, rules: Rules) -> bool:
    limit = rules.capabilities.max_entry_bytes
    return limit is not None and ours.state.bytes > limit


def _with_note(reason: str, entry: EntryState) -> str:
    return f"{reason}; {entry.note}" if entry.note else reason


def _is_placeholder(entry: EntryState) -> bool:
    return (
        entry.key == PLACEHOLDER_KEY
        and entry.state.bytes == len(PLACEHOLDER_CONTENT)
        and entry.state.content == _PLACEHOLDER_DIGEST
    )


_PLACEHOLDER_DIGEST = sha256(PLACEHOLDER_CONTENT)
