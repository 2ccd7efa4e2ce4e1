"""A memory server over HTTP: the existing system's, as it is, or our own, found by the handshake.

A server of ours that takes many entries in one request is spoken to as `http_batches` does it; what
is here is the dialect of the existing system, one request for each entry.
The existing server answers nearly every failure with HTTP 200 and `"success": false`, has no
conditional writes, returns CRLF as LF, merges metadata, and reads another entry for a name with a
dot in it. What is done about each of these is said where it is done.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any
from urllib.parse import quote

from hdev_memory.backends.base import (
    EVERYTHING,
    UNATTENDED,
    Change,
    Drifted,
    Endpoint,
    Failed,
    Holder,
    Put,
    Receipt,
    Removed,
    Scope,
    Session,
    Stored,
    Unknown,
    Where,
    Whole,
    parts_of,
    state_of,
)
from hdev_memory.backends.http_batches import Batches, announced
from hdev_memory.backends.http_lease import Lease, force, status
from hdev_memory.backends.http_outcome import (
    Found,
    Outcome,
    Sending,
    cut_off,
    expected,
    receipt_of,
    refused_by,
    success,
    unsendable,
)
from hdev_memory.backends.http_transport import (
    CLOCK,
    LIMITS,
    TOO_DEEP,
    Answer,
    Clock,
    Limits,
    RequestFailed,
    Transport,
    failure,
    short,
    unreachable,
)
from hdev_memory.core.digest import NotCanonical
from hdev_memory.core.entry import (
    Absent,
    Capabilities,
    Entry,
    EntryState,
    InvalidKey,
    Normalisation,
    Parts,
    Unreadable,
    check_key,
    display_name,
    has_suffix,
)
from hdev_memory.errors import BackendError, KeyRefusedError

EXISTING = Capabilities(
    cas="guarded",
    durability="unknown",
    line_ends="lf",
    metadata="merge",
    names="no-suffix",
    beside=("/",),
    max_segment_bytes=241,
)
"""What the existing server can promise."""

_ENTRY = "/api/memory/entry/"
_LOOKS = 3
"""How often an entry that is neither before nor after is looked at again."""

_STORE_LENGTH = 200
_STRONG_ETAG = re.compile(r'"[\x21\x23-\x7e]+"')
"""RFC 9110, 8.8.3: a weak one never matches, and several cannot be told apart."""

_LISTING_FROM = 3
"""Of so many keys in one folder it pays to read the folder's listing first."""


