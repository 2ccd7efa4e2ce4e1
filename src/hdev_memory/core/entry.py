"""Keys, entries, and the states of entries that plans are made of."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterable
from typing import Annotated, Any, Literal

import msgspec

from hdev_memory.core.digest import Digest, Plain, canonical_json, sha256

Metadata = dict[str, Any]

BOOKKEEPING = ("created", "updated", "version")
"""Metadata keys that backends rewrite by themselves; copied, but no part of the digest."""

MAX_KEY_BYTES = 1024

PLACEHOLDER_KEY = "global"
PLACEHOLDER_CONTENT = b"Global memory storage for critical information"
"""What the existing system writes into every store that it opens; it is nobody's memory."""

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")


class Value(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The base of every value here: immutable, and strict when it is decoded."""


class InvalidKey(ValueError):
    """The text is no key; the message says which rule it breaks."""


def check_key(key: str) -> str:
    """Return `key` unchanged when it is one, before any I/O is done with it.

    A key is `a/b/c`: non-empty segments, none of them `.` or `..`, no control characters, no
    backslash, no slash at either end, at most 1,024 bytes of UTF-8. Raises InvalidKey.
    """
    if _is_plain(key):
        return key
    try:
        size = len(key.encode())
    except UnicodeEncodeError:
        raise InvalidKey("is not valid Unicode") from None
    if size > MAX_KEY_BYTES:
        raise InvalidKey(f"is longer than {MAX_KEY_BYTES} bytes")
    if "\\" in key:
        raise InvalidKey("holds a backslash")
    if _CONTROL.search(key):
        raise InvalidKey("holds a control character")
    for segment in key.split("/"):
        if segment in ("", ".", ".."):
            raise InvalidKey("holds an empty, `.` or `..` segment")
    return key


def _is_plain(key: str) -> bool:
    """Whether a key surely breaks no rule: asked first, as nearly every key is ASCII."""
    return (
        key.isascii()
        and key.isprintable()
        and len(key) <= MAX_KEY_BYTES
        and "\\" not in key
        and "//" not in key
        and "/." not in key
        and not key.startswith(("/", "."))
        and not key.endswith("/")
        and key != ""
    )


class State(Value, frozen=True):
    """What an entry is, in digests: of its content, and of its metadata without bookkeeping."""

    content: Digest
    metadata: Digest
    bytes: Annotated[int, msgspec.Meta(ge=0)]


class Entry(Value, frozen=True):
    """An entry with everything it holds; `content` is the raw UTF-8 bytes.

    `sidecar` is the metadata byte for byte, from a store that keeps it in a file of its own: b""
    where that file is missing, None from a store without such files.
    """

    key: str
    content: bytes
    metadata: Metadata
    note: str = ""
    sidecar: bytes | None = None


class EntryState(Value, frozen=True):
    """An entry as a snapshot sees it; `metadata` is without bookkeeping, `note` is for people."""

    key: str
    state: State
    metadata: Metadata
    note: str = ""


class Absent(Value, frozen=True):
    """The backend said, in so many words, that there is no such entry."""

    key: str


class Unreadable(Value, frozen=True):
    """Something is there, or may be there, and cannot be read: never to be taken for absence.

    `key` is the key, or the escaped name of something that can have no key (see `display_name`).
    """

    key: str
    reason: str


class Parts(Value, frozen=True):
    """The digest of each part of an entry by itself; None where the part is missing."""

    content: Digest | None
    metadata: Digest | None


class Normalisation(Value, frozen=True):
    """How both ends' entries become comparable; the plan records it, and everything obeys it.

    `line_ends` is `lf` where one end returns CRLF and CR as LF: then digests are over content
    with LF line ends on both sides, and exact bytes cannot be verified there.
    """

    line_ends: Literal["exact", "lf"] = "exact"
    bookkeeping: tuple[str, ...] = BOOKKEEPING

    def content(self, content: bytes) -> bytes:
        if self.line_ends == "lf" and b"\r" in content:
            return content.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        return content

    def metadata(self, metadata: Metadata) -> Metadata:
        kept = Plain(metadata) if type(metadata) is Plain else dict(metadata)
        for name in self.bookkeeping:
            kept.pop(name, None)
        return kept

    def state(self, content: bytes, metadata: Metadata) -> State:
        """The state of an entry with this content and metadata.

        Raises NotCanonical when the metadata has no canonical form.
        """
        content = self.content(content)
        return State(
            content=sha256(content),
            metadata=metadata_digest(self.metadata(metadata)),
            bytes=len(content),
        )

    def entry_state(self, entry: Entry) -> EntryState:
        metadata = self.metadata(entry.metadata)
        content = self.content(entry.content)
        state = State(
            content=sha256(content), metadata=metadata_digest(metadata), bytes=len(content)
        )
        return EntryState(key=entry.key, state=state, metadata=metadata, note=entry.note)


def metadata_digest(metadata: Metadata) -> str:
    """The SHA-256 of the canonical JSON of metadata that is already without bookkeeping."""
    return sha256(canonical_json(metadata))


# What it spells is no circle: whatever comes here has been read, or has a canonical form.
_encode = json.JSONEncoder(sort_keys=True, ensure_ascii=True, check_circular=False).encode


def tag_of(content: bytes, metadata: Metadata) -> str:
    """64 hex digits that name everything an entry holds, bookkeeping included.

    Two entries with one tag are read alike byte for byte; our server's ETag is this in quotes.
    """
    return tag_of_digest(sha256(content), metadata)


def tag_of_digest(content: str, metadata: Metadata) -> str:
    """As `tag_of`, from the digest of the content."""
    if type(metadata) is Plain and len(raw := _raw(metadata)) <= _OFTEN_BYTES:
        text = _often(raw)
    else:
        text = _encode(metadata).encode()
    return sha256(bytes.fromhex(content) + text)


_raw = msgspec.json.Encoder().encode
_OFTEN_BYTES = 2048


@functools.lru_cache(2048)
def _often(raw: bytes) -> bytes:
    """How a tag spells metadata, which a write and what reads it back ask for again and again."""
    return _encode(msgspec.json.decode(raw)).encode()


class Capabilities(Value, frozen=True):
    """What a backend can promise; probed when it is opened, printed in the plan.

    cas        `atomic`: a write happens only if the entry is what it was expected to be;
               `guarded`: re-read just before and just after the write; `none`: neither
    durability `synced`: an acknowledged write survives power loss; `unknown`: it is not said
    line_ends  `exact`, or `lf` when CRLF and CR come back as LF
    metadata   `replace`, or `merge` when keys that only the target has survive a write
    names      `any`, or `no-suffix` when a dot in the last segment loses text
    beside     an entry E cannot stand beside a key that starts with E + one of these
    max_entry_bytes    the limit on content, where one is known
    max_segment_bytes  the limit on the last segment, where names become file names
    """

    cas: Literal["atomic", "guarded", "none"]
    durability: Literal["synced", "unknown"]
    line_ends: Literal["exact", "lf"] = "exact"
    metadata: Literal["replace", "merge"] = "replace"
    names: Literal["any", "no-suffix"] = "any"
    beside: tuple[str, ...] = ()
    max_entry_bytes: int | None = None
    max_segment_bytes: int | None = None

    def objection(self, key: str) -> str | None:
        """Why no entry of this key can be written here; None when one can."""
        limit = self.max_segment_bytes
        if self.names == "any" and key.isascii() and len(key) <= min(limit or 255, 255):
            return None
        last = key.rpartition("/")[2]
        if self.names == "no-suffix" and has_suffix(last):
            return "cannot be represented: this server would drop the name after the last dot"
        if limit is not None and len(last.encode()) > limit:
            return f"cannot be represented: its name is longer than {limit} bytes"
        if limit is not None and any(len(s.encode()) > 255 for s in key.split("/")):
            return "cannot be represented: a folder name is longer than 255 bytes"
        return None

    def shadow(self, key: str, others: Iterable[str]) -> str | None:
        """The first of `others` that cannot stand in one store with `key`, if any."""
        for other in others:
            if any(key.startswith(other + suffix) for suffix in self.beside):
                return other
        return None


def has_suffix(name: str) -> bool:
    """Whether some version of pathlib sees a suffix in `name`, which the existing server replaces.

    Python 3.14 also counts a final dot, earlier ones count the dot of `..a`: both are taken in.
    """
    return "." in name[1:]


def agree(*ends: Capabilities) -> Normalisation:
    """The strictest normalisation under which all of these ends are comparable."""
    lossy = any(end.line_ends == "lf" for end in ends)
    return Normalisation(line_ends="lf" if lossy else "exact")


def display_name(name: str) -> str:
    """A name that is no key, made printable and unambiguous: bytes that are not UTF-8 as `\\xHH`,
    control characters as `\\u{HH}`, and a backslash doubled."""
    out = []
    for char in name:
        code = ord(char)
        if char == "\\":
            out.append("\\\\")
        elif 0xDC80 <= code <= 0xDCFF:  # os.fsdecode's stand-in for a byte that is not UTF-8
            out.append(f"\\x{code - 0xDC00:02x}")
        elif _CONTROL.match(char) or 0xD800 <= code <= 0xDFFF:
            out.append(f"\\u{{{code:x}}}")
        else:
            out.append(char)
    return "".join(out)
