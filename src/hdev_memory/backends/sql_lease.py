"""The lock of a memory in a database: a lease in a table, with an end and a fence."""

from __future__ import annotations

import math
import threading
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from hdev_memory.backends.base import Holder, locked
from hdev_memory.core.entry import Value, display_name
from hdev_memory.errors import HdevError, StoreError

if TYPE_CHECKING:
    from hdev_memory.backends.sql import SqlBackend

SECONDS = 15
"""How long a lease lasts without being renewed; it is renewed three times in that time."""

_FAREWELL = 2.0
"""Seconds that a renewal under way may take when the lock is given back."""

_HOLDER_LENGTH = 200


class WriteRefused(StoreError):
    """The database lets this user write nothing."""


class Given(Value, frozen=True):
    """A lease: who has it, under which fence, and for how many more seconds."""

    holder: str
    fence: int
    expires_in: int


class Taken(Exception):
    """Somebody else has the lease."""

    def __init__(self, lease: Given) -> None:
        super().__init__("the lock is held")
        self.lease = lease


class Leases:
    """The one lease of a memory. Each step is one statement, by the database's clock.

    Giving a new fence waits for the writes that are on their way under an older one, and those that
    come later see it: a write reads the fence in its own transaction, and keeps it from changing.
    All methods raise HdevError when the database does not answer.
    """

    def __init__(self, backend: SqlBackend[Any]) -> None:
        self._backend = backend

    def _run(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        return self._backend.run(sql.replace("NOW", self._backend.NOW), *values)

    def acquire(self, holder: str, ttl: int) -> Given:
        """Take the lock for `ttl` seconds. Raises Taken."""
        while True:
            given = self._run(
                "UPDATE lease SET holder = ?, fence = fence + 1, ends = NOW + ? "
                "WHERE holder IS NULL OR ends <= NOW RETURNING fence",
                holder,
                ttl,
            )
            if given:
                return Given(holder=holder, fence=given[0][0], expires_in=ttl)
            lease = self.status()
            if lease is not None:
                raise Taken(lease)

    def renew(self, holder: str, ttl: int, fence: int) -> Given | None:
        """Have `ttl` seconds from now; None when a later fence was given out."""
        given = self._run(
            "UPDATE lease SET holder = ?, ends = NOW + ? WHERE fence = ? AND fence > 0 "
            "RETURNING fence",
            holder,
            ttl,
            fence,
        )
        return Given(holder=holder, fence=fence, expires_in=ttl) if given else None

    def release(self, fence: int) -> bool:
        """Give the lock back; False when a later fence was given out."""
        sql = "UPDATE lease SET holder = NULL WHERE fence = ? AND fence > 0 RETURNING fence"
        return bool(self._run(sql, fence))

    def force(self) -> Given | None:
        """Break the lock and shut out its holder; the lease that was broken."""
        with self._backend.transaction():
            # The fence first: from here on nobody else changes the row.
            self._run("UPDATE lease SET fence = fence + 1 RETURNING fence")
            held = self._current(self._run(_STATUS))
            self._run("UPDATE lease SET holder = NULL RETURNING fence")
            return held

    def status(self) -> Given | None:
        """The lease of the moment."""
        return self._current(self._run(_STATUS))

    @staticmethod
    def _current(rows: list[tuple[Any, ...]]) -> Given | None:
        ((holder, fence, left),) = rows
        if holder is None or left <= 0:
            return None
        return Given(holder=holder, fence=fence, expires_in=math.ceil(left))

    def fence(self) -> int:
        """The highest fence that was given out; 0 when none was."""
        return self._fence("SELECT fence FROM lease")

    def fence_kept(self) -> int:
        """The same, and it stays so until the transaction of this thread ends."""
        return self._fence(f"SELECT fence FROM lease{self._backend.FOR_SHARE}")

    def _fence(self, sql: str) -> int:
        ((fence,),) = self._run(sql)
        assert isinstance(fence, int)
        return fence


_STATUS = "SELECT holder, fence, ends - NOW FROM lease"


class Hold:
    """The lease while the context lasts; `fence` goes with every write.

    It is None where the database lets us write nothing.
    """

    def __init__(self, leases: Leases, location: str, holder: str) -> None:
        self._leases = leases
        self._location = location
        self._holder = display_name(holder)[:_HOLDER_LENGTH]
        self._ended = threading.Event()
        self._renewing = threading.Thread(target=self._renew, name="hdev-lease", daemon=True)
        self.fence: int | None = None

    def __enter__(self) -> Self:
        """Raises LockedError, or whatever the database answers."""
        try:
            self.fence = self._leases.acquire(self._holder, SECONDS).fence
        except WriteRefused:
            return self
        except Taken as error:
            lease = error.lease
            raise locked(self._location, Holder(lease.holder, lease.expires_in)) from None
        self._renewing.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._ended.set()
        if self.fence is None:
            return
        self._renewing.join(_FAREWELL)
        try:
            self._leases.release(self.fence)
        except HdevError:
            return  # it ends by itself; what was written is what matters now

    def _renew(self) -> None:
        assert self.fence is not None
        while not self._ended.wait(SECONDS / 3):
            try:
                self._leases.renew(self._holder, SECONDS, self.fence)
            except HdevError:
                continue  # the next renewal may get through; if none does, the fence stops us
