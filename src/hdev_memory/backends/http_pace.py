"""How many requests are under way at once: as many as make the server answer more in a second.

One more is tried after the other. Where that does not pay, the server is busy and only the waiting
grows, for other clients as well: then it is taken back, and not tried again for a while.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any, TypeVar

T = TypeVar("T")
R = TypeVar("R")

START = 4
"""Enough for a server with several processes to show it, and no burst for a small one."""

_CALLS = 4
_LEAST_CALLS = 16
"""A measurement takes so many calls for each one that is under way, and no fewer than that."""

_PAYS = 1.05
_SLOWER = 1.5
_HOLD = 8


class Width:
    """The number itself, from what is measured; `now` is in seconds.

    It grows by one as long as the rate grows by a twentieth, goes back by one where it does not or
    where answers take half as long again, and is halved where the server says that it is too much.
    """

    def __init__(self, most: int, now: float) -> None:
        self.width = min(START, most)
        self._most = most
        self._held = 0
        self._stepped = False
        self._rate: float | None = None
        self._latency = 0.0
        self.begin(now)

    def begin(self, now: float) -> None:
        """Calls of another kind follow: what was measured says nothing of them."""
        self._rate, self._stepped = None, False
        self._restart(now)

    def _restart(self, now: float) -> None:
        self._since = now
        self._calls = 0
        self._seconds = 0.0

    def done(self, seconds: float, now: float) -> None:
        """One call has taken so long."""
        self._calls += 1
        self._seconds += seconds
        if self._calls < max(_LEAST_CALLS, _CALLS * self.width) or now <= self._since:
            return
        rate, latency = self._calls / (now - self._since), self._seconds / self._calls
        if self._rate is not None:
            self._decide(rate, latency, self._rate)
        self._rate, self._latency = rate, latency
        self._restart(now)

    def _decide(self, rate: float, latency: float, before: float) -> None:
        stepped, self._stepped = self._stepped, False
        if (stepped and rate < before * _PAYS) or latency > self._latency * _SLOWER:
            self.width = max(1, self.width - 1)
            self._held = _HOLD
        elif self._held:
            self._held -= 1
        elif self.width < self._most:
            self.width += 1
            self._stepped = True

    def refused(self, now: float) -> None:
        """The server asks to come later: 429 or 503."""
        self.width = max(1, self.width // 2)
        self._held = _HOLD
        self.begin(now)


class Gate:
    """Lets calls through to the threads of a pool, so many at once, and measures them.

    A thread that is done with one takes the next that waits: none waits for its turn in a thread,
    and so none has to be woken for each.
    """

    def __init__(self, most: int, now: Callable[[], float], pool: Executor) -> None:
        self._now = now
        self._pool = pool
        self._guard = threading.Lock()
        self._busy = 0
        self._waiting: deque[tuple[Future[Any], Callable[[Any], Any], Any]] = deque()
        self._measured = Width(most, now())

    def begin(self) -> None:
        """Calls of another kind follow."""
        with self._guard:
            self._measured.begin(self._now())

    def submit(self, call: Callable[[T], R], item: T) -> Future[R]:
        """`call` for an item, when it is its turn."""
        future: Future[R] = Future()
        with self._guard:
            self._waiting.append((future, call, item))
            free = self._busy < self._measured.width
            self._busy += free
        if free:
            self._another()
        return future

    def _another(self) -> None:
        """One more thread, unless the pool is being closed: then nobody waits any more."""
        with contextlib.suppress(RuntimeError):
            self._pool.submit(self._carry_out)

    def _carry_out(self) -> None:
        """One call after the other, as long as any waits and so many may be under way."""
        begun: float | None = None
        while True:
            with self._guard:
                now = self._now()
                if begun is not None:
                    self._measured.done(now - begun, now)
                if not self._waiting or self._busy > self._measured.width:
                    self._busy -= 1
                    return
                future, call, item = self._waiting.popleft()
                more = bool(self._waiting) and self._busy < self._measured.width
                self._busy += more
            if more:
                self._another()
            begun = now if future.set_running_or_notify_cancel() else None
            if begun is None:
                continue
            try:
                found = call(item)
            except BaseException as error:  # noqa: BLE001 - whoever waits for it raises it
                future.set_exception(error)
            else:
                future.set_result(found)

    def refused(self) -> None:
        """The server asks to come later."""
        with self._guard:
            self._measured.refused(self._now())
