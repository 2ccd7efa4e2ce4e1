"""A store in this process's memory: for trying things out, for tests, and as the simplest model."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence

from hdev_memory.backends.base import (
    EVERYTHING,
    UNATTENDED,
    Change,
    Drifted,
    Endpoint,
    Failed,
    Put,
    Receipt,
    Removed,
    Scope,
    Session,
    Stored,
    Whole,
    parts_of,
)
from hdev_memory.core.diff import interrupted
from hdev_memory.core.digest import NotCanonical
from hdev_memory.core.entry import (
    Absent,
    Capabilities,
    Entry,
    EntryState,
    InvalidKey,
    Metadata,
    Normalisation,
    Parts,
    State,
    Unreadable,
    check_key,
)


class EphemeralBackend(Whole):
    """Entries in a dict, guarded by one lock; gone when the process ends."""

    ignored = 0

    def __init__(self, name: str = "memory") -> None:
        self.endpoint = Endpoint(kind="ephemeral", location=name)
        self.capabilities = Capabilities(cas="atomic", durability="unknown")
        self._entries: dict[str, tuple[bytes, Metadata]] = {}
        self._lock = threading.Lock()

    def present(self) -> bool:
        return True

    def keys(self, scope: Scope = EVERYTHING) -> Iterator[str]:
        with self._lock:
            keys = sorted(self._entries)
        self.expected = len(keys)
        return (key for key in keys if scope.entry(key))

    def snapshot(
        self, scope: Scope, normalisation: Normalisation
    ) -> Iterator[EntryState | Unreadable]:
        for entry in self.read(self.keys(scope)):
            match entry:
                case Entry():
                    try:
                        yield normalisation.entry_state(entry)
                    except NotCanonical as error:
                        yield Unreadable(key=entry.key, reason=f"metadata {error}")
                case Unreadable():
                    yield entry
                case Absent():  # removed since it was listed
                    pass

    def read(self, keys: Iterable[str]) -> Iterator[Entry | Absent | Unreadable]:
        for key in keys:
            with self._lock:
                held = self._entries.get(key)
            if held is None:
                yield Absent(key=key)
            else:
                yield Entry(key=key, content=held[0], metadata=held[1])

    def obstacle(self, key: str) -> str | None:
        return None

    def parts(self, key: str, normalisation: Normalisation) -> Parts | Unreadable:
        (found,) = self.read([key])
        return parts_of(found, normalisation)

    def write(
        self,
        batch: Sequence[Change],
        normalisation: Normalisation,
        session: Session = UNATTENDED,
    ) -> Sequence[Receipt]:
        session.intend([change for change in batch if not self._refused(change, normalisation)])
        return [self._change(change, normalisation) for change in batch]

    def _refused(self, change: Change, normalisation: Normalisation) -> Receipt | None:
        try:
            check_key(change.key)
        except InvalidKey as error:
            return Failed(key=change.key, reason=f"the key {error}", intact=True)
        held = self._entries.get(change.key)
        found = normalisation.state(*held) if held is not None else None
        if found != change.before and not (change.resumed and _cut_off(change, found)):
            return Drifted(key=change.key, found=found)
        return None

    def _change(self, change: Change, normalisation: Normalisation) -> Receipt:
        with self._lock:
            refusal = self._refused(change, normalisation)
            if refusal is not None:
                return refusal
            if isinstance(change, Put):
                self._entries[change.key] = (change.content, dict(change.metadata))
                state: State = normalisation.state(change.content, change.metadata)
                return Stored(key=change.key, state=state)
            self._entries.pop(change.key, None)
            return Removed(key=change.key)


def _cut_off(change: Change, found: State | None) -> bool:
    """Whether what stands there is what an earlier run of the change may have left."""
    parts = Parts(
        content=found.content if found is not None else None,
        metadata=found.metadata if found is not None else None,
    )
    return interrupted(change.before, change.after if isinstance(change, Put) else None, parts)
