"""What the entries of a plan hold, read from both ends and checked against the plan's digests."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from hdev_memory.backends.base import Reader, Scope, Unknown, state_of
from hdev_memory.core.diff import (
    AnyAction,
    Blocked,
    Create,
    Delete,
    Overwrite,
    Skip,
    Verdict,
    judge,
    needed,
)
from hdev_memory.core.entry import Absent, Entry, Metadata, Normalisation, State, Unreadable, Value
from hdev_memory.core.plan import action_of
from hdev_memory.core.rules import Policy
from hdev_memory.detect import detectors
from hdev_memory.errors import HdevError, PolicyError
from hdev_memory.findings import parts_of
from hdev_memory.plandir import OpenPlan
from hdev_memory.review.alike import alike
from hdev_memory.review.contents import ContentChange, compare
from hdev_memory.review.inert import inert
from hdev_memory.review.metadata import MetadataChange, bookkeeping, differences

_BATCH = 16
"""Entries read at once: their contents are held together, up to 1 MiB each by default."""


@dataclass(frozen=True)
class Bounds:
    """How much of an entry, and of all, a review looks at and shows.

    entries      entries that are read, those that destroy first
    entry_bytes  a larger content is not compared
    bytes        of content read in all
    lines        of difference shown for one entry
    all_lines    of difference shown in all
    chars        of one line
    """

    entries: int = 200
    entry_bytes: int = 1024 * 1024
    bytes: int = 64 * 1024 * 1024
    lines: int = 30
    all_lines: int = 2_000
    chars: int = 500


BRIEF = Bounds()
FULL = Bounds(entries=100_000, bytes=1024 * 1024 * 1024, lines=5_000, all_lines=200_000)


class Details(Value, frozen=True):
    """What an action does to one entry, all texts inert.

    `content` is None where the content stays as it is, or was not compared; `note` then says why.
    `drift` says what was found instead where an end is not as planned; then nothing else is said.
    `metadata_left` counts changes that are not listed.
    """

    content: ContentChange | None = None
    metadata: tuple[MetadataChange, ...] = ()
    metadata_left: int = 0
    note: str = ""
    drift: str = ""


class Looked(Value, frozen=True):
    """What was read for one review.

    `details` by key; `left` counts the entries of each kind that were not looked at, because of the
    bounds. `why` says why nothing, or nothing more, was read. `twins` are names that look like the
    key, in the plan or in the target.
    """

    details: Mapping[str, Details]
    left: Mapping[str, int]
    twins: Mapping[str, tuple[str, ...]]
    why: str = ""


def unread(opened: OpenPlan, why: str) -> Looked:
    """A review without the entries; `why` is for people. Only the plan's own names are compared."""
    return Looked(details={}, left={}, twins=_twins(opened, None), why=inert(why))


def read(
    opened: OpenPlan,
    source: Reader,
    target: Reader,
    bounds: Bounds = BRIEF,
    *,
    only: str | None = None,
    key: str | None = None,
    standing: Iterable[str] | None = None,
) -> Looked:
    """Read and compare the entries of a plan, as far as the bounds go. Never writes.

    `only` and `key` as in `asked`; `standing` are the keys of the target, sorted, which is asked
    for them where they are not given. An end that fails on the way ends the reading; what was read
    is shown, and `why` is set.
    """
    options = opened.plan.head.options
    try:
        hidden = Withheld(opened)
    except PolicyError as error:
        return unread(opened, f"The contents are not shown, as they may hold secrets. {error}")
    chosen, left = _chosen(opened, bounds, only, key)
    details: dict[str, Details] = {}
    room = bounds.all_lines
    why = ""
    try:
        for action, ours, theirs in _both(chosen, source, target):
            if hidden.key(action.key) or hidden.entry(ours) or hidden.entry(theirs):
                details[action.key] = Details(note=WITHHELD)
                continue
            found = _details(
                action,
                ours,
                theirs,
                opened.plan.head.normalisation,
                bounds,
                min(room, bounds.lines),
            )
            details[action.key] = found
            if found.content is not None:
                room -= sum(len(hunk.lines) for hunk in found.content.hunks)
        if standing is None:
            standing = target.keys(Scope(options.include, options.exclude))
        twins = _twins(opened, standing)
    except HdevError as error:
        why = inert(str(error))
        twins = _twins(opened, None)
        for action in chosen:
            if action.key not in details:
                left[kind_of(action)] = left.get(kind_of(action), 0) + 1
    return Looked(details=details, left=left, twins=twins, why=why)


