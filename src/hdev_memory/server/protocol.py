"""`hdev-memory/1` as the server speaks it: bodies in, pieces of answers out, in bounded memory.

The pieces of an answer come from generators that run in worker threads, one piece at a time: the
next one is made when the connection has taken the last.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import re
import zlib
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import assert_never

import msgspec
from msgspec import UNSET

from hdev_memory.backends.base import (
    Change,
    Drifted,
    Failed,
    Put,
    Receipt,
    Remove,
    Removed,
    Stored,
)
from hdev_memory.core import protocol as spelled
from hdev_memory.core.digest import (
    NotCanonical,
    decode_bytes,
)
from hdev_memory.core.entry import (
    Absent,
    Entry,
    InvalidKey,
    Metadata,
    Normalisation,
    Unreadable,
    Value,
    check_key,
    tag_of,
)
from hdev_memory.server.limits import Limits
from hdev_memory.server.store import NORMAL, Store

PIECE = 64 * 1024
"""Bytes of an answer that are made at a time."""

_DIGEST = re.compile(r"(?:^|,)[ \t]*sha-256=:([A-Za-z0-9+/]{43}=):[ \t]*(?:,|$)")
_END = 256
"""Room for the end of an answer."""


class Unfit(ValueError):
    """The body is not what the protocol says; `status` is 400, 413 or 422, the text says why."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


# What clients send


def digest_wanted(lines: Sequence[str]) -> bytes:
    """The SHA-256 in the values of Content-Digest (RFC 9530). Raises Unfit."""
    found = _DIGEST.search(", ".join(lines))
    if found is None:
        raise Unfit(400, "Content-Digest with sha-256 is missing")
    try:
        return base64.b64decode(found[1], validate=True)
    except binascii.Error:
        raise Unfit(400, "Content-Digest is no SHA-256") from None


def check_digest(body: bytes, wanted: bytes) -> None:
    """Raises Unfit where the body is not the one that was sent."""
    if hashlib.sha256(body).digest() != wanted:
        raise Unfit(400, "The body does not fit its Content-Digest")


def inflated_size(body: bytes, limit: int) -> int:
    """How many bytes are in a gzip body, as its last four say; `inflated` gives no more. Raises
    Unfit."""
    if not body.startswith(b"\x1f\x8b"):
        raise Unfit(400, "The body is not gzip")
    size = int.from_bytes(body[-4:], "little")
    if size > limit:
        raise Unfit(413, "The batch is too large")
    return size


def inflated(body: bytes, limit: int) -> bytes:
    """What is in a gzip body, as much as it says itself and the limit allows. Raises Unfit."""
    size = inflated_size(body, limit)
    inflate = zlib.decompressobj(wbits=31)
    try:
        found = inflate.decompress(body, size + 1)
    except zlib.error:
        raise Unfit(400, "The body is not gzip") from None
    if len(found) > size or not inflate.eof or inflate.unused_data:
        raise Unfit(400, "The body is not one whole gzip stream")
    return found


@dataclass(frozen=True)
class Wanted:
    """A batch that a client has sent. `keys` are in its order; what can be done is in `changes`,
    what cannot, whatever stands in the store, has its receipt in `refused`."""

    normalisation: Normalisation
    keys: list[str]
    changes: list[Change]
    refused: dict[str, Receipt]


_head = msgspec.json.Decoder(spelled.WriteHead)
_changes = msgspec.json.Decoder(spelled.ChangeLine)
_keys = msgspec.json.Decoder(spelled.ReadRequest)


def decode_write(body: bytes, limits: Limits) -> Wanted:
    """The batch in a body. Raises Unfit where it is none: then nothing of it may take effect."""
    first = body.find(b"\n") + 1
    try:
        head = _head.decode(body[:first])
        if head.changes > limits.batch_entries:
            raise Unfit(413, f"A batch has at most {limits.batch_entries} changes")
        if not body.endswith(b"\n") or body.count(b"\n", first) != head.changes:
            raise Unfit(422, "The body has not as many lines as its head says")
        lines = _changes.decode_lines(memoryview(body)[first:])
    except msgspec.DecodeError as error:
        raise Unfit(422, f"The body is no batch: {error}") from None
    except UnicodeDecodeError:
        raise Unfit(422, "The body is no batch: it is not UTF-8") from None
    except RecursionError:
        raise Unfit(422, "The body is no batch: it is nested too deeply") from None
    if len(lines) != head.changes:
        raise Unfit(422, "The body has not as many lines as its head says")
    wanted = Wanted(Normalisation(line_ends=head.line_ends), [], [], {})
    for number, line in enumerate(lines, 1):
        made = _made(number, line, limits.entry_bytes)
        wanted.keys.append(made.key)
        if isinstance(made, Failed):
            wanted.refused[made.key] = made
        else:
            wanted.changes.append(made)
    if len(set(wanted.keys)) != len(wanted.keys):
        raise Unfit(422, "The body names a key twice")
    return wanted


def _made(number: int, line: spelled.ChangeLine, limit: int) -> Change | Failed:
    """The change of a line, or why it cannot be made. Raises Unfit."""
    if not isinstance(line.put, str):
        if (
            not isinstance(line.remove, str)
            or line.content is not UNSET
            or line.metadata is not UNSET
        ):
            raise Unfit(422, f"Change {number} is neither a put nor a remove")
        if line.before is None:
            raise Unfit(422, f"Change {number} removes what is not there before")
        refusal = _refusal(line.remove)
        return refusal if refusal is not None else Remove(key=line.remove, before=line.before)
    key, text, raw = line.put, line.content, line.metadata
    if line.remove is not UNSET or not isinstance(text, str) or not isinstance(raw, msgspec.Raw):
        raise Unfit(422, f"Change {number} is neither a put nor a remove")
    refusal = _refusal(key)
    if refusal is not None:
        return refusal
    content = text.encode()
    if len(content) > limit or len(raw) > limit:
        return Failed(key=key, reason="Content too large for target backend", intact=True)
    try:
        metadata = _metadata(bytes(raw))
        after = NORMAL.state(content, metadata)
    except NotCanonical as error:
        return Failed(key=key, reason=f"the metadata {error}", intact=True)
    return Put(key=key, content=content, metadata=metadata, before=line.before, after=after)


