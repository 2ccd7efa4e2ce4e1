"""Answers of `hdev-memory/1`: proved whole by their last line, and only then read line by line."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

import msgspec
from msgspec import UNSET, UnsetType

from hdev_memory.backends.http_transport import Answer, failure
from hdev_memory.core.digest import Digest, decode_bytes
from hdev_memory.core.entry import Metadata, State
from hdev_memory.core.protocol import EntriesHead, ReceiptsHead, SnapshotHead
from hdev_memory.errors import BackendError

Head = TypeVar("Head", SnapshotHead, EntriesHead, ReceiptsHead)
T = TypeVar("T")


class Key(msgspec.Struct):
    """Any line, of which only the key is wanted."""

    key: str


class Listed(msgspec.Struct):
    """A line of a snapshot: a state, or why there is none."""

    key: str
    content: Digest | UnsetType = UNSET
    metadata: Digest | UnsetType = UNSET
    bytes: int | UnsetType = UNSET
    values: msgspec.Raw | UnsetType = UNSET
    note: str = ""
    unreadable: str | UnsetType = UNSET


class Held(msgspec.Struct):
    """A line of what was read: exactly one of an entry, its absence, and a reason."""

    key: str
    content: str | UnsetType = UNSET
    metadata: msgspec.Raw | UnsetType = UNSET
    absent: Literal[True] | UnsetType = UNSET
    unreadable: str | UnsetType = UNSET


class Told(msgspec.Struct):
    """A receipt as the server gives it: exactly one of four."""

    key: str
    stored: State | UnsetType = UNSET
    removed: Literal[True] | UnsetType = UNSET
    drifted: State | UnsetType | None = UNSET
    failed: str | UnsetType = UNSET
    kept: str = ""


class _End(msgspec.Struct):
    end: Literal[True]
    entries: int
    digest: Digest
    next: str | None = None


_end = msgspec.json.Decoder(_End)


@dataclass(frozen=True)
class Proved(Generic[Head]):
    """The lines between the head and the end of an answer that came whole.

    `next` is the key behind which the next page of a snapshot begins, None where none is left.
    """

    head: Head
    lines: Sequence[bytes]
    next: str | None


class Lines(Generic[Head]):
    """A kind of answer, to requests of one method and path."""

    def __init__(self, method: str, path: str, head: type[Head], headline: str) -> None:
        """`headline` is what an answer that cannot be used comes to, in a sentence."""
        self._method = method
        self._path = path
        self._headline = headline
        self._head: msgspec.json.Decoder[Head] = msgspec.json.Decoder(head)

    def proved(self, answer: Answer, most: int) -> Proved[Head]:
        """The lines of an answer that is whole and has at most so many.

        Raises BackendError: such an answer proves neither what is there nor what is not.
        """
        if answer.status != 200 or not answer.lines:
            raise self.unusable(answer.cause)
        raw = answer.lines
        if raw.count(b"\n") > most + 2:  # before they cost more than their bytes
            raise self.unusable(f"it has more than {most} lines")
        start = raw.rfind(b"\n", 0, -1) + 1
        lines = raw[:start].split(b"\n")[:-1]
        if not lines or not raw.endswith(b"\n"):
            raise self.unusable("it is cut")
        try:
            end = _end.decode(raw[start:])
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
            raise self.unusable("it is cut: its last line is no end") from None
        if end.digest != hashlib.sha256(memoryview(raw)[:start]).hexdigest():
            raise self.unusable("its digest is wrong")
        if end.entries != len(lines) - 1:
            raise self.unusable(f"{len(lines) - 1} lines came, and its end says {end.entries}")
        return Proved(self.decoded(self._head, lines[0]), lines[1:], end.next)

    def decoded(self, decoder: msgspec.json.Decoder[T], raw: bytes) -> T:
        """One line. Raises BackendError."""
        try:
            return decoder.decode(raw)
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
            raise self.unusable(f"a line of it is not what it should be ({error})") from None

    def unusable(self, cause: str) -> BackendError:
        """What an answer comes to that cannot be used."""
        return BackendError(
            self._headline,
            why=failure(self._method, self._path, cause) + ".",
            hint="Look at the server's log, and at what stands between here and the server.",
        )


def metadata_of(raw: msgspec.Raw | UnsetType) -> Metadata:
    """Metadata, read as strictly as that of a folder. Raises NotCanonical."""
    return decode_bytes(bytes(raw) if isinstance(raw, msgspec.Raw) else b"")