class HttpBackend(Whole):
    """One memory server."""

    ignored = 0

    def __init__(self, where: Where, limits: Limits = LIMITS, clock: Clock = CLOCK) -> None:
        """Shake hands. Raises UsageError, KeyRefusedError or BackendError, and that soon."""
        self._transport = Transport(where, limits, clock)
        self._location = where.location
        self._folders: set[str] = set()
        self._entries: set[str] = set()
        self._fence: int | None = None
        self._batches: Batches | None = None
        try:
            self._handshake()
        except BaseException:
            self.close()
            raise

    def _handshake(self) -> None:
        try:
            health, tree = self._transport.shake_hands("/api/health", "/api/memory/tree?depth=0")
        except RequestFailed as error:
            raise unreachable(self._location, error) from None
        if "healthy" not in health.body:
            raise self._stranger("/api/health", health)
        if tree.status == 403:
            raise KeyRefusedError(
                "The server refused the key.",
                why=failure("GET", "/api/memory/tree", "403") + ".",
                hint="Give a key that may read.",
            )
        if tree.status == 429:
            raise BackendError(
                "The memory server asks to come later.",
                why=failure("GET", "/api/memory/tree", f"429 {tree.cause}") + ".",
                hint="Wait a little, and run the command again.",
            )
        if health.body["healthy"] is not True:
            raise BackendError(
                "The memory server is not healthy.",
                why=f"It says: {short(health.body.get('message', ''))}.",
                hint="Look at the server's log.",
            )
        if tree.status != 200 or tree.body.get("type") != "tree":
            raise self._stranger("/api/memory/tree", tree)
        if not success(tree):
            raise _unlisted("/api/memory/tree", tree.cause)
        found = health.body.get("details")
        details: dict[str, Any] = found if isinstance(found, dict) else {}
        self._ours = details.get("server") == "hdev-memory"
        self._locks = self._ours and details.get("lock") is True
        self.capabilities = _our_capabilities(details) if self._ours else EXISTING
        if self._ours:
            self._batches = announced(details, self._transport, self._location, self.capabilities)
        if self._batches is not None:
            self.batch = self._batches.changes
        store = details.get("store") if self._ours else None
        named = isinstance(store, str) and store.isprintable() and len(store) <= _STORE_LENGTH
        self.endpoint = Endpoint(
            kind="http", location=self._location, store=store if named else None
        )

    def _stranger(self, path: str, answer: Answer) -> BackendError:
        return BackendError(
            "This is not a memory server.",
            why=failure("GET", path, f"{answer.cause}, not what a memory server answers") + ".",
            hint=f"Check the URL {self._location}.",
        )

    def present(self) -> bool:
        """Whether the server says that it is healthy."""
        try:
            return self._transport.request("GET", "/api/health").body.get("healthy") is True
        except RequestFailed:
            return False

    def close(self) -> None:
        self._transport.close()

    # Looking

    def keys(self, scope: Scope = EVERYTHING) -> Iterator[str]:
        """The names that the listings show; an empty folder looks like an entry in them."""
        if self._batches is not None:
            yield from self._batches.keys(scope)
            return
        for key, reason in self._walk(scope):
            if not reason:
                yield key

    def snapshot(
        self, scope: Scope, normalisation: Normalisation
    ) -> Iterator[EntryState | Unreadable]:
        if self._batches is not None:
            yield from self._batches.snapshot(scope, normalisation, self._expect)
            return
        listed = self._walk(scope)
        self._expect(len(listed))
        for found in self._transport.map(self._look, listed):
            match found:
                case Entry():
                    try:
                        yield normalisation.entry_state(found)
                    except NotCanonical as error:
                        yield Unreadable(key=found.key, reason=f"its metadata {error}")
                case Unreadable():
                    yield found
                case Absent():  # an empty folder, or removed since it was listed
                    pass

    def _expect(self, entries: int | None) -> None:
        self.expected = entries

    def _look(self, item: tuple[str, str]) -> Found:
        """What is known of something listed; Absent only where it is no longer listed."""
        key, reason = item
        if reason:
            return Unreadable(key=key, reason=reason)
        found = self._read(key, listed=True)
        if not isinstance(found, Absent):
            return found
        listed = self._listing(key.rpartition("/")[0])
        if listed is not None and ("leaf", key) not in listed:
            return found
        return Unreadable(key=key, reason="the server lists it, and has no such entry")

    def _walk(self, scope: Scope) -> list[tuple[str, str]]:
        """(key, reason) of everything listed, sorted; with a reason it is an Unreadable."""
        tree = self._tree()
        found: dict[str, str] = {}
        self._folders, self._entries = set(), set()
        if tree is None:
            self._list_folders([""], found)
        else:
            self._flatten(tree, found)
        return sorted((key, reason) for key, reason in found.items() if scope.entry(key))

    def _tree(self) -> dict[str, Any] | None:
        """The whole tree in one request; None where it is too deep for the server."""
        try:
            answer = self._transport.get("/api/memory/tree")
        except RequestFailed as error:
            raise unreachable(self._location, error) from None
        if answer.status == 500 or (answer.status == 200 and answer.flaw == TOO_DEEP):
            return None
        if answer.status != 200 or not success(answer):
            raise _unlisted("/api/memory/tree", answer.cause)
        items = answer.body.get("items")
        if answer.body.get("type") != "tree" or not isinstance(items, dict):
            raise _unlisted("/api/memory/tree", "its answer is no tree")
        return items

    def _flatten(self, tree: dict[str, Any], found: dict[str, str]) -> None:
        stack: list[tuple[str, dict[str, Any]]] = [("", tree)]
        parents: list[str] = []
        while stack:
            prefix, items = stack.pop()
            if any(items.values()):
                parents.append(prefix)
            for name, item in items.items():
                path = prefix + name
                if not self._allowed(path, found):
                    continue
                if "/" in name or not isinstance(item, dict):
                    # Another item could have the same path: one of them would be lost.
                    raise _unlisted("/api/memory/tree", f"it is no tree at {path}")
                if item:
                    self._folders.add(path)
                    stack.append((path + "/", item))
                else:
                    self._entries.add(path)
                    found[path] = ""
        # An entry beside a folder of its name is hidden by it in the tree, or hides it: listings
        # show both.
        hidden: list[str] = []
        for prefix, listed in zip(
            parents, self._transport.map(self._listing, parents), strict=True
        ):
            if listed is None:
                raise _unlistable(prefix)
            for kind, path in listed:
                if kind == "node" and path not in self._folders and self._allowed(path, found):
                    self._folders.add(path)
                    hidden.append(path + "/")
                elif kind == "leaf" and path not in found and self._allowed(path, found):
                    self._entries.add(path)
                    found[path] = ""
        self._list_folders(hidden, found)

    def _list_folders(self, waiting: list[str], found: dict[str, str]) -> None:
        """List folder by folder what the tree does not show, or is too deep to show."""
        seen = 0
        while waiting:
            seen += len(waiting)
            if seen > self._transport.limits.folders:
                raise _unlisted(_ENTRY, f"it lists more than {seen - 1} folders")
            below: list[str] = []
            for prefix, listed in zip(
                waiting, self._transport.map(self._listing, waiting), strict=True
            ):
                if listed is None:
                    raise _unlistable(prefix)
                for kind, path in listed:
                    if not self._allowed(path, found):
                        continue
                    if kind == "node":
                        self._folders.add(path)
                        below.append(path + "/")
                    else:
                        self._entries.add(path)
                        found[path] = ""
            waiting = below

    @staticmethod
    def _allowed(path: str, found: dict[str, str]) -> bool:
        try:
            check_key(path)
        except InvalidKey as error:
            shown = display_name(path)
            found[shown if shown != path else f"\\{path}"] = f"the server names it, but it {error}"
            return False
        return True

    def _listing(self, prefix: str) -> list[tuple[str, str]] | None:
        """(kind, path) of what a folder holds; [] when it is missing, None when it is not known.

        Nothing of a listing is believed that names something outside of the folder, or twice.
        """
        folder = prefix.rstrip("/")
        try:
            answer = self._transport.get(_ENTRY + _quoted(folder) + ("/" if self._ours else ""))
        except RequestFailed:
            return None
        body = answer.body
        if _says_absent(answer, folder):
            return []
        items = body.get("items")
        if (
            answer.status != 200
            or not success(answer)
            or body.get("type") != "directory"
            or str(body.get("path", folder)).rstrip("/") != folder
            or not isinstance(items, list)
        ):
            return None
        listed: list[tuple[str, str]] = []
        for item in items:
            path = item.get("path") if isinstance(item, dict) else None
            if not isinstance(path, str) or item.get("type") not in ("node", "leaf"):
                return None
            if _is_key(path) and path.rpartition("/")[0] != folder:
                return None
            listed.append((item["type"], path))
        return listed if len(set(listed)) == len(listed) else None

    def read(self, keys: Iterable[str]) -> Iterator[Found]:
        if self._batches is not None:
            yield from self._batches.read(keys)
        else:
            yield from self._read_all(list(keys))

    def _read_all(self, keys: Sequence[str]) -> Iterator[Found]:
        """In order; of many keys in one folder, those that its listing lacks cost no request."""
        for parent, group in groupby(keys, key=lambda key: key.rpartition("/")[0]):
            wanted = list(group)
            listed = self._listing(parent) if len(wanted) >= _LISTING_FROM else None
            names = {path for _, path in listed} if listed is not None else None

            def look(key: str, names: set[str] | None = names) -> Found:
                # What the tree has named is asked for, whatever the folder's listing says.
                if names is not None and key not in names and key not in self._entries:
                    return Absent(key=key)
                return self._read(key)

            yield from self._transport.map(look, wanted)

    def _read(self, key: str, *, listed: bool = False) -> Found:
        found, _ = self._fetch(key, listed=listed)
        return found

    def _fetch(self, key: str, *, listed: bool = False) -> tuple[Found, str | None]:
        """An entry, and its ETag where there is one."""
        try:
            check_key(key)
        except InvalidKey as error:
            return Unreadable(key=display_name(key), reason=f"the key {error}"), None
        if self.capabilities.names == "no-suffix" and has_suffix(key.rpartition("/")[2]):
            # The server would read another entry for it; none of this name can be written there.
            return Absent(key=key), None
        try:
            answer = self._transport.get(_ENTRY + _quoted(key))
        except RequestFailed as error:
            raise unreachable(self._location, error) from None
        body = answer.body
        if _says_absent(answer, key):
            return Absent(key=key), None
        if answer.status != 200 or not success(answer):
            return Unreadable(key=key, reason=f"the server says: {short(answer.cause)}"), None
        if body.get("type") == "directory":
            # Ours keeps an entry beside a folder of its name, so only the folder is there. Of the
            # existing server an empty folder that was listed like an entry is no entry.
            if self._ours or (listed and body.get("items") == []):
                return Absent(key=key), None
            reason = "a folder of this name hides it"
            if listed and key not in self._folders:
                reason += ", and what that folder holds was not listed"
            return Unreadable(key=key, reason=reason), None
        content, metadata = body.get("content"), body.get("metadata")
        if body.get("type") != "file" or body.get("path") != key:
            return Unreadable(key=key, reason="the server answered about something else"), None
        if not isinstance(content, str) or not isinstance(metadata, dict):
            return Unreadable(key=key, reason="the server's answer has no content"), None
        try:
            return Entry(key=key, content=content.encode(), metadata=metadata), answer.etag
        except UnicodeEncodeError:
            return Unreadable(key=key, reason="its content is not valid Unicode"), None

    def obstacle(self, key: str) -> str | None:
        if self.capabilities.beside == ():
            return None
        if key in self._folders:
            return "a folder of this name would hide it on this server"
        parts = key.split("/")
        for depth in range(1, len(parts)):
            above = "/".join(parts[:depth])
            if above in self._entries:
                return f"it would hide the entry {above} on this server"
        return None

    # Writing

    @contextlib.contextmanager
    def hold(self, holder: str) -> Iterator[None]:
        """The lease of our own server; the existing one has no locks."""
        if not self._locks:
            yield
            return
        with Lease(self._transport, self._location, holder) as lease:
            self._fence = lease.fence
            try:
                yield
            finally:
                self._fence = None

    def holder(self) -> Holder | None:
        return status(self._transport, self._location) if self._locks else super().holder()

    def release(self) -> bool:
        return force(self._transport, self._location) if self._locks else super().release()

    def parts(self, key: str, normalisation: Normalisation) -> Parts | Unreadable:
        (found,) = self.read([key])
        return parts_of(found, normalisation)

    def write(
        self,
        batch: Sequence[Change],
        normalisation: Normalisation,
        session: Session = UNATTENDED,
    ) -> Sequence[Receipt]:
        """Guarded by a look just before (for creates one listing for each folder), or by the
        server's own preconditions where it is ours; always answered by what was read back."""
        if self._batches is not None:
            return self._batches.write(batch, normalisation, session, self._fence)
        held: Sequence[Found | None] = [None] * len(batch)
        if not self._ours:
            held = list(self._read_all([change.key for change in batch]))
        # For the log of our own server; the existing one would have no use for it.
        about = {}
        if self._ours and session.plan:
            about = {"Hdev-Plan": session.plan, "Hdev-Run": session.run}

        def look(item: tuple[Change, Found | None]) -> _Ready | Receipt:
            return self._ready(item[0], item[1], normalisation, about)

        looked = list(self._transport.map(look, zip(batch, held, strict=True)))
        session.intend([item.change for item in looked if isinstance(item, _Ready)])
        sending = Sending()

        def send(item: _Ready | Receipt) -> Receipt:
            return self._send(item, sending, normalisation) if isinstance(item, _Ready) else item

        receipts = list(self._transport.map(send, looked))
        if sending.refused is not None and not any(
            isinstance(receipt, Stored | Removed) for receipt in receipts
        ):
            raise sending.refused
        return receipts

    def _ready(
        self,
        change: Change,
        held: Found | None,
        normalisation: Normalisation,
        about: dict[str, str],
    ) -> _Ready | Receipt:
        """A change with the headers of its precondition, or why it is not to be sent."""
        reason = unsendable(change) or self.capabilities.objection(change.key)
        if reason is not None:
            return Failed(key=change.key, reason=reason, intact=True)
        headers = dict(about)
        if self._fence is not None:
            headers["Hdev-Fence"] = str(self._fence)
        if self._ours:
            headers["Hdev-Metadata"] = "replace"
            if change.before is None and not change.resumed:
                headers["If-None-Match"] = "*"
            else:
                held, etag = self._fetch(change.key)
                if not isinstance(held, Entry):
                    headers["If-None-Match"] = "*"
                elif etag is not None and _STRONG_ETAG.fullmatch(etag):
                    headers["If-Match"] = etag
                else:
                    reason = "the server gives no ETag to make the write conditional with"
                    return Failed(key=change.key, reason=reason, intact=True)
        if held is not None:
            refusal = self._guard(change, held, normalisation)
            if refusal is not None:
                return refusal
        return _Ready(change, headers)

    def _guard(self, change: Change, held: Found, normalisation: Normalisation) -> Receipt | None:
        try:
            found = state_of(held, normalisation)
        except Unknown as error:
            return Failed(key=change.key, reason=str(error), intact=True)
        if found != change.before and not cut_off(change, held, normalisation):
            return Drifted(key=change.key, found=found)
        if isinstance(held, Entry) and not self._ours and isinstance(change, Put):
            version = held.metadata.get("version", 0)
            if isinstance(version, bool) or not isinstance(version, int):
                reason = "its version is not a number: the server cannot overwrite it"
                return Failed(key=change.key, reason=reason, intact=True)
        return None

    def _send(self, ready: _Ready, sending: Sending, normalisation: Normalisation) -> Receipt:
        """Send a change once, whatever comes of it, and say what reading shows then.

        Once the server refuses the key or cannot be reached any more, the rest is not sent.
        """
        change = ready.change
        if sending.given_up:
            return Failed(
                key=change.key,
                reason=f"not sent, because before it: {sending.given_up}",
                intact=True,
            )
        try:
            outcome = self._exchange(change, ready.headers)
        except KeyRefusedError as error:
            sending.refused, sending.given_up = error, str(error)
            return Failed(key=change.key, reason=str(error), intact=False)
        sending.count(outcome)
        try:
            found = state_of(self._settled(change, normalisation), normalisation)
        except BackendError as error:
            # Nothing is known of this change, and each further one would end like it.
            sending.given_up = str(error)
            if isinstance(error, KeyRefusedError):
                sending.refused = error
            return Failed(
                key=change.key,
                reason=f"{outcome.reason}; not known what stands there: {error.why}",
                intact=False,
            )
        except Unknown as error:
            return Failed(
                key=change.key,
                reason=f"{outcome.reason}; not known what stands there: {error}",
                intact=False,
            )
        return receipt_of(change, found, outcome)

    def _exchange(self, change: Change, headers: dict[str, str]) -> Outcome:
        """What the server's answer to a change says, which is not yet believed."""
        path = _ENTRY + _quoted(change.key)
        method = "PUT" if isinstance(change, Put) else "DELETE"
        body: dict[str, Any] | None = None
        if isinstance(change, Put):
            body = {"content": change.content.decode()}
            if change.metadata or self._ours:
                body["metadata"] = change.metadata
        try:
            answer = self._transport.request(method, path, body=body, headers=headers)
        except RequestFailed as error:
            return Outcome("unknown", str(error), answered=False)
        if answer.status == 200 and success(answer):
            return Outcome("confirmed", "the server confirmed the change")
        if answer.status == 412:
            return Outcome("precondition", "the server says that the entry is another one")
        return refused_by(method, path, answer)

    def _settled(self, change: Change, normalisation: Normalisation) -> Found:
        """What stands there after a change; where it is neither before nor after, looked at until
        two looks agree: the existing server's writes can be seen half done."""
        found = self._read(change.key)
        for _ in range(_LOOKS):
            parts = parts_of(found, normalisation)
            if isinstance(parts, Unreadable) or parts in expected(change):
                break
            before, found = found, self._read(change.key)
            if found == before:
                break
        return found


