"""The lock that applies take on this server: a lease with an end, and a fence for latecomers."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from hdev_memory import durable
from hdev_memory.backends.sql_lease import Given, Leases, Taken
from hdev_memory.core.digest import decode_object
from hdev_memory.core.entry import Value
from hdev_memory.errors import StoreError

FENCE_FILE = ".hdev-fence"
"""A file in the root of a store: `{"fence": N}`, the highest fence that was ever given out."""


class Lease(Value, frozen=True):
    """Who holds the lock, under which fence, and for how many more seconds."""

    holder: str
    fence: int
    expires_in: int


class Held(Exception):
    """Somebody else holds the lock."""

    def __init__(self, lease: Lease) -> None:
        super().__init__("the lock is held")
        self.lease = lease


class Superseded(Exception):
    """The lock was given to somebody else, or broken, since this fence was given out."""

    def __init__(self, fence: int) -> None:
        super().__init__("the fence is superseded")
        self.fence = fence


class Fences:
    """Numbers that only grow, also over restarts where there is a file to keep the last one in."""

    def __init__(self, path: Path | None = None) -> None:
        """Raises StoreError when the file is there and cannot be understood."""
        self._path = path
        self.last = 0
        if path is None:
            return
        try:
            found = decode_object(path.read_bytes().decode())["fence"]
        except FileNotFoundError:
            return
        except (OSError, ValueError, KeyError):
            found = None
        if not isinstance(found, int) or isinstance(found, bool) or found < 0:
            raise StoreError(
                "The fence of the store's lock cannot be read.",
                why=f"{path} is damaged, so nobody knows which numbers were given out.",
                hint='Stop every apply to this store, then write {"fence": N} with a larger N.',
            )
        self.last = found

    def next(self) -> int:
        """A number higher than all before it, durable before it is known. Raises OSError."""
        number = self.last + 1
        if self._path is not None:
            durable.write_whole(self._path, json.dumps({"fence": number}).encode() + b"\n")
        self.last = number
        return number


class Lock(Protocol):
    """At most one lease at a time, wherever it is kept. Every method may raise HdevError."""

    def acquire(self, holder: str, ttl: int) -> Lease:
        """Take the lock for `ttl` seconds. Raises Held, OSError."""
        ...

    def renew(self, holder: str, ttl: int, fence: int) -> Lease:
        """Have `ttl` seconds from now under the same fence. Raises Superseded."""
        ...

    def release(self, fence: int) -> None:
        """Give the lock back. Raises Superseded."""
        ...

    def force(self) -> Lease | None:
        """Break the lock and shut out its holder; the lease that was broken. Raises OSError."""
        ...

    def status(self) -> Lease | None:
        """The lease of the moment."""
        ...

    @property
    def fence(self) -> int:
        """The highest fence that was given out; 0 when none was."""
        ...

    def check(self, fence: int | None) -> None:
        """Raises Superseded for a fence that is known to be overtaken; None is no fence."""
        ...


class DatabaseLock:
    """The lease in a database, which other servers and applies take as well.

    `check` knows of the fences that this server has seen; the others are found by the write.
    """

    def __init__(self, leases: Leases) -> None:
        self._leases = leases
        self._seen = 0

    def acquire(self, holder: str, ttl: int) -> Lease:
        try:
            return self._told(self._leases.acquire(holder, ttl))
        except Taken as error:
            raise Held(self._told(error.lease)) from None

    def renew(self, holder: str, ttl: int, fence: int) -> Lease:
        given = self._leases.renew(holder, ttl, fence)
        if given is None:
            raise Superseded(self.fence)
        return self._told(given)

    def release(self, fence: int) -> None:
        if not self._leases.release(fence):
            raise Superseded(self.fence)

    def force(self) -> Lease | None:
        broken = self._leases.force()
        return self._told(broken) if broken is not None else None

    def status(self) -> Lease | None:
        lease = self._leases.status()
        return self._told(lease) if lease is not None else None

    @property
    def fence(self) -> int:
        self._seen = max(self._seen, self._leases.fence())
        return self._seen

    def check(self, fence: int | None) -> None:
        if fence is not None and fence < self._seen:
            raise Superseded(self._seen)

    def _told(self, lease: Given) -> Lease:
        self._seen = max(self._seen, lease.fence)
        return Lease(holder=lease.holder, fence=lease.fence, expires_in=lease.expires_in)


class LeaseLock:
    """At most one lease at a time; `clock` gives seconds and never runs backwards.

    A lease lives in this process only: after a restart nobody holds the lock, and the fences of
    before are still too low for whoever was superseded. Whoever has the highest fence may renew it,
    also after its end: nobody else can have been let in between.
    """

    def __init__(self, clock: Callable[[], float], fences: Fences) -> None:
        self._clock = clock
        self._fences = fences
        self._guard = threading.Lock()
        self._holder: str | None = None
        self._ends = 0.0

    def acquire(self, holder: str, ttl: int) -> Lease:
        """Take the lock for `ttl` seconds. Raises Held, OSError."""
        with self._guard:
            held = self._current()
            if held is not None:
                raise Held(held)
            self._fences.next()
            return self._give(holder, ttl)

    def renew(self, holder: str, ttl: int, fence: int) -> Lease:
        """Have `ttl` seconds from now under the same fence. Raises Superseded."""
        with self._guard:
            self._only_latest(fence)
            return self._give(holder, ttl)

    def release(self, fence: int) -> None:
        """Give the lock back. Raises Superseded."""
        with self._guard:
            self._only_latest(fence)
            self._holder = None

    def force(self) -> Lease | None:
        """Break the lock and shut out its holder; the lease that was broken. Raises OSError."""
        with self._guard:
            held = self._current()
            self._fences.next()
            self._holder = None
            return held

    def status(self) -> Lease | None:
        """The lease of the moment."""
        with self._guard:
            return self._current()

    @property
    def fence(self) -> int:
        """The highest fence that was given out; 0 when none was."""
        return self._fences.last

    def check(self, fence: int | None) -> None:
        """Raises Superseded for a fence that a later one has overtaken; None is no fence."""
        if fence is not None and fence < self._fences.last:
            raise Superseded(self._fences.last)

    def _only_latest(self, fence: int) -> None:
        if fence != self._fences.last or fence == 0:
            raise Superseded(self._fences.last)

    def _give(self, holder: str, ttl: int) -> Lease:
        self._holder, self._ends = holder, self._clock() + ttl
        return Lease(holder=holder, fence=self._fences.last, expires_in=ttl)

    def _current(self) -> Lease | None:
        left = self._ends - self._clock()
        if self._holder is None or left <= 0:
            return None
        return Lease(holder=self._holder, fence=self._fences.last, expires_in=math.ceil(left))