WITHHELD = "what it holds is not shown: what looks like a secret is in it"


class Withheld:
    """Which entries are left out of everything that is shown, because they may hold a secret.

    Those in which the plan's policy found one; where more were found than a plan lists, all of
    them. And, as the policy looks only into what would be written, every other one in which its
    detector finds one when it is about to be shown: what is skipped, deleted or overwritten.
    """

    def __init__(self, opened: OpenPlan) -> None:
        """Raises PolicyError where the policy's detector is not installed here."""
        self._keys = {one.key for one in opened.plan.tail.findings if one.rule == "secrets"}
        self._normalisation = opened.plan.head.normalisation
        policy = opened.plan.head.options.policy
        rule = policy.secrets if policy is not None else None
        self._detect = detectors(Policy(secrets=rule))["secrets"] if rule is not None else None

    def key(self, key: str) -> bool:
        return None in self._keys or key in self._keys

    def entry(self, held: object) -> bool:
        """Whether this, read from either end, is not to be shown."""
        if not isinstance(held, Entry):
            return False
        if self.key(held.key):
            return True
        if self._detect is None:
            return False
        texts = parts_of(held, self._normalisation).values()
        return any(True for text in texts for _ in self._detect(text))


Readable = Create | Overwrite | Delete | Skip

_ORDER = ("delete", "overwrite", "create", "skip")
"""The kinds whose entries are read, those that destroy first."""


def kind_of(action: AnyAction) -> str:
    """`create`, `overwrite`, `delete`, `skip` or `blocked`."""
    return type(action).__name__.lower()


def asked(kind: str, name: str, only: str | None, key: str | None) -> bool:
    """Whether an action of this kind on the entry of this name is meant: its kind is `only`, and
    its name matches the glob `key`; None is any."""
    return (only is None or kind == only) and (key is None or fnmatch.fnmatchcase(name, key))


def _chosen(
    opened: OpenPlan, bounds: Bounds, only: str | None, key: str | None
) -> tuple[list[Readable], dict[str, int]]:
    """The actions that are looked at, and how many are not, by kind."""
    first: dict[str, list[bytes]] = {kind: [] for kind in _ORDER}
    counts = dict.fromkeys(_ORDER, 0)
    for named, line in opened.named():
        kind = named.action
        if kind not in counts or not asked(kind, named.key, only, key):
            continue
        counts[kind] += 1
        if len(first[kind]) < bounds.entries:
            first[kind].append(line)
    chosen: list[Readable] = []
    left: dict[str, int] = {}
    taken = 0
    for kind in _ORDER:
        seen = 0
        for line in first[kind]:
            action = action_of(line)
            assert not isinstance(action, Blocked)
            taken += sum(state.bytes for state in _states(action) if state is not None)
            if len(chosen) == bounds.entries or taken > bounds.bytes:
                break
            chosen.append(action)
            seen += 1
        if counts[kind] > seen:
            left[kind] = counts[kind] - seen
    return chosen, left


def _states(action: Readable) -> tuple[State | None, State | None]:
    """What the target and the source held when the plan was made, None where it does not matter."""
    match action:
        case Create():
            return action.before, needed(action)
        case Overwrite():
            return action.before, needed(action)
        case Delete():
            return action.before, None
        case Skip():
            return action.before, action.source


Held = Entry | Absent | Unreadable


def _both(
    chosen: Sequence[Readable], source: Reader, target: Reader
) -> Iterator[tuple[Readable, Held | None, Held]]:
    for start in range(0, len(chosen), _BATCH):
        batch = chosen[start : start + _BATCH]
        wanted = [action.key for action in batch if not isinstance(action, Delete)]
        ours = dict(zip(wanted, source.read(wanted), strict=True))
        theirs = target.read([action.key for action in batch])
        for action, held in zip(batch, theirs, strict=True):
            yield action, ours.get(action.key), held


