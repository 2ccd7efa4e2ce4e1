"""How `hdev-memory/1` is spelled: lines of JSON between a head and an end that proves them whole.

`docs/formats.md` has the text. Both sides use this module; it knows neither of them.
"""

from __future__ import annotations

import hashlib
from typing import Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

from hdev_memory.core.digest import Digest
from hdev_memory.core.entry import Metadata, State, Value

PROTOCOL: Literal["hdev-memory/1"] = "hdev-memory/1"
PATH = f"/api/{PROTOCOL}"
NDJSON = "application/x-ndjson"

LineEnds = Literal["exact", "lf"]


class SnapshotHead(Value, frozen=True):
    """The first line of a snapshot; `about` is how many entries to expect, for progress only."""

    protocol: Literal["hdev-memory/1"]
    kind: Literal["snapshot"]
    store: str
    line_ends: LineEnds
    bookkeeping: tuple[str, ...]
    about: int | None


class EntriesHead(Value, frozen=True):
    """The first line of what `read` answers."""

    protocol: Literal["hdev-memory/1"] = PROTOCOL
    kind: Literal["entries"] = "entries"


class WriteHead(Value, frozen=True):
    """The first line of what `write` is sent."""

    protocol: Literal["hdev-memory/1"]
    kind: Literal["write"]
    line_ends: LineEnds
    changes: int


class ReceiptsHead(Value, frozen=True):
    """The first line of what `write` answers."""

    protocol: Literal["hdev-memory/1"] = PROTOCOL
    kind: Literal["receipts"] = "receipts"


class End(Value, frozen=True):
    """The last line: how many lines stand between it and the head, and the SHA-256 of all bytes
    before it."""

    end: Literal[True]
    entries: int
    digest: Digest


class PageEnd(Value, frozen=True):
    """The end of a snapshot; `next` is the last key of a page that others follow."""

    end: Literal[True]
    entries: int
    digest: Digest
    next: str | None


class StateLine(Value, frozen=True, omit_defaults=True):
    """An entry in a snapshot; `values` is its metadata without bookkeeping."""

    key: str
    content: Digest
    metadata: Digest
    bytes: int
    etag: str
    values: Metadata
    note: str = ""


class UnreadableLine(Value, frozen=True):
    """What is there, or may be there, and cannot be read."""

    key: str
    unreadable: str


class EntryLine(Value, frozen=True):
    """An entry whole."""

    key: str
    content: str
    metadata: Metadata
    etag: str


class AbsentLine(Value, frozen=True):
    """There is no such entry."""

    key: str
    absent: Literal[True] = True


class ReadRequest(Value, frozen=True):
    """The body of `read`."""

    keys: list[str]


class ChangeLine(Value, frozen=True):
    """One change that `write` is sent: with `put`, `content` and `metadata`, or with `remove`."""

    before: State | None
    put: str | UnsetType = UNSET
    remove: str | UnsetType = UNSET
    content: str | UnsetType = UNSET
    metadata: msgspec.Raw | UnsetType = UNSET


class StoredLine(Value, frozen=True, omit_defaults=True):
    """Written; `stored` is what was read back."""

    key: str
    stored: State
    etag: str
    kept: str = ""


class RemovedLine(Value, frozen=True, omit_defaults=True):
    """Removed, and seen to be gone."""

    key: str
    removed: Literal[True]
    kept: str = ""


class DriftedLine(Value, frozen=True, omit_defaults=True):
    """Not written: `drifted` stands there, None for nothing."""

    key: str
    drifted: State | None
    kept: str = ""


class FailedLine(Value, frozen=True, omit_defaults=True):
    """Not done, or not known to be done, for the reason in `failed`."""

    key: str
    failed: str
    intact: bool = False
    kept: str = ""


class Lines:
    """The bytes of a body as it grows: what was taken is counted and hashed, and forgotten."""

    def __init__(self, head: Value) -> None:
        self.entries = 0
        self._sha256 = hashlib.sha256()
        self._encode_into = msgspec.json.Encoder().encode_into
        self._waiting = bytearray()
        self._append(head)

    def __len__(self) -> int:
        """How many bytes wait to be taken."""
        return len(self._waiting)

    def add(self, line: Value) -> None:
        """One more line between head and end."""
        self._append(line)
        self.entries += 1

    def add_encoded(self, line: bytes) -> None:
        """The same for a line that is JSON already, without its LF."""
        self._waiting += line
        self._waiting += b"\n"
        self.entries += 1

    def take(self) -> bytes:
        """What was added since the last time."""
        piece = bytes(self._waiting)
        self._sha256.update(piece)
        self._waiting.clear()
        return piece

    def end(self) -> bytes:
        """What is left, and the end."""
        rest = self.take()
        return rest + _line(End(end=True, entries=self.entries, digest=self._sha256.hexdigest()))

    def page_end(self, following: str | None) -> bytes:
        """What is left, and the end of a snapshot."""
        rest = self.take()
        digest = self._sha256.hexdigest()
        end = PageEnd(end=True, entries=self.entries, digest=digest, next=following)
        return rest + _line(end)

    def _append(self, value: Value) -> None:
        self._encode_into(value, self._waiting, -1)
        self._waiting += b"\n"


def _line(value: Any) -> bytes:
    return msgspec.json.encode(value) + b"\n"
