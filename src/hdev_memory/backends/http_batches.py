"""Many entries in one request: `hdev-memory/1`, which our own server announces in its health.

Nothing of an answer is taken before its last line has proved it whole: a page of a snapshot waits,
as bytes, until then. What a write's answer says is never taken for what was done: the entries are
read back, and the answer only helps to say why.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any
from urllib.parse import quote

import msgspec

from hdev_memory.backends.base import (
    PERMISSION_DENIED,
    Change,
    Drifted,
    Failed,
    Put,
    Receipt,
    Removed,
    Scope,
    Session,
    Stored,
    Unknown,
    state_of,
)
from hdev_memory.backends.http_lines import Held, Key, Lines, Listed, Proved, Told, metadata_of
from hdev_memory.backends.http_outcome import (
    Found,
    Outcome,
    Sending,
    after_of,
    cut_off,
    receipt_of,
    refused_by,
    unsendable,
)
from hdev_memory.backends.http_transport import (
    Answer,
    AnswerTooLarge,
    RequestFailed,
    Transport,
    result,
    short,
    unreachable,
)
from hdev_memory.core.diff import TOO_LARGE
from hdev_memory.core.digest import (
    NotCanonical,
)
from hdev_memory.core.entry import (
    BOOKKEEPING,
    Absent,
    Capabilities,
    Entry,
    EntryState,
    InvalidKey,
    Metadata,
    Normalisation,
    State,
    Unreadable,
    check_key,
    display_name,
    metadata_digest,
)
from hdev_memory.core.protocol import (
    PATH,
    PROTOCOL,
    EntriesHead,
    ReceiptsHead,
    SnapshotHead,
    WriteHead,
)
from hdev_memory.errors import BackendError, KeyRefusedError

_REQUEST_ENTRIES = 512
_REQUEST_BYTES = 4 * 1024 * 1024
"""The most that is sent in one request, also where the server takes more: while it carries one out
the next is on its way, and the one before is read back."""

_AHEAD = 3
"""Requests under way at once."""

_CHANGES = 2048
"""Changes that are best written together: several requests, and one record of what is intended."""

_HEAD_BYTES = 256
"""More than the first line of a write takes."""

_NAME_LENGTH = 16 * 1024
"""Characters of a name that is no key and is shown nevertheless."""

_RECEIPT_BYTES = 16 * 1024
"""The longest line of a receipt: a key with every character escaped, and a reason."""

_Positive = Annotated[int, msgspec.Meta(gt=0)]


class _Most(msgspec.Struct):
    """What the server says that one request may hold."""

    entries: _Positive
    bytes: _Positive


class _Putting(msgspec.Struct):
    put: str
    before: State | None
    content: str
    metadata: Metadata


class _Removing(msgspec.Struct):
    remove: str
    before: State


_key = msgspec.json.Decoder(Key)
_listed = msgspec.json.Decoder(Listed)
_held = msgspec.json.Decoder(Held)
_told = msgspec.json.Decoder(Told)
_encode = msgspec.json.Encoder().encode

_SNAPSHOT = Lines(
    "GET",
    f"{PATH}/snapshot",
    SnapshotHead,
    "The memory server cannot list its entries, so nothing can be said of what it holds.",
)
_READ = Lines("POST", f"{PATH}/read", EntriesHead, "The memory server does not give its entries.")
_WRITE = Lines("POST", f"{PATH}/write", ReceiptsHead, "The memory server does not say what it did.")


@dataclass(frozen=True)
class _Line:
    """A change that may be sent, as it goes over the wire."""

    change: Change
    raw: bytes


def announced(
    details: Mapping[str, Any], transport: Transport, location: str, capabilities: Capabilities
) -> Batches | None:
    """The protocol with this server, where its health says that it speaks it; else None."""
    protocols, batch = details.get("protocols"), details.get("batch")
    if not isinstance(protocols, list) or PROTOCOL not in protocols or not isinstance(batch, dict):
        return None
    try:
        most = msgspec.convert(batch, _Most)
    except msgspec.ValidationError:
        return None
    return Batches(transport, location, capabilities, most.entries, most.bytes)


class Batches:
    """Snapshots, reads and writes of one server in this protocol.

    changes   how many changes are best given to `write` at once
    """

    changes = _CHANGES

    def __init__(
        self,
        transport: Transport,
        location: str,
        capabilities: Capabilities,
        entries: int,
        size: int,
    ) -> None:
        self._transport = transport
        self._location = location
        self._capabilities = capabilities
        self._entries = min(entries, _REQUEST_ENTRIES)
        self._bytes = size
        self._page_lines = transport.limits.page_lines

    # Looking

    def keys(self, scope: Scope) -> Iterator[str]:
        """As a reader's `keys`."""
        for page in self._pages("exact"):
            for raw in page.lines:
                key = _SNAPSHOT.decoded(_key, raw).key
                if not _objection(key) and scope.entry(key):
                    yield key

    def snapshot(
        self, scope: Scope, normalisation: Normalisation, expect: Callable[[int | None], None]
    ) -> Iterator[EntryState | Unreadable]:
        """As a reader's `snapshot`; the next page is on its way while one is taken.

        `expect` is told how many entries the server thinks that there are.
        """
        for page in self._pages(normalisation.line_ends):
            expect(page.head.about)
            for raw in page.lines:
                found = _listed_as(raw)
                if scope.entry(found.key):
                    yield found

    def _pages(self, line_ends: str) -> Iterator[Proved[SnapshotHead]]:
        """The pages of a snapshot, each proved, their keys ascending from the first to the last."""
        last, count = "", 0
        coming = self._transport.start(self._page, (line_ends, ""))
        try:
            while True:
                page = result(coming)
                if page.next is not None:
                    coming = self._transport.start(self._page, (line_ends, page.next))
                count += len(page.lines)
                if count > self._transport.limits.entries:
                    raise _SNAPSHOT.unusable(f"it lists more than {count - 1} entries")
                for line in page.lines:
                    key = _SNAPSHOT.decoded(_key, line).key
                    if key <= last:
                        raise _SNAPSHOT.unusable("its keys are not in order")
                    last = key
                if page.next is not None and page.next != last:
                    raise _SNAPSHOT.unusable("its pages do not fit together")
                yield page
                if page.next is None:
                    return
        finally:
            coming.cancel()

    def _page(self, asked: tuple[str, str]) -> Proved[SnapshotHead]:
        """One page, in a thread of the pool; with fewer lines where so many are too large."""
        line_ends, after = asked
        while True:
            lines = self._page_lines
            path = f"{PATH}/snapshot?line_ends={line_ends}&limit={lines}"
            if after:
                path += f"&after={quote(after, safe='')}"
            try:
                answer = self._transport.get(path, lines=self._transport.limits.page_bytes)
            except AnswerTooLarge as error:
                if lines == 1:
                    raise unreachable(self._location, error) from None
                self._page_lines = max(1, lines // 8)
                continue
            except RequestFailed as error:
                raise unreachable(self._location, error) from None
            page = _SNAPSHOT.proved(answer, lines)
            if page.head.line_ends != line_ends or page.head.bookkeeping != BOOKKEEPING:
                raise _SNAPSHOT.unusable("its digests are of another normalisation")
            return page

    def read(self, keys: Iterable[str]) -> Iterator[Found]:
        """As a reader's `read`; a few requests are on their way at once."""
        for asked, found in self._transport.map(self._answered, self._chunks(keys), ahead=_AHEAD):
            yield from found
            yield from self._whole(asked[len(found) :])

    def _whole(self, keys: Sequence[str]) -> Iterator[Found]:
        """All of these, however often the server has to be asked."""
        while keys:
            _, found = self._answered(keys)
            yield from found
            keys = keys[len(found) :]

    def _chunks(self, keys: Iterable[str]) -> Iterator[Sequence[str]]:
        """The keys in requests, none of them twice in one."""
        chunk: dict[str, None] = {}
        for key in keys:
            if key in chunk or len(chunk) == self._entries:
                yield list(chunk)
                chunk = {}
            chunk[key] = None
        if chunk:
            yield list(chunk)

    def _answered(self, keys: Sequence[str]) -> tuple[Sequence[str], Sequence[Found]]:
        """The keys, and what was read of the first of them: at least one."""
        reasons = {key: reason for key in keys if (reason := _objection(key))}
        wanted = [key for key in keys if key not in reasons]
        found = iter(self._ask(wanted) if wanted else ())
        answers: list[Found] = []
        for key in keys:
            if key in reasons:
                answers.append(Unreadable(key=display_name(key), reason=f"the key {reasons[key]}"))
                continue
            answer = next(found, None)
            if answer is None:  # the server ended early: the rest is asked for again
                break
            answers.append(answer)
        return keys, answers

    def _ask(self, keys: Sequence[str]) -> Sequence[Found]:
        """What the server gives of the first of these keys, all of which may be asked for."""
        most = self._transport.limits.answer_bytes

        def ask() -> Answer:
            return self._transport.request("POST", f"{PATH}/read", body={"keys": keys}, lines=most)

        try:
            answer = self._transport.again(ask)
        except RequestFailed as error:
            raise unreachable(self._location, error) from None
        lines = _READ.proved(answer, len(keys)).lines
        if not lines:
            raise _READ.unusable("it is about no entry")
        return [self._entry(key, line) for key, line in zip(keys, lines, strict=False)]

    def _entry(self, key: str, raw: bytes) -> Found:
        line = _READ.decoded(_held, raw)
        if line.key != key:
            raise _READ.unusable(f"it is about another entry than {key}")
        content, absent, reason = line.content, line.absent, line.unreadable
        if isinstance(content, str) and absent is reason is msgspec.UNSET:
            try:
                metadata = metadata_of(line.metadata)
            except NotCanonical as error:
                return Unreadable(key=key, reason=f"its metadata {error}")
            return Entry(key=key, content=content.encode(), metadata=metadata)
        if absent is True and content is reason is msgspec.UNSET:
            return Absent(key=key)
        if isinstance(reason, str) and content is absent is msgspec.UNSET:
            return Unreadable(key=key, reason=short(reason))
        raise _READ.unusable(f"a line of it is no entry: {key}")

    # Writing

    def write(
        self,
        batch: Sequence[Change],
        normalisation: Normalisation,
        session: Session,
        fence: int | None,
    ) -> Sequence[Receipt]:
        """As a backend's `write`, under this fence.

        No look comes before it: the states that are expected go with the changes. Only where an
        earlier run was cut off it is read what it left.
        """
        resumed = [change.key for change in batch if change.resumed]
        left = dict(zip(resumed, self.read(resumed), strict=True))
        made = [self._line(change, left.get(change.key), normalisation) for change in batch]
        ready = [item for item in made if isinstance(item, _Line)]
        session.intend([item.change for item in ready])
        headers: dict[str, str] = {}
        if session.plan:
            headers |= {"Hdev-Plan": session.plan, "Hdev-Run": session.run}
        if fence is not None:
            headers["Hdev-Fence"] = str(fence)
        sending = Sending()

        def send(part: Sequence[_Line]) -> Sequence[Receipt]:
            return self._send(part, headers, sending, normalisation)

        sent = self._transport.map(send, self._parts(ready), ahead=_AHEAD)
        receipts = iter([receipt for part in sent for receipt in part])
        told = [next(receipts) if isinstance(item, _Line) else item for item in made]
        if sending.refused is not None and not any(
            isinstance(receipt, Stored | Removed) for receipt in told
        ):
            raise sending.refused
        return told

    def _line(
        self, change: Change, left: Found | None, normalisation: Normalisation
    ) -> _Line | Receipt:
        """The line that asks for a change, or why it is not asked for.

        `left` is what stands there where an earlier run may have been cut off in this change.
        """
        reason = unsendable(change) or self._capabilities.objection(change.key)
        if reason is not None:
            return Failed(key=change.key, reason=reason, intact=True)
        before = change.before
        if left is not None:
            try:
                before = state_of(left, normalisation)
            except Unknown as error:
                return Failed(key=change.key, reason=str(error), intact=True)
            if before != change.before and not cut_off(change, left, normalisation):
                return Drifted(key=change.key, found=before)
        if isinstance(change, Put):
            text = change.content.decode()
            line = _encode(_Putting(change.key, before, text, change.metadata)) + b"\n"
        elif before is None:
            return Removed(key=change.key)
        else:
            line = _encode(_Removing(change.key, before)) + b"\n"
        if len(line) + _HEAD_BYTES > self._bytes:
            return Failed(key=change.key, reason=TOO_LARGE, intact=True)
        return _Line(change, line)

    def _parts(self, ready: Sequence[_Line]) -> Iterator[Sequence[_Line]]:
        """What goes in one request each."""
        most = min(self._bytes, _REQUEST_BYTES) - _HEAD_BYTES
        part: list[_Line] = []
        size = 0
        for line in ready:
            size += len(line.raw)
            if part and (len(part) == self._entries or size > most):
                yield part
                part, size = [], len(line.raw)
            part.append(line)
        if part:
            yield part

    def _send(
        self,
        part: Sequence[_Line],
        headers: dict[str, str],
        sending: Sending,
        normalisation: Normalisation,
    ) -> Sequence[Receipt]:
        """Send a part, and say what reading shows then, whatever the server said.

        Once the server refuses the key or a whole request, or has gone, the rest is not sent.
        """
        if sending.given_up:
            reason = f"not sent, because before it: {sending.given_up}"
            return [Failed(key=line.change.key, reason=reason, intact=True) for line in part]
        try:
            outcomes = self._exchange(part, headers, sending, normalisation)
        except KeyRefusedError as error:
            sending.refused, sending.given_up = error, str(error)
            return [Failed(key=line.change.key, reason=str(error), intact=False) for line in part]
        for outcome in outcomes:
            sending.count(outcome)
        receipts: list[Receipt] = []
        found = self._whole([line.change.key for line in part])
        for line, outcome in zip(part, outcomes, strict=True):
            try:
                state = state_of(next(found), normalisation)
            except (Unknown, BackendError, StopIteration) as error:
                receipts.append(_unknown(line.change, outcome, error, sending))
            else:
                receipts.append(receipt_of(line.change, state, outcome))
        return receipts

    def _exchange(
        self,
        part: Sequence[_Line],
        headers: dict[str, str],
        sending: Sending,
        normalisation: Normalisation,
    ) -> Sequence[Outcome]:
        """What the server says became of each change, which is not yet believed.

        A request that is too large for somebody on the way goes in halves. One that the server
        puts off is sent again: its conditions make that harmless.
        """
        head = WriteHead(PROTOCOL, "write", normalisation.line_ends, len(part))
        body = b"".join((_encode(head), b"\n", *(line.raw for line in part)))
        sent = dict(headers)
        if not self._transport.local:
            body = gzip.compress(body, 1, mtime=0)
            sent["Content-Encoding"] = "gzip"
        digest = base64.b64encode(hashlib.sha256(body).digest()).decode()
        sent["Content-Digest"] = f"sha-256=:{digest}:"
        most = _RECEIPT_BYTES * (len(part) + 2)

        def ask() -> Answer:
            return self._transport.request(
                "POST", f"{PATH}/write", body=body, headers=sent, lines=most
            )

        try:
            answer = self._transport.again(ask, put_off=True)
        except RequestFailed as error:
            return [Outcome("unknown", str(error), answered=False)] * len(part)
        if answer.status == 413 and len(part) > 1:
            self._bytes = max(_HEAD_BYTES, min(self._bytes, len(body) // 2))
            middle = len(part) // 2
            return [
                outcome
                for half in (part[:middle], part[middle:])
                for outcome in self._exchange(half, headers, sending, normalisation)
            ]
        if answer.status != 200:
            outcome = refused_by("POST", f"{PATH}/write", answer)
            if answer.status != 413:
                sending.given_up = outcome.reason
            return [outcome] * len(part)
        try:
            told = _WRITE.proved(answer, len(part)).lines
            if len(told) != len(part):
                raise _WRITE.unusable(f"{len(told)} receipts for {len(part)} changes")
            return [self._outcome(line.change, raw) for line, raw in zip(part, told, strict=True)]
        except BackendError as error:
            return [Outcome("unknown", error.why.removesuffix("."), answered=False)] * len(part)

    def _outcome(self, change: Change, raw: bytes) -> Outcome:
        """What the server's receipt says. Raises BackendError where it is not of this change."""
        line = _WRITE.decoded(_told, raw)
        if line.key != change.key:
            raise _WRITE.unusable(f"a receipt of it is not for {change.key}")
        kept = short(line.kept) if line.kept else ""
        match line.stored, line.removed, line.drifted, line.failed:
            case State() as state, msgspec.UNSET, msgspec.UNSET, msgspec.UNSET:
                if state == after_of(change):
                    return _CONFIRMED if not kept else _confirmed(kept)
                return Outcome("unknown", "the server says that it stored another", kept=kept)
            case msgspec.UNSET, True, msgspec.UNSET, msgspec.UNSET:
                return Outcome("confirmed", "the server confirmed the removal", kept=kept)
            case msgspec.UNSET, msgspec.UNSET, State() | None, msgspec.UNSET:
                reason = "the server says that the entry is another one"
                return Outcome("precondition", reason, kept=kept)
            case msgspec.UNSET, msgspec.UNSET, msgspec.UNSET, str(reason):
                if reason not in (TOO_LARGE, PERMISSION_DENIED):  # which users look for as they are
                    reason = f"the server says: {short(reason)}"
                return Outcome("refused", reason, kept=kept)
            case _:
                raise _WRITE.unusable(f"a receipt of it says nothing of {change.key}")


def _confirmed(kept: str) -> Outcome:
    return Outcome("confirmed", "the server confirmed the change", kept=kept)


_CONFIRMED = _confirmed("")
"""What nearly every change comes to."""


def _listed_as(raw: bytes) -> EntryState | Unreadable:
    """What a line of a snapshot says. Raises BackendError where it is none."""
    line = _SNAPSHOT.decoded(_listed, raw)
    if isinstance(line.unreadable, str):
        # What can have no key has its name here, in which there may be backslashes.
        plain = line.key.replace("\\", "")
        if display_name(plain) != plain or len(plain) > _NAME_LENGTH:
            raise _SNAPSHOT.unusable("it names what cannot be shown")
        return Unreadable(key=line.key, reason=short(line.unreadable))
    objection = _objection(line.key)
    if objection:
        raise _SNAPSHOT.unusable(f"it names an entry {short(line.key)}, and this key {objection}")
    if (
        not isinstance(line.content, str)
        or not isinstance(line.metadata, str)
        or not isinstance(line.bytes, int)
        or line.bytes < 0
    ):
        raise _SNAPSHOT.unusable(f"a line of it is no entry: {line.key}")
    try:
        values = metadata_of(line.values)
        digest = metadata_digest(values)
    except NotCanonical as error:
        return Unreadable(key=line.key, reason=f"its metadata {error}")
    if digest != line.metadata:
        raise _SNAPSHOT.unusable(f"the digest of the metadata is wrong: {line.key}")
    state = State(content=line.content, metadata=digest, bytes=line.bytes)
    return EntryState(key=line.key, state=state, metadata=values, note=line.note)


def _objection(key: str) -> str:
    """Why this is no key; empty where it is one."""
    try:
        check_key(key)
    except InvalidKey as error:
        return str(error)
    return ""


def _unknown(change: Change, outcome: Outcome, error: Exception, sending: Sending) -> Receipt:
    """The receipt of a change of which reading tells nothing."""
    cause = str(error)
    if isinstance(error, BackendError):
        # Nothing is known of this change, and each further one would end like it.
        sending.given_up, cause = str(error), error.why
        if isinstance(error, KeyRefusedError):
            sending.refused = error
    elif isinstance(error, StopIteration):
        cause = sending.given_up
    reason = f"{outcome.reason}; not known what stands there: {cause}"
    return Failed(key=change.key, reason=reason, intact=False, kept=outcome.kept)