def _details(
    action: Readable,
    ours: Held | None,
    theirs: Held,
    normalisation: Normalisation,
    bounds: Bounds,
    lines: int,
) -> Details:
    if _done(action, theirs, normalisation):
        return Details(note=DONE)
    before, after = _states(action)
    drift = _drift("target", before, theirs, normalisation) or (
        _drift("source", after, ours, normalisation) if ours is not None else ""
    )
    if drift:
        return Details(drift=drift)
    old = theirs if isinstance(theirs, Entry) else None
    new = ours if isinstance(ours, Entry) else None
    content, note = _content(old, new, normalisation, bounds, lines)
    told = differences(_metadata(old, normalisation), _after(action, old, new, normalisation))
    kept = bookkeeping(old.metadata, new.metadata, normalisation) if old and new else ()
    return Details(
        content=content,
        metadata=(*told.changes, *kept),
        metadata_left=told.left,
        note="; ".join(filter(None, (note, told.note and f"its metadata {told.note}"))),
    )


DONE = "done already: the target is as the plan leaves it"


def _done(action: Readable, theirs: Held, normalisation: Normalisation) -> bool:
    """Whether an apply would find that there is nothing left to do."""
    if isinstance(action, Skip):
        return False
    try:
        return judge(action, state_of(theirs, normalisation)) is Verdict.DONE
    except Unknown:
        return False


def _drift(side: str, planned: State | None, held: Held, normalisation: Normalisation) -> str:
    """What is wrong with an end, inert; empty where it is as planned."""
    try:
        found = state_of(held, normalisation)
    except Unknown as error:
        return f"the {side} cannot be read any more: {inert(str(error))}"
    if found == planned:
        return ""
    if found is None:
        return f"the {side} has no such entry any more"
    if planned is None:
        return f"the {side} has such an entry by now"
    return f"the {side} has changed since the plan was made"


def _content(
    old: Entry | None, new: Entry | None, normalisation: Normalisation, bounds: Bounds, lines: int
) -> tuple[ContentChange | None, str]:
    before = normalisation.content(old.content) if old is not None else None
    after = normalisation.content(new.content) if new is not None else None
    if before == after:
        return None, ""
    size = max(len(content) for content in (before, after) if content is not None)
    if size > bounds.entry_bytes:
        return None, f"its content is too large to be compared here ({size} bytes)"
    return (
        compare(
            before.decode() if before is not None else None,
            after.decode() if after is not None else None,
            max_lines=lines,
            max_chars=bounds.chars,
        ),
        "",
    )


def _metadata(entry: Entry | None, normalisation: Normalisation) -> Metadata:
    return normalisation.metadata(entry.metadata) if entry is not None else {}


def _after(
    action: Readable, old: Entry | None, new: Entry | None, normalisation: Normalisation
) -> Metadata:
    """The metadata that will stand there: a target that merges keeps what only it has."""
    after = _metadata(new, normalisation)
    if isinstance(action, Create | Overwrite) and action.source is not None:
        return {**_metadata(old, normalisation), **after}
    return after


def _twins(opened: OpenPlan, target: Iterable[str] | None) -> dict[str, tuple[str, ...]]:
    """Twins of what the plan writes or cannot write; of what it leaves alone they are no news.

    `target` are the keys of the target, sorted, None where they are out of reach.
    """
    names = _Names(opened)
    if target is None:
        return alike(names, (named.key for named, _ in opened.named() if named.action == "skip"))
    return alike(names, _without(target, names))


class _Names:
    """The keys that are asked about, sorted, as often as they are wanted."""

    def __init__(self, opened: OpenPlan) -> None:
        self._opened = opened

    def __iter__(self) -> Iterator[str]:
        return (named.key for named, _ in self._opened.named() if named.action != "skip")


def _without(keys: Iterable[str], names: Iterable[str]) -> Iterator[str]:
    """Those of `keys` that are not among `names`; both are sorted."""
    rest = iter(names)
    name = next(rest, None)
    for key in keys:
        while name is not None and name < key:
            name = next(rest, None)
        if key != name:
            yield key
