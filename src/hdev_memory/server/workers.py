"""Several processes that answer on one socket, and the one that watches over them.

The watching process opens no storage, has no threads and no connections, so that it can fork at any
time. A worker tells by a pipe that it answers, and learns from the end of another that the watching
process is gone. Signals go to the watching process; its workers only need its SIGTERM, and take any
number of them (an init system may send one to each process of the group) as one.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import signal
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection, wait
from types import FrameType

DEATHS = 5
"""So many workers that die within DEATHS_SECONDS end the server: another one would die as well."""

DEATHS_SECONDS = 60.0

STOP, RELOAD = (signal.SIGTERM, signal.SIGINT), signal.SIGHUP

log = logging.getLogger("hdev_memory.server")

Serve = Callable[[Callable[[str], None], int], int]
"""Serve until SIGTERM, or until the descriptor has an end; call the function when requests are
answered, with what is to be told of that, and return the exit status."""


class Supervisor:
    """`count` workers that each run `serve`, as long as nobody ends it.

    `ready` is called once, when all of them answer, with what the last one said; `buried` with the
    process id of each worker that is gone. With `reload` SIGHUP goes to all workers; else it ends
    the server.
    """

    def __init__(
        self,
        count: int,
        serve: Serve,
        *,
        ready: Callable[[str], None],
        buried: Callable[[int], None],
        reload: bool,
        patience: float,
    ) -> None:
        """`patience` is how many seconds workers have to end before they are killed."""
        self._count = count
        self._serve = serve
        self._ready = ready
        self._buried = buried
        self._kinds = (*STOP, RELOAD) if reload else STOP
        self._patience = patience
        self._fork = multiprocessing.get_context("fork")
        self._workers: dict[int, multiprocessing.process.BaseProcess] = {}
        self._awaited: dict[Connection, int] = {}  # of workers that do not answer yet
        self._deaths: deque[float] = deque()
        self._started = False
        self._status: int | None = None
        self._ends: float | None = None

    def run(self) -> int:
        """Until a signal, or until workers keep dying; the exit status.

        The first worker starts alone. If it does not come to answering, its exit status is that of
        the server: what it failed on, it has said, and the others would say the same.
        """
        life, held = os.pipe()
        with contextlib.closing(_Signals(self._kinds)) as signals:
            try:
                self._start(life, held)
                while self._workers:
                    self._turn(signals, life, held)
            finally:
                os.close(life)
                os.close(held)
        return self._status if self._status is not None else 0

    def _turn(self, signals: _Signals, life: int, held: int) -> None:
        left = None if self._ends is None else max(0.0, self._ends - time.monotonic())
        ended = {worker.sentinel: pid for pid, worker in self._workers.items()}
        found = set(wait([signals.wakes, *self._awaited, *ended], left))
        if not found:
            log.error("workers did not end in time, and are killed")
            self._kill()
        for number in signals.taken() if signals.wakes in found else ():
            self._told(number)
        for sentinel, pid in ended.items():
            if sentinel in found:
                self._bury(pid)
        for answers in list(self._awaited):
            if answers in found:
                self._answered(answers)
        if self._ends is None and self._started:
            while len(self._workers) < self._count:
                self._start(life, held)

    def _start(self, life: int, held: int) -> None:
        answers, told = self._fork.Pipe(duplex=False)
        worker = self._fork.Process(target=self._work, args=(told, life, held))
        with _blocked(self._kinds):
            worker.start()
        told.close()
        assert worker.pid is not None
        self._workers[worker.pid] = worker
        self._awaited[answers] = worker.pid

    def _work(self, told: Connection, life: int, held: int) -> None:
        """In the worker, with all signals blocked."""
        signal.set_wakeup_fd(-1)
        for kind in self._kinds:
            signal.signal(kind, signal.SIG_DFL)
        # A terminal sends it to all processes; the watching one passes on that the end has come.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, self._kinds)
        os.close(held)

        def ready(said: str) -> None:
            told.send(said)
            told.close()

        raise SystemExit(self._serve(ready, life))

    def _told(self, number: int) -> None:
        if number == RELOAD:
            self._send(RELOAD)
        elif self._ends is None:
            self._end(0)
        else:
            self._status = 128 + number
            self._kill()

    def _end(self, status: int) -> None:
        self._status = status
        self._ends = time.monotonic() + self._patience
        self._send(signal.SIGTERM)

    def _answered(self, answers: Connection) -> None:
        try:
            said = answers.recv()
        except EOFError:  # it died before it came to that, and is buried in a moment
            return
        self._started = True
        del self._awaited[answers]
        answers.close()
        if self._ends is None and len(self._workers) == self._count and not self._awaited:
            self._ready(said)
            self._ready = _nothing

    def _bury(self, pid: int) -> None:
        worker = self._workers.pop(pid)
        worker.join()
        for answers in [each for each, of in self._awaited.items() if of == pid]:
            del self._awaited[answers]
            answers.close()
        status = worker.exitcode
        worker.close()
        self._buried(pid)
        if self._ends is not None:
            return
        if not self._started:
            self._end(status if status is not None and status > 0 else 1)
            return
        log.error("worker %d ended with %s; another one is started", pid, status)
        now = time.monotonic()
        self._deaths.append(now)
        while now - self._deaths[0] > DEATHS_SECONDS:
            self._deaths.popleft()
        if len(self._deaths) >= DEATHS:
            log.error("%d workers died within %d s: the server ends", DEATHS, DEATHS_SECONDS)
            self._end(1)

    def _send(self, number: int) -> None:
        for pid in self._workers:  # not reaped yet, so that the number is still that of a worker
            os.kill(pid, number)

    def _kill(self) -> None:
        self._ends = time.monotonic() + self._patience
        self._send(signal.SIGKILL)


class _Signals:
    """Signals as something to wait for."""

    def __init__(self, kinds: tuple[signal.Signals, ...]) -> None:
        self.wakes, self._woken = socket.socketpair()
        self.wakes.setblocking(False)
        self._woken.setblocking(False)
        self._before = {kind: signal.signal(kind, _heard) for kind in kinds}
        self._wakeup = signal.set_wakeup_fd(self._woken.fileno())

    def taken(self) -> bytes:
        """The numbers of those that came."""
        return self.wakes.recv(4096)

    def close(self) -> None:
        signal.set_wakeup_fd(self._wakeup)
        for kind, handler in self._before.items():
            signal.signal(kind, handler)
        self.wakes.close()
        self._woken.close()


def _heard(number: int, frame: FrameType | None) -> None:
    """The number is in the socket already."""


def _nothing(said: str) -> None:
    """What `ready` becomes when it was called."""


@contextlib.contextmanager
def _blocked(kinds: tuple[signal.Signals, ...]) -> Iterator[None]:
    """Signals that come meanwhile come afterwards; a process forked meanwhile has them blocked."""
    signal.pthread_sigmask(signal.SIG_BLOCK, kinds)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, kinds)
