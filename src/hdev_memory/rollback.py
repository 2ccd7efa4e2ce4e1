"""A plan that undoes another one: from its pre-images back into the target that it wrote.

It is an ordinary plan, made from two narrowed readers, and passes the same gates as any other:
what somebody has changed since is drift, and survives. A rollback can be rolled back.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from hdev_memory.apply import Mismatch, batches, describe, writing
from hdev_memory.backends.base import (
    BATCH,
    EVERYTHING,
    Backend,
    Closing,
    Endpoint,
    Reader,
    Scope,
    Unknown,
    parts_of,
    state_of,
)
from hdev_memory.core import audit
from hdev_memory.core.diff import Verdict, Writing, interrupted, judge, transition
from hdev_memory.core.entry import (
    Absent,
    Capabilities,
    Entry,
    EntryState,
    Normalisation,
    Parts,
    State,
    Unreadable,
)
from hdev_memory.errors import DriftError, StoreError
from hdev_memory.plandir import OpenPlan

LABEL = "pre-images"
"""The label of the source of every rollback."""


@dataclass(frozen=True)
class Undo:
    """What there is to undo: the target's entries that stand as the plan left them, by key, each
    with the state that it had before; and those that somebody has changed since."""

    befores: Mapping[str, State | None]
    changed: Sequence[Mismatch]


class ChangedSince(DriftError):
    """Entries were changed after the plan; a rollback does not destroy that."""

    def __init__(self, changed: Sequence[Mismatch]) -> None:
        self.changed = changed
        count = len(changed)
        super().__init__(
            "The memory has changed since the plan was applied; no plan was made.",
            why=f"{count} {'entry differs' if count == 1 else 'entries differ'} from what it left.",
            hint="Look at them, then give --skip-changed to roll back all the others.",
        )


def survey(
    opened: OpenPlan,
    target: Backend,
    intended: Container[str],
    cut_off: Mapping[str, audit.Record],
) -> Undo:
    """Compare the target with what a plan did to it.

    `intended` are the keys that its log names in an intent: what stands as planned without one was
    somebody else's doing, and is left alone. `cut_off` are the intents without an outcome: of those
    an entry may be half-written, and is undone as well. What is undone already needs nothing.
    """
    normalisation = opened.plan.head.normalisation
    befores: dict[str, State | None] = {}
    changed: list[Mismatch] = []
    for batch in batches(writing(opened)):
        for action, held in zip(batch, target.read([a.key for a in batch]), strict=True):
            if action.key not in intended:
                continue
            before, after = transition(action)
            try:
                found = state_of(held, normalisation)
            except Unknown as error:
                changed.append(Mismatch(action.key, describe(after), _unknown(str(error))))
                continue
            match judge(action, found):
                case Verdict.DONE:
                    befores[action.key] = before
                case Verdict.DRIFT if _half(action, held, cut_off, normalisation):
                    befores[action.key] = before
                case Verdict.DRIFT:
                    changed.append(Mismatch(action.key, describe(after), describe(found)))
                case Verdict.READY:
                    pass
    return Undo(befores, changed)


def _unknown(reason: str) -> str:
    return f"{reason} (if an apply was cut off, run it again first)"


def _half(
    action: Writing,
    held: Entry | Absent | Unreadable,
    cut_off: Mapping[str, audit.Record],
    normalisation: Normalisation,
) -> bool:
    intent = cut_off.get(action.key)
    parts = parts_of(held, normalisation)
    return (
        intent is not None
        and isinstance(parts, Parts)
        and interrupted(intent.before, intent.after, parts)
    )


def ends(opened: OpenPlan, pre_images: Reader, target: Reader, undo: Undo) -> tuple[Reader, Reader]:
    """The source and the target of the rollback, narrowed to what is to be undone.

    Raises StoreError when a pre-image is missing or is not what the plan says.
    """
    wanted = {key: before for key, before in undo.befores.items() if before is not None}
    normalisation = opened.plan.head.normalisation
    for found in pre_images.read(wanted):
        try:
            state = state_of(found, normalisation)
        except Unknown:
            state = None
        if state != wanted[found.key]:
            raise StoreError(
                "A pre-image is missing or damaged, so the plan cannot be rolled back.",
                why=f"{found.key} in {pre_images.endpoint.location}.",
                hint="Restore the plan's backup folder, or write that entry by hand.",
            )
    return _Narrowed(pre_images, sorted(wanted)), _Narrowed(target, sorted(undo.befores))


class _Narrowed(Closing):
    """A reader that sees only some keys of another."""

    ignored = 0

    def __init__(self, inner: Reader, keys: Sequence[str]) -> None:
        self._inner = inner
        self._keys = keys
        self.expected = len(keys)

    @property
    def endpoint(self) -> Endpoint:
        return self._inner.endpoint

    @property
    def capabilities(self) -> Capabilities:
        return self._inner.capabilities

    @property
    def stores(self) -> set[str]:
        found: set[str] = set(getattr(self._inner, "stores", ()))
        return found

    def keys(self, scope: Scope = EVERYTHING) -> Iterator[str]:
        return (key for key in self._keys if scope.entry(key))

    def snapshot(
        self, scope: Scope, normalisation: Normalisation
    ) -> Iterator[EntryState | Unreadable]:
        keys = list(self.keys(scope))
        for start in range(0, len(keys), BATCH):
            for found in self._inner.read(keys[start : start + BATCH]):
                if isinstance(found, Entry):
                    yield normalisation.entry_state(found)
                elif isinstance(found, Unreadable):
                    yield found

    def read(self, keys: Iterable[str]) -> Iterator[Entry | Absent | Unreadable]:
        return self._inner.read(keys)

    def obstacle(self, key: str) -> str | None:
        return self._inner.obstacle(key)

    def present(self) -> bool:
        return self._inner.present()
