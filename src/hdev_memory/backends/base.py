"""What every backend promises.

A *reader* can look and nothing else; planning gets only that, so planning cannot write. A
*backend* can also write. The checks of `conformance/` prove these promises for each.

* A snapshot is sorted by key, and complete: where a listing may be incomplete it raises, it never
  comes back short. What is there and cannot be read is an `Unreadable` in its place.
* Reading has three outcomes: an entry, `Absent` when the backend said so in so many words, and
  `Unreadable`. An error is never taken for absence.
* Content comes back byte for byte (or with LF line ends, where the capabilities say `lf`).
* Keys that come from a backend are checked before anything is done with them; keys that are not
  allowed are reported as `Unreadable` under their display name.
* A write carries its precondition, and is answered by what was read back after it.
* What a write displaces is looked at; where it is not what was expected it is put back, or kept
  under a name of its own that the receipt tells. No update of anybody else is lost.
* Nothing of a batch takes effect before `Session.intend` has returned, and all of it that was
  acknowledged is durable when `write` returns, where the capabilities say `synced`.
* A change cut off in the middle is finished by the same change with `resumed` set.
* Opening, listing and reading create nothing, not even folders.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, NoReturn, Protocol, Self, runtime_checkable

from hdev_memory.core.digest import NotCanonical
from hdev_memory.core.entry import (
    Absent,
    Capabilities,
    Entry,
    EntryState,
    Metadata,
    Normalisation,
    Parts,
    State,
    Unreadable,
    Value,
)
from hdev_memory.core.stretch import Stretch
from hdev_memory.errors import LockedError, UsageError

if TYPE_CHECKING:
    import pathspec

MAX_ENTRY_BYTES = 64 * 1024 * 1024
"""Content larger than this is not read: it is reported as unreadable."""

BATCH = 256
"""How many entries the engine compares at a time."""


class Endpoint(Value, frozen=True):
    """Where a backend is, without secrets.

    kind      `filesystem`, `http`, `sqlite`, `postgres` or `ephemeral`
    location  an absolute path, a URL without user, password and query (of a database without user
              and password), or a name
    store     the identity that the store announces, None where it has none
    """

    kind: str
    location: str
    store: str | None = None


class Secret:
    """A key to a server, or the password of a database; it shows itself to nobody by accident."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The key itself; only for the server, or the database, that it belongs to."""
        return self._text

    def __repr__(self) -> str:
        return "Secret(***)"

    __str__ = __repr__

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret is never serialised")


@dataclass(frozen=True)
class Where:
    """What it takes to open a backend.

    location   a path for `filesystem` and `sqlite`, an absolute http(s) URL for `http`, one without
               user and password for `postgres`, a name for `ephemeral`
    key        for `http`, and the password for `postgres`
    user       for `postgres` only
    timeout    seconds that one request, or statement, may take
    handshake  seconds that opening a server may take, all its requests together
    parallelism     connections to one server; None leaves it to the backend
    durability      `none` gives up syncing, for folders and databases to be thrown away
    insecure_http   allow a key to travel over plain http to another machine
    index      a folder in which `stretches` and `tagged` of a `filesystem` may keep what they have
               read for the next time; nothing else of a backend relies on it
    """

    kind: str
    location: str
    key: Secret | None = None
    user: str | None = None
    timeout: float = 30.0
    handshake: float = 1.5
    parallelism: int | None = None
    durability: Literal["full", "none"] = "full"
    insecure_http: bool = False
    index: str | None = None


class Scope:
    """Which keys take part: gitignore patterns, matched against the key as a path."""

    def __init__(self, include: Sequence[str] = (), exclude: Sequence[str] = ()) -> None:
        """Raises ValueError for a pattern that gitignore would not understand."""
        self.include = tuple(include)
        self.exclude = tuple(exclude)
        self._include = _patterns(include)
        self._exclude = _patterns(exclude)

    @property
    def narrow(self) -> bool:
        """Whether there is any pattern, so that something may be left out."""
        return self._include is not None or self._exclude is not None

    def entry(self, key: str) -> bool:
        """Whether the entry takes part."""
        if self._include is not None and not self._include.match_file(key):
            return False
        return self._exclude is None or not self._exclude.match_file(key)

    def folder(self, prefix: str) -> bool:
        """Whether anything below `prefix` (without a final slash) can take part."""
        return self._exclude is None or not self._exclude.match_file(prefix + "/")


def _patterns(lines: Sequence[str]) -> pathspec.GitIgnoreSpec | None:
    if not lines:
        return None
    import pathspec  # a tenth of the time that a command takes to start, for patterns only
    from pathspec.patterns.gitignore.spec import GitIgnoreSpecPattern

    class Bounded(GitIgnoreSpecPattern):
        @classmethod
        def pattern_to_regex(cls, pattern: Any) -> tuple[Any, bool | None]:
            regex, include = super().pattern_to_regex(pattern)
            return None if regex is None else bounded(regex), include

    return pathspec.GitIgnoreSpec.from_lines(lines, Bounded, backend="simple")


