"""What a check is, and the backend under check as a check sees it: below a folder of its own."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, Literal, NoReturn, TypeVar

from hdev_memory.backends.base import (
    UNATTENDED,
    Backend,
    Change,
    Drifted,
    Put,
    Receipt,
    Remove,
    Scope,
    Session,
    Stored,
)
from hdev_memory.core.digest import sha256
from hdev_memory.core.entry import (
    Absent,
    Capabilities,
    Entry,
    EntryState,
    Metadata,
    Normalisation,
    State,
    Unreadable,
    agree,
)
from hdev_memory.errors import HdevError

Group = Literal[
    "basic",
    "not-found",
    "names",
    "integrity",
    "cas",
    "list",
    "visibility",
    "durability",
    "lock",
    "errors",
    "limits",
    "identity",
    "chaos",
]

Found = Entry | Absent | Unreadable
T = TypeVar("T")


class BrokenPromise(Exception):
    """The backend did something else than it promises."""

    def __init__(self, expected: str, found: object) -> None:
        super().__init__(f"expected {expected}; found {shown(found)}")
        self.expected = expected
        self.found = shown(found)


class NotApplicable(Exception):
    """The promise does not concern this backend; the text says why."""


@dataclass(frozen=True)
class Check:
    """One promise, and the function that raises BrokenPromise where it does not hold.

    writes  the proof needs to write
    last    it is proved after the cleaning
    """

    name: str
    group: Group
    prove: Callable[[Subject], None]
    promise: str
    writes: bool = True
    last: bool = False


@dataclass(frozen=True)
class Faults:
    """What only somebody inside of the store can do; None where nobody is.

    damage  makes the stored content of a key unreadable while the context lasts
    vanish  takes the whole store away while the context lasts
    """

    damage: Callable[[str], contextlib.AbstractContextManager[None]] | None = None
    vanish: Callable[[], contextlib.AbstractContextManager[None]] | None = None


States = dict[str, State | None]
"""Keys with their states; None where an entry is unreadable."""


@dataclass
class Record:
    """What a run has done and seen so far.

    keys      every key that a write was tried with
    outside   the states outside of the prefix before the first write; a text where they cannot be
              told
    interleaved  for a kind of change, whether what somebody wrote in between was kept
    observed  capability -> what was seen of it
    notes     what deserves to be said of the check that is running, and breaks no promise
    """

    keys: set[str] = field(default_factory=set)
    outside: States | str = field(default_factory=dict)
    interleaved: dict[str, bool] = field(default_factory=dict)
    observed: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Subject:
    """A backend under check, and the folder that one check works in.

    backend  open, and of a store that exists
    again    opens a second connection to the same store
    prefix   the fresh name below which alone the run works
    folder   where this check works: a key below the prefix
    random   the run's source of randomness
    sweep    removes what the run left below the prefix and no backend removes
    """

    backend: Backend
    again: Callable[[], Backend]
    prefix: str
    random: Random
    folder: str = ""
    faults: Faults = field(default_factory=Faults)
    record: Record = field(default_factory=Record)
    sweep: Callable[[], None] = lambda: None

    @property
    def capabilities(self) -> Capabilities:
        return self.backend.capabilities

    @property
    def normalisation(self) -> Normalisation:
        return agree(self.capabilities)

    @property
    def scope(self) -> Scope:
        return Scope(include=[f"/{self.folder or self.prefix}/"])

    @property
    def beside_folder(self) -> bool:
        """Whether an entry is declared not to stand beside a folder of its name."""
        return "/" in self.capabilities.beside

    def require_atomic(self) -> None:
        """Raises NotApplicable where less is declared."""
        if self.capabilities.cas != "atomic":
            raise NotApplicable(f"cas is declared `{self.capabilities.cas}`")

    def key(self, name: str) -> str:
        return f"{self.folder}/{name}"

    def names(self, keys: Iterable[str]) -> list[str]:
        """The keys below this folder, without it."""
        below = self.folder + "/"
        return [key.removeprefix(below) for key in keys if key.startswith(below)]

    # Changing

    def state(self, content: bytes = b"x", metadata: Metadata | None = None) -> State:
        return self.normalisation.state(content, metadata or {})

    def put(
        self,
        name: str,
        content: bytes = b"x",
        metadata: Metadata | None = None,
        *,
        before: State | None = None,
        resumed: bool = False,
    ) -> Put:
        return Put(
            key=self.key(name),
            content=content,
            metadata=metadata or {},
            before=before,
            after=self.state(content, metadata),
            resumed=resumed,
        )

    def remove(self, name: str, before: State, *, resumed: bool = False) -> Remove:
        return Remove(key=self.key(name), before=before, resumed=resumed)

    def write(
        self, *changes: Change, session: Session = UNATTENDED, through: Backend | None = None
    ) -> Sequence[Receipt]:
        """Give changes to the backend, and remember their keys for the cleaning."""
        self.record.keys.update(change.key for change in changes)
        receipts = (through or self.backend).write(changes, self.normalisation, session)
        answered = [receipt.key for receipt in receipts]
        if answered != [change.key for change in changes]:
            broken("one receipt for each change, in their order", receipts)
        return receipts

    def made(
        self,
        name: str,
        content: bytes = b"x",
        metadata: Metadata | None = None,
        *,
        through: Backend | None = None,
    ) -> State:
        """Create an entry, which has to work; gives its state."""
        put = self.put(name, content, metadata)
        (receipt,) = self.write(put, through=through)
        same(receipt, Stored(key=put.key, state=put.after), "the receipt of a new entry")
        return put.after

    def drifts(self, change: Change, found: State | None) -> None:
        """The change has to be refused, because `found` stands there."""
        (receipt,) = self.write(change)
        same(receipt, Drifted(key=change.key, found=found), "the receipt")

    # Looking

    def read(self, name: str, *, through: Backend | None = None) -> Found:
        answers = list((through or self.backend).read([self.key(name)]))
        if [answer.key for answer in answers] != [self.key(name)]:
            broken(f"one answer, about {self.key(name)}", answers)
        return answers[0]

    def entry(self, name: str, *, through: Backend | None = None) -> Entry:
        """Read an entry that has to be there."""
        found = self.read(name, through=through)
        if not isinstance(found, Entry):
            broken("an entry", found)
        return found

    def stands(self, name: str, content: bytes, *, through: Backend | None = None) -> None:
        """The entry has to have this content."""
        found = self.normalisation.content(self.entry(name, through=through).content)
        same(found, self.normalisation.content(content), f"the content of {name}")

    def absent(self, name: str, *, through: Backend | None = None) -> None:
        """There has to be no such entry."""
        same(self.read(name, through=through), Absent(key=self.key(name)), f"the answer for {name}")

    def listed(self, scope: Scope | None = None) -> list[EntryState | Unreadable]:
        """The snapshot of this check's folder."""
        found = self.backend.snapshot(scope or self.scope, self.normalisation)
        return [item for item in found if item.key.startswith(self.folder + "/")]

    @contextlib.contextmanager
    def connection(self) -> Iterator[Backend]:
        """A second connection, while the context lasts."""
        with self.again() as other:
            yield other

    def outside(self) -> States | str:
        """What is outside of the prefix; a text where it cannot be listed."""
        scope = Scope(exclude=[f"/{self.prefix}/"])
        try:
            return {
                found.key: found.state if isinstance(found, EntryState) else None
                for found in self.backend.snapshot(scope, self.normalisation)
                if not found.key.startswith(self.prefix + "/")
            }
        except HdevError as error:
            return str(error)

    # Telling

    def observe(self, capability: str, text: str) -> None:
        """Say for the capability card what was seen."""
        self.record.observed[capability] = text

    def note(self, text: str) -> None:
        """Say something that breaks no promise."""
        self.record.notes.append(text)


def broken(expected: str, found: object) -> NoReturn:
    raise BrokenPromise(expected, found)


def same(found: T, wanted: T, what: str) -> None:
    """Raises BrokenPromise where they differ."""
    if found != wanted:
        raise BrokenPromise(f"{what} to be {shown(wanted)}", found)


def shown(value: Any) -> str:
    """A value for people: short, whatever it is."""
    if isinstance(value, bytes) and len(value) > 80:
        return f"{len(value)} bytes ({sha256(value)[:12]}…)"
    if isinstance(value, str):
        text = value or "nothing"
    elif isinstance(value, Entry):
        text = f"Entry({value.key!r}, {shown(value.content)}, {value.metadata!r})"
    elif isinstance(value, list | tuple):
        text = f"[{', '.join(shown(item) for item in value[:12])}{', …' * (len(value) > 12)}]"
    else:
        text = repr(value)
    return text if len(text) <= 600 else text[:599] + "…"