@dataclass(frozen=True)
class _Ready:
    """A change that may be sent, and the headers that carry its precondition."""

    change: Change
    headers: dict[str, str]


def _our_capabilities(details: dict[str, Any]) -> Capabilities:
    declared = details.get("capabilities")
    declared = declared if isinstance(declared, dict) else {}
    limit = details.get("max_entry_bytes")
    known = isinstance(limit, int) and not isinstance(limit, bool) and 0 < limit < 2**53
    return Capabilities(
        cas="atomic" if declared.get("cas") == "atomic" else "guarded",
        durability="synced" if declared.get("durability") == "synced" else "unknown",
        max_entry_bytes=limit if known else None,
        max_segment_bytes=241,
    )


def _quoted(key: str) -> str:
    return "/".join(quote(segment, safe="") for segment in key.split("/"))


def _is_key(path: str) -> bool:
    try:
        check_key(path)
    except InvalidKey:
        return False
    return True


def _says_absent(answer: Answer, key: str) -> bool:
    """Only this sentence, about this key, means that there is no such entry."""
    body = answer.body
    return (
        answer.status == 200
        and body.get("success") is False
        and body.get("path", key) == key
        and body.get("error") == f"Memory entry content at {key}.md does not exist"
    )


def _unlisted(path: str, cause: str) -> BackendError:
    return BackendError(
        "The memory server cannot list its entries, so nothing can be said of what it holds.",
        why=failure("GET", path, cause) + ".",
        hint="Look at the server's log.",
    )


def _unlistable(prefix: str) -> BackendError:
    return BackendError(
        "The memory server cannot list one of its folders, so entries may be missing.",
        why=failure("GET", _ENTRY + short(prefix), "no listing of this folder") + ".",
        hint="Look at the server's log.",
    )
