"""Entries that follow one another in a snapshot, as bytes: sent, compared and counted at once.

Most entries of two memories are alike, and most of them in whole folders. So a reader may hand out
its states by stretches; of two that are spelled alike no single entry needs to be looked at.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from hdev_memory.core.entry import EntryState, Metadata, State, Value

_encode = msgspec.json.Encoder().encode
read_line = msgspec.json.Decoder[tuple[str, State]](tuple[str, State]).decode
"""The key and the state in a `state_line`."""

_states = msgspec.json.Decoder[list[tuple[str, State]]](list[tuple[str, State]])
_objects = msgspec.json.Decoder[list[Metadata]](list[Metadata])


class Stretch(Value, frozen=True):
    """At least one entry, all of them in one folder, sorted by key.

    first, last  their first and last key
    count        how many there are
    size         bytes of their content, together
    lines        a `state_line` for each
    metadata     a JSON array of what each has for metadata, without bookkeeping
    notes        of those that have one: key -> note
    tags         the tags (`core.entry.tag_of`) of all, one behind the other; empty where unknown
    """

    first: str
    last: str
    count: int
    size: int
    lines: bytes
    metadata: bytes
    notes: dict[str, str] = msgspec.field(default_factory=dict)
    tags: str = ""

    def entries(self) -> Iterator[EntryState]:
        """The states one by one."""
        states = _states.decode(b"[" + self.lines[:-1].replace(b"\n", b",") + b"]")
        objects = _objects.decode(self.metadata)
        for (key, state), metadata in zip(states, objects, strict=True):
            yield EntryState(key=key, state=state, metadata=metadata, note=self.notes.get(key, ""))

    def tagged(self) -> Iterator[tuple[EntryState, str]]:
        """The same, each with its tag, where tags are known."""
        for number, entry in enumerate(self.entries()):
            yield entry, self.tags[64 * number : 64 * (number + 1)]

    def prefixes_of(self, key: str) -> Iterator[str]:
        """Keys in here that `key`, which comes later, begins with; the shortest first."""
        shared = 0
        for mine, its in zip(self.last, key, strict=False):
            if mine != its:
                break
            shared += 1
        # What lies between a key and one that begins with it begins with it as well: the last does.
        for length in range(self.first.rfind("/") + 2, shared + 1):
            if b"[" + _encode(key[:length]) + b"," in self.lines:
                yield key[:length]


def state_line(key: str, state: State) -> bytes:
    """An entry's state as every digest over states spells it."""
    return _encode([key, state]) + b"\n"


def is_plain(keys: str) -> bool:
    """Whether these keys, one behind the other, are spelled in JSON as they are."""
    return keys.isascii() and keys.isprintable() and '"' not in keys and "\\" not in keys


def plain_line(key: str, content: str, metadata: str, size: int) -> str:
    """As `state_line`, for a key that is plain."""
    return f'["{key}",{{"content":"{content}","metadata":"{metadata}","bytes":{size}}}]\n'