_BRACKET = r"\[\^?\]?(?:\\.|[^\]\\])+\](?!\*)"
_CHUNK = rf"(?:\\.|\(\?!/\){_BRACKET}|{_BRACKET}|[^\\\[\](){{}}*+?/])"
_FOLDERS = "(?:/.+)?"


def bounded(regex: str) -> str:
    """The expression of a gitignore pattern, made to match the same in bounded time.

    Plans of others bring patterns. With several `*` in a name, or several `**`, an expression that
    does not match tries every way to share the text among them; of each but the last only the first
    place where it fits is tried here, which is as good as any. Brackets match no slash, as in git.
    """
    regex = re.sub(rf"(?<!\\)(?!\[\^/\]){_BRACKET}", r"(?!/)\g<0>", regex)
    regex = re.sub(rf"\[\^/\]\*({_CHUNK}*)(?=\[\^/\]\*)", r"(?>[^/]*?\1)", regex)
    first, *rest = regex.split(_FOLDERS)
    if not rest:
        return regex
    *between, last = rest
    if first.startswith("^(?:.+/)?"):
        first = f"^(?>(?:.+?/)??{first.removeprefix('^(?:.+/)?')}(?=/))"
    inner = "".join(f"(?>(?:/.+?)??{part}(?=/))" for part in between)
    return f"{first}{inner}{_FOLDERS}{last}"


EVERYTHING = Scope()


class Put(Value, frozen=True):
    """Write this entry if what stands there is `before` (None: nothing).

    `sidecar` is the metadata as the source's file has it, where the source has files: b"" where
    the file is missing, None where there is none to be had. A folder stores it byte for byte.
    `resumed` says that an earlier run may have been cut off in this change: then each part of the
    entry may be as before or as after. With a `tag` the entry must also have that tag (see
    `core.entry.tag_of`) in a store whose writers know nothing of each other: a database.
    """

    key: str
    content: bytes
    metadata: Metadata
    before: State | None
    after: State
    sidecar: bytes | None = None
    resumed: bool = False
    tag: str = ""


class Remove(Value, frozen=True):
    """Remove this entry if what stands there is `before`; `resumed` and `tag` as in Put."""

    key: str
    before: State
    resumed: bool = False
    tag: str = ""


Change = Put | Remove

Transition = tuple[State | None, State | None]
"""The states before and after a change; None is absence."""


@dataclass(frozen=True)
class Session:
    """What a batch of changes belongs to.

    run     names the run; files that a folder stages carry it, so that they can be told apart later
    plan    the id of the plan that is carried out, for a log that the store keeps; empty for none
    intend  is called once, with the changes that are ready, when nothing of the batch has taken
            effect yet; nothing takes effect when it raises
    fence   the fence of the lease under which it is written; a store that keeps the lease itself (a
            database) raises Overtaken, with no effect, when it has given out a higher one
    """

    run: str = "0"
    plan: str = ""
    intend: Callable[[Sequence[Change]], None] = lambda changes: None
    fence: int | None = None


class Overtaken(Exception):
    """A lease was given to somebody else since this session's fence was given out."""

    def __init__(self, fence: int) -> None:
        super().__init__("the fence is superseded")
        self.fence = fence


UNATTENDED = Session()


class Stored(Value, frozen=True):
    """Written; `state` is what was read back."""

    key: str
    state: State
    kept: str = ""


class Removed(Value, frozen=True):
    """Removed, and seen to be gone."""

    key: str
    kept: str = ""


class Drifted(Value, frozen=True):
    """Not written: something else stood there. `found` None is absence."""

    key: str
    found: State | None
    kept: str = ""


class Failed(Value, frozen=True):
    """Not done, or not known to be done, for this reason.

    `reason` is for people and holds no secret. `intact` says that the entry was seen to be as it
    was before; otherwise nothing is known of it, or it was seen damaged, and `reason` says which.
    """

    key: str
    reason: str
    intact: bool
    kept: str = ""


Receipt = Stored | Removed | Drifted | Failed
"""`kept` is the name, below the root, of bytes that somebody else wrote and that a change met on
its way: they were set aside there, because nobody planned to destroy them."""

PERMISSION_DENIED = "Permission denied on target"
"""The reason that users see where the target does not let them write."""


class Holder(Value, frozen=True):
    """Who holds a store; `expires_in` seconds more, None until it lets go."""

    name: str
    expires_in: int | None = None


GLANCE = 0.25
"""Seconds after which whoever waits for others comes back to Python, to act on a signal or look
whether what it waits for was closed."""


