"""What every backend promises.

A *reader* can look and nothing else; planning gets only that, so planning cannot write. A
*backend* can also write. The suite `tests/backends/contract.py` proves these promises for each.

* A snapshot is sorted by key, and complete: where a listing may be incomplete it raises, it never
  comes back short. What is there and cannot be read is an `Unreadable` in its place.
* Reading has three outcomes: an entry, `Absent` when the backend said so in so many words, and
  `Unreadable`. An error is never taken for absence.
* Content comes back byte for byte (or with LF line ends, where the capabilities say `lf`).
* Keys that come from a backend are checked before anything is done with them; keys that are not
  allowed are reported as `Unreadable` under their display name.
* A write carries its precondition, and is answered by what was read back after it.
* Opening, listing and reading create nothing, not even folders.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, NoReturn, Protocol, Self

import pathspec

from hdev_memory.core.entry import (
    Absent,
    Capabilities,
    Entry,
    EntryState,
    Metadata,
    Normalisation,
    State,
    Unreadable,
    Value,
)

MAX_ENTRY_BYTES = 64 * 1024 * 1024
"""Content larger than this is not read: it is reported as unreadable."""

BATCH = 256
"""How many entries the engine reads or writes at a time; the unit of group commit."""


class Endpoint(Value, frozen=True):
    """Where a backend is, without secrets.

    kind      `filesystem`, `http` or `ephemeral`
    location  an absolute path, a URL without user and query, or a name
    store     the identity that the store announces, None where it has none
    """

    kind: str
    location: str
    store: str | None = None


class Secret:
    """A key to a server, in a type that shows itself to nobody by accident."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The key itself; only for the header of a request to the server that it belongs to."""
        return self._text

    def __repr__(self) -> str:
        return "Secret(***)"

    __str__ = __repr__

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret is never serialised")


@dataclass(frozen=True)
class Where:
    """What it takes to open a backend.

    location   a path for `filesystem`, an absolute http(s) URL for `http`, a name for `ephemeral`
    key        for `http` only
    timeout    seconds that one request may take
    handshake  seconds that opening a server may take, all its requests together
    parallelism     connections to one server; None leaves it to the backend
    durability      `none` gives up the syncing of a folder's files, for targets to be thrown away
    insecure_http   allow a key to travel over plain http to another machine
    """

    kind: str
    location: str
    key: Secret | None = None
    timeout: float = 30.0
    handshake: float = 1.5
    parallelism: int | None = None
    durability: Literal["full", "none"] = "full"
    insecure_http: bool = False


class Scope:
    """Which keys take part: gitignore patterns, matched against the key as a path."""

    def __init__(self, include: Sequence[str] = (), exclude: Sequence[str] = ()) -> None:
        """Raises ValueError for a pattern that gitignore would not understand."""
        self.include = tuple(include)
        self.exclude = tuple(exclude)
        self._include = pathspec.GitIgnoreSpec.from_lines(include) if include else None
        self._exclude = pathspec.GitIgnoreSpec.from_lines(exclude) if exclude else None

    def entry(self, key: str) -> bool:
        """Whether the entry takes part."""
        if self._include is not None and not self._include.match_file(key):
            return False
        return self._exclude is None or not self._exclude.match_file(key)

    def folder(self, prefix: str) -> bool:
        """Whether anything below `prefix` (without a final slash) can take part."""
        return self._exclude is None or not self._exclude.match_file(prefix + "/")


EVERYTHING = Scope()


class Put(Value, frozen=True):
    """Write this entry if what stands there is `before` (None: nothing)."""

    key: str
    content: bytes
    metadata: Metadata
    before: State | None
    after: State


class Remove(Value, frozen=True):
    """Remove this entry if what stands there is `before`."""

    key: str
    before: State


Change = Put | Remove


class Stored(Value, frozen=True):
    """Written; `state` is what was read back."""

    key: str
    state: State


class Removed(Value, frozen=True):
    """Removed, and seen to be gone."""

    key: str


class Drifted(Value, frozen=True):
    """Not written: something else stood there. `found` None is absence."""

    key: str
    found: State | None


class Failed(Value, frozen=True):
    """Not done, or not known to be done, for this reason.

    `reason` is for people and holds no secret. `intact` says that the entry was seen to be as it
    was before; otherwise nothing is known of it, or it was seen damaged, and `reason` says which.
    """

    key: str
    reason: str
    intact: bool


Receipt = Stored | Removed | Drifted | Failed

PERMISSION_DENIED = "Permission denied on target"
"""The reason that users see where the target does not let them write."""


class Reader(Protocol):
    """The half of a backend that cannot change anything."""

    @property
    def endpoint(self) -> Endpoint: ...

    @property
    def capabilities(self) -> Capabilities: ...

    @property
    def ignored(self) -> int:
        """How many files that are no entries the last complete snapshot saw."""
        ...

    def keys(self, scope: Scope = EVERYTHING) -> Iterator[str]:
        """The keys in scope, sorted, without reading entries. Raises where it may be incomplete."""
        ...

    def snapshot(
        self, scope: Scope, normalisation: Normalisation
    ) -> Iterator[EntryState | Unreadable]:
        """The state of every entry in scope, sorted by key; complete, or an error."""
        ...

    def read(self, keys: Iterable[str]) -> Iterator[Entry | Absent | Unreadable]:
        """One answer for each key, in the order asked."""
        ...

    def obstacle(self, key: str) -> str | None:
        """Why a new entry of this key cannot be written at the moment; None when it can."""
        ...

    def present(self) -> bool:
        """Whether the place that was opened is still there, looked at now."""
        ...

    def close(self) -> None:
        """Let go of connections and handles; may be called twice."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...


class Backend(Reader, Protocol):
    """A reader that can also write."""

    def write(self, batch: Sequence[Change], normalisation: Normalisation) -> Sequence[Receipt]:
        """Carry out each change whose precondition holds; one receipt for each, in order.

        Entries that are not named are not touched. An error that concerns one entry is its receipt.
        Raises only where nothing can be said of the batch any more (the server refuses the key, the
        root is gone).
        """
        ...


class Closing:
    """The context manager of every backend."""

    def close(self) -> None:
        """Nothing to let go of."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
