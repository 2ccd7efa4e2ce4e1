"""The log of our own server, read from afar and checked link by link."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from hdev_memory.backends.base import Closing, Endpoint, Where
from hdev_memory.backends.http_transport import (
    CLOCK,
    LIMITS,
    Answer,
    Clock,
    Limits,
    RequestFailed,
    Transport,
    failure,
    unreachable,
)
from hdev_memory.core import audit
from hdev_memory.core.audit import Headmark, Write
from hdev_memory.errors import AuditError, BackendError, KeyRefusedError

PATH = "/api/audit"

_PAGE = 1000
_STORE_LENGTH = 200


class ServerAudit(Closing):
    """The audit log of one server; `endpoint` is where it is, `head` its end when it was opened."""

    def __init__(self, where: Where, limits: Limits = LIMITS, clock: Clock = CLOCK) -> None:
        """Raises UsageError, KeyRefusedError, AuditError or BackendError."""
        self._transport = Transport(where, limits, clock)
        self._location = where.location
        try:
            health, page = self._transport.shake_hands("/api/health", f"{PATH}?limit=1")
            found = health.body.get("details")
            details: dict[str, Any] = found if isinstance(found, dict) else {}
            if details.get("server") != "hdev-memory" or details.get("audit") is not True:
                raise BackendError(
                    "This server keeps no audit log.",
                    why=f"{where.location} says nothing of one.",
                    hint="`hdev memory-server` of this version keeps one.",
                )
            store = details.get("store")
            named = isinstance(store, str) and len(store) <= _STORE_LENGTH
            self.endpoint = Endpoint(
                kind="http", location=where.location, store=store if named else None
            )
            self.head = self._head(page)
        except RequestFailed as error:
            self.close()
            raise unreachable(where.location, error) from None
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._transport.close()

    def records(self, noted: Headmark = audit.EMPTY) -> Iterator[Write]:
        """Every record up to `head`, each checked with the one before it; `noted` is an earlier end
        of the log, which it must lead through.

        Raises AuditError where the chain is broken or does not lead to `head`, BackendError where
        the server does not answer.
        """
        behind = audit.EMPTY
        for record, behind in audit.chained(self._lines(), Write):
            yield record
            if behind.seq == noted.seq and behind != noted:
                break
            if behind.seq == self.head.seq:
                break
        if noted.seq > self.head.seq or (behind.seq == noted.seq and behind != noted):
            raise AuditError(
                "The server's audit log does not lead to the head that was noted.",
                why=f"It leads to {behind}, not to {noted}.",
                hint="It was cut or rewritten, or the head belongs to another log.",
            )
        if behind != self.head:
            raise AuditError(
                "The server's audit log does not lead to its own head.",
                why=f"It leads to {behind}, and the server says {self.head}.",
                hint="Somebody may have cut it or rewritten it; look at the server.",
            )

    def _lines(self) -> Iterator[bytes]:
        after = 0
        while after < self.head.seq:
            try:
                page = self._transport.get(f"{PATH}?after={after}&limit={_PAGE}")
            except RequestFailed as error:
                raise unreachable(self._location, error) from None
            self._head(page)
            records = page.body.get("records")
            if not isinstance(records, list) or not records:
                return
            for record in records:
                yield self._line(record)
            after += len(records)

    @staticmethod
    def _line(record: object) -> bytes:
        """The line of a record as it must be in the log, if the server did not change it."""
        try:
            return audit.line_of(msgspec.convert(record, Write))
        except (msgspec.MsgspecError, UnicodeEncodeError) as error:
            raise AuditError(
                "The server's audit log was edited or damaged.",
                why=f"It holds something that is no record ({error}).",
                hint="Look at the server.",
            ) from None

    def _head(self, page: Answer) -> Headmark:
        """Raises KeyRefusedError or BackendError for anything but a page."""
        if page.status == 403:
            raise KeyRefusedError(
                "The server refused the key.",
                why=failure("GET", PATH, f"403 {page.cause}") + ".",
                hint="Give a key with the role audit: `hdev memory-server keys add NAME "
                "--role audit`.",
            )
        head = audit.headmark(str(page.body.get("head")))
        if page.status != 200 or head is None:
            raise BackendError(
                "The server does not give its audit log.",
                why=failure("GET", PATH, page.cause) + ".",
                hint="Look at the server's log.",
            )
        return head