def _refusal(key: str) -> Failed | None:
    try:
        check_key(key)
    except InvalidKey as error:
        return Failed(key=key, reason=f"the key {error}", intact=True)
    return None


def _metadata(raw: bytes) -> Metadata:
    """Raises NotCanonical, and Unfit for what is not even an object."""
    if not raw.startswith(b"{"):
        raise Unfit(422, "The body is no batch: metadata is an object")
    try:
        return decode_bytes(raw)
    except UnicodeDecodeError:
        raise Unfit(422, "The body is no batch: it is not UTF-8") from None


def decode_read(body: bytes, limits: Limits) -> list[str]:
    """The keys that are asked for. Raises Unfit."""
    try:
        keys = _keys.decode(body).keys
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Unfit(422, f"The body is no list of keys: {error}") from None
    if len(keys) > limits.batch_entries:
        raise Unfit(413, f"At most {limits.batch_entries} keys are read at once")
    if len(set(keys)) != len(keys):
        raise Unfit(422, "The body names a key twice")
    return keys


# What they are answered


def snapshot(
    store: Store,
    store_id: str,
    normalisation: Normalisation,
    after: str | None,
    limit: int | None,
) -> Generator[bytes, None, None]:
    """The pieces of a snapshot. Raises StoreError, OSError."""
    lines = spelled.Lines(
        spelled.SnapshotHead(
            protocol=spelled.PROTOCOL,
            kind="snapshot",
            store=store_id,
            line_ends=normalisation.line_ends,
            bookkeeping=normalisation.bookkeeping,
            about=store.about,
        )
    )
    last = following = None
    for found in store.tagged(normalisation, after):
        if lines.entries == limit:
            following = last
            break
        if isinstance(found, Unreadable):
            last = found.key
            lines.add(spelled.UnreadableLine(key=found.key, unreadable=found.reason))
        else:
            entry, tag = found
            last = entry.key
            lines.add(
                spelled.StateLine(
                    key=entry.key,
                    content=entry.state.content,
                    metadata=entry.state.metadata,
                    bytes=entry.state.bytes,
                    etag=f'"{tag}"',
                    values=entry.metadata,
                    note=entry.note,
                )
            )
        if len(lines) >= PIECE:
            yield lines.take()
    else:
        if after is None:
            store.about = lines.entries
    yield lines.page_end(following)


def entries(store: Store, keys: Sequence[str], limit: int) -> Generator[bytes, None, None]:
    """The pieces of what `read` answers, of `limit` bytes at most but for the first entry.

    Raises StoreError, OSError.
    """
    lines = spelled.Lines(spelled.EntriesHead())
    size = len(lines) + _END
    for key, found in zip(keys, store.read_each(keys), strict=True):
        line = msgspec.json.encode(_entry(key, found))
        size += len(line) + 1
        if size > limit and lines.entries:
            break
        lines.add_encoded(line)
        if len(lines) >= PIECE:
            yield lines.take()
    yield lines.end()


def _entry(key: str, found: Entry | Absent | Unreadable) -> Value:
    match found:
        case Entry(content=content, metadata=metadata):
            tag = f'"{tag_of(content, metadata)}"'
            return spelled.EntryLine(key=key, content=content.decode(), metadata=metadata, etag=tag)
        case Absent():
            return spelled.AbsentLine(key=key)
        case Unreadable(reason=reason):
            return spelled.UnreadableLine(key=key, unreadable=reason)
        case _:
            assert_never(found)


def receipts(wanted: Wanted, made: Sequence[Receipt]) -> Generator[bytes, None, None]:
    """What `write` answers, in one piece."""
    puts = {change.key: change for change in wanted.changes if isinstance(change, Put)}
    by_key = {receipt.key: receipt for receipt in made} | wanted.refused
    lines = spelled.Lines(spelled.ReceiptsHead())
    for key in wanted.keys:
        lines.add(_receipt(by_key[key], puts))
    yield lines.end()


def _receipt(receipt: Receipt, puts: dict[str, Put]) -> Value:
    match receipt:
        case Stored(key=key, state=state, kept=kept):
            put = puts[key]
            tag = f'"{tag_of(put.content, put.metadata)}"'
            return spelled.StoredLine(key=key, stored=state, etag=tag, kept=kept)
        case Removed(key=key, kept=kept):
            return spelled.RemovedLine(key=key, removed=True, kept=kept)
        case Drifted(key=key, found=found, kept=kept):
            return spelled.DriftedLine(key=key, drifted=found, kept=kept)
        case Failed(key=key, reason=reason, intact=intact, kept=kept):
            return spelled.FailedLine(key=key, failed=reason, intact=intact, kept=kept)
        case _:
            assert_never(receipt)


def zipped(pieces: Generator[bytes, None, None]) -> Generator[bytes]:
    """The same as one gzip stream."""
    deflate = zlib.compressobj(level=1, wbits=31)
    with contextlib.closing(pieces):
        for piece in pieces:
            if made := deflate.compress(piece):
                yield made
    yield deflate.flush()