def locked(location: str, holder: Holder) -> LockedError:
    """Somebody else has the lock."""
    left = f", for {holder.expires_in} seconds more" if holder.expires_in is not None else ""
    return LockedError(
        "Somebody else is writing to this memory.",
        why=f"{holder.name} holds the lock of {location}{left}.",
        hint="Wait for it to end, then run the command again; `hdev lock status` tells who it is.",
    )


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

    @property
    def expected(self) -> int | None:
        """About how many entries a snapshot will give, as far as is known by now; else None.

        For progress only: it may be wrong, it costs nothing to ask, and it may become known, or
        better known, while the snapshot is read.
        """
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


@runtime_checkable
class Stretched(Protocol):
    """What a reader has besides that can hand out many states at once."""

    def stretches(
        self, scope: Scope, normalisation: Normalisation, *, aside: bool = False
    ) -> Iterator[Stretch | Unreadable]:
        """As `snapshot`; to be closed when it is left early.

        `aside` lets it be read while its consumer works. It may then fork, so it is not for a
        process with threads that hash.
        """
        ...


@runtime_checkable
class Tagged(Protocol):
    """What a reader has besides that knows the tag of each entry without reading it again."""

    def tagged(
        self, scope: Scope, normalisation: Normalisation
    ) -> Iterator[tuple[EntryState, str] | Unreadable]:
        """As `snapshot`, each state with the tag (`core.entry.tag_of`) of the whole entry."""
        ...


@runtime_checkable
class Transactional(Protocol):
    """What a backend has besides that can take several writes of its own back together."""

    def transaction(self) -> contextlib.AbstractContextManager[None]:
        """What is written in the context takes effect, durably, at its end; or, where the context
        is left by an exception, not at all. Raises StoreError where that is not known."""
        ...


class Backend(Reader, Protocol):
    """A reader that can also write."""

    @property
    def batch(self) -> int:
        """How many changes are best given to `write` at once; the unit of group commit."""
        ...

    def write(
        self,
        batch: Sequence[Change],
        normalisation: Normalisation,
        session: Session = UNATTENDED,
    ) -> Sequence[Receipt]:
        """Carry out each change whose precondition holds; one receipt for each, in order.

        Entries that are not named are not touched. An error that concerns one entry is its receipt.
        Raises only where nothing can be said of the batch any more (the server refuses the key, the
        root is gone).
        """
        ...

    def parts(self, key: str, normalisation: Normalisation) -> Parts | Unreadable:
        """What each part of an entry is, where it may have been cut off in the middle."""
        ...

    def tidy(
        self,
        runs: Iterable[str],
        keys: Iterable[str],
        cut_off: Mapping[str, Transition],
        normalisation: Normalisation,
    ) -> Sequence[str]:
        """Remove what earlier runs of these names left in the folders of these keys.

        Of the changes that were cut off only bytes that they would write or were to displace are
        removed; anything else is set aside, and the names under which it is kept are returned.
        What stands of those changes is made durable.
        """
        ...

    def hold(self, holder: str) -> contextlib.AbstractContextManager[None]:
        """Keep other applies out while the context lasts. Raises LockedError.

        A courtesy: no promise above rests on it. Where a store has no locks this does nothing.
        """
        ...

    def holder(self) -> Holder | None:
        """Who holds the store now; None when nobody does. Raises UsageError without locks."""
        ...

    def release(self) -> bool:
        """Break the lock, whoever has it; False when nobody has.

        Raises UsageError where a lock cannot be broken.
        """
        ...


class Closing:
    """What every backend has: its context manager, and no idea beforehand of how much it holds."""

    expected: int | None = None

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


class Whole(Closing):
    """What a store answers that keeps no files of ours: it stages nothing, and has no lock
    unless it answers for one itself."""

    batch = BATCH

    def tidy(
        self,
        runs: Iterable[str],
        keys: Iterable[str],
        cut_off: Mapping[str, Transition],
        normalisation: Normalisation,
    ) -> Sequence[str]:
        return ()

    def hold(self, holder: str) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def holder(self) -> Holder | None:
        raise UsageError("This memory has no lock.")

    def release(self) -> bool:
        raise UsageError("This memory has no lock.")


def parts_of(
    found: Entry | Absent | Unreadable, normalisation: Normalisation
) -> Parts | Unreadable:
    """The parts of an entry that was read whole."""
    match found:
        case Absent():
            return Parts(content=None, metadata=None)
        case Unreadable():
            return found
        case Entry():
            try:
                state = normalisation.state(found.content, found.metadata)
            except NotCanonical as error:
                return Unreadable(key=found.key, reason=f"its metadata {error}")
            return Parts(content=state.content, metadata=state.metadata)


def state_of(found: Entry | Absent | Unreadable, normalisation: Normalisation) -> State | None:
    """The state of what was read; None for absence. Raises Unknown where nothing can be said."""
    match found:
        case Absent():
            return None
        case Unreadable(reason=reason):
            raise Unknown(reason)
        case Entry():
            try:
                return normalisation.state(found.content, found.metadata)
            except NotCanonical as error:
                raise Unknown(f"its metadata {error}") from None


class Unknown(Exception):
    """Of what stands there nothing can be said; the text says why."""
