"""Run the app: in this process until a signal, or in a thread for a while."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import resource
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from types import FrameType

import uvicorn
from starlette.applications import Starlette

from hdev_memory.errors import HdevError
from hdev_memory.server.deadlines import Connections, Deadlined, Watched
from hdev_memory.server.limits import Limits
from hdev_memory.server.metrics import Metrics

GRACE_SECONDS = 30.0
"""For the requests that were taken when the server was told to end."""

BACKLOG = 1024

OTHER_DESCRIPTORS = 100
"""For everything that is no connection of a client."""

log = logging.getLogger("hdev_memory.server")


def descriptors_for(limits: Limits) -> int:
    """Have as many descriptors as connections need, if this process may; how many are missing."""
    wanted = limits.connections + limits.spare + OTHER_DESCRIPTORS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return 0
    given = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (given, hard))
    return wanted - given


def listen(host: str, port: int, *, among: bool = False) -> socket.socket:
    """A listening socket; port 0 takes a free one. Raises HdevError.

    `among` is for one of several on the same port, of which each gets its share of connections.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With the protocol named, asyncio turns Nagle's algorithm off for every connection; without it
    # each answer waits 40 ms for the client's delayed acknowledgement.
    opened = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if among:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        opened.bind((host, port))
        opened.listen(BACKLOG)
    except (OSError, OverflowError) as error:
        opened.close()
        raise HdevError(
            "The server cannot listen there.",
            why=f"{host} port {port}: {getattr(error, 'strerror', None) or error}.",
            hint="Stop what uses the port, or choose another with --port (0 takes a free one).",
        ) from None
    return opened


def listen_each(host: str, port: int, count: int) -> list[socket.socket]:
    """Listening sockets for so many workers, on one port. Raises HdevError.

    On Linux each has a queue of its own: of processes that wait for one queue, whichever wakes
    first takes nearly all. Elsewhere they share one.
    """
    # First alone: a port that is in use is said to be, also where its user would share it with us.
    opened = listen(host, port)
    if count == 1 or sys.platform != "linux":
        return [opened, *(opened.dup() for _ in range(count - 1))]
    port = opened.getsockname()[1]
    opened.close()
    return [listen(host, port, among=True) for _ in range(count)]


class Server(uvicorn.Server):
    """Uvicorn, with an end that loses no request that it took, and no signals of its own.

    `started_up` is called when requests are answered, `stopping` as soon as `should_exit` is seen;
    `drain` seconds later it takes no new connection, closes the idle ones, and gives the requests
    that it took `grace` seconds. `proxies` are the addresses and networks whose `X-Forwarded-For`
    tells where a client is.
    """

    def __init__(
        self,
        app: Starlette,
        connections: Connections,
        *,
        started_up: Callable[[], None] = lambda: None,
        stopping: Callable[[], None] = lambda: None,
        drain: float = 0.0,
        grace: float = GRACE_SECONDS,
        life: int | None = None,
        log_level: str | None = None,
        proxies: Sequence[str] = (),
    ) -> None:
        config = Watched(
            app,
            http=Deadlined,
            log_config=None,  # server/logs.py says how uvicorn's lines look
            log_level=log_level,
            access_log=False,  # it would name entries; server/observe.py has a line without
            lifespan="off",
            timeout_keep_alive=connections.limits.idle_seconds,
            h11_max_incomplete_event_size=connections.limits.head_bytes,
            backlog=BACKLOG,
            # Where nothing is said uvicorn would take the address of any client on this machine
            # from a header of its own making, and with it the limit on wrong keys.
            proxy_headers=bool(proxies),
            forwarded_allow_ips=list(proxies),
        )
        config.connections = connections
        super().__init__(config)
        self._started_up = started_up
        self._stopping = stopping
        self._drain = drain
        self._grace = grace
        self._life = life

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are those of `run`."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self._life is not None:
            asyncio.get_running_loop().add_reader(self._life, self._left_alone)
        self._started_up()

    def _left_alone(self) -> None:
        assert self._life is not None
        asyncio.get_running_loop().remove_reader(self._life)
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._stopping()
        await asyncio.sleep(self._drain)
        tasks = self.server_state.tasks
        try:
            async with asyncio.timeout(self._grace):
                await super().shutdown(sockets)
        except TimeoutError:
            left = len(self.server_state.connections)
            log.warning("%d connections were cut off: their requests did not end in time", left)
            for task in list(tasks):
                task.cancel()


def run(
    app: Starlette,
    opened: socket.socket,
    ready: Callable[[], None],
    reload: Callable[[], None] | None = None,
    *,
    drain: float = 0.0,
    grace: float = GRACE_SECONDS,
    life: int | None = None,
    proxies: Sequence[str] = (),
) -> None:
    """Serve until SIGINT or SIGTERM; `ready` is called when requests are answered.

    A second signal ends the process where it stands, by that signal, as a kill would: what was
    acknowledged is durable, and what was not is finished by the next start. `reload` is called at
    SIGHUP, which ends the server where there is nothing to reload.

    With `life` it is a worker: it serves until SIGTERM, of which there may be several, or until
    this descriptor has an end.
    """
    state = app.state
    server = Server(
        app,
        state.connections,
        started_up=ready,
        stopping=state.readiness.stop,
        drain=drain,
        grace=grace,
        life=life,
        proxies=proxies,
    )

    def stop(number: int, frame: FrameType | None) -> None:
        if server.should_exit and life is None:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        server.should_exit = True

    def again(number: int, frame: FrameType | None) -> None:
        if reload is not None:
            reload()

    kinds = (signal.SIGINT, signal.SIGTERM) if life is None else (signal.SIGTERM,)
    before = {kind: signal.signal(kind, stop) for kind in kinds}
    if reload is not None:
        before[signal.SIGHUP] = signal.signal(signal.SIGHUP, again)
    try:
        server.run(sockets=[opened])
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)


@contextlib.contextmanager
def serve_in_thread(app: Starlette) -> Iterator[str]:
    """Serve any app on a free loopback port while the context lasts; gives the URL."""
    opened = listen("127.0.0.1", 0)
    # An app of a test may be a plain function, without our state.
    state = getattr(app, "state", None)
    connections = getattr(state, "connections", None) or Connections(Metrics())
    server = Server(app, connections, grace=10.0, log_level="critical")
    thread = threading.Thread(target=server.run, kwargs={"sockets": [opened]}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{opened.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(timeout=15)
        opened.close()
