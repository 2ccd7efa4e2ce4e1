"""Run the app: in this process until a signal, or in a thread for a while."""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from types import FrameType

import uvicorn
from starlette.applications import Starlette

from hdev_memory.errors import HdevError
from hdev_memory.server.deadlines import IDLE_SECONDS, Deadlined


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one. Raises HdevError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With the protocol named, asyncio turns Nagle's algorithm off for every connection; without it
    # each answer waits 40 ms for the client's delayed acknowledgement.
    opened = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind((host, port))
        opened.listen(1024)
    except (OSError, OverflowError) as error:
        opened.close()
        raise HdevError(
            "The server cannot listen there.",
            why=f"{host} port {port}: {getattr(error, 'strerror', None) or error}.",
            hint="Stop what uses the port, or choose another with --port (0 takes a free one).",
        ) from None
    return opened


def _config(app: Starlette, log_level: str, protocol: type[Deadlined]) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=protocol,
        log_level=log_level,
        lifespan="off",
        access_log=log_level in ("info", "debug", "trace"),
        timeout_keep_alive=IDLE_SECONDS,
        timeout_graceful_shutdown=10,
        # Uvicorn would take the address of a client on this machine from a header of its own
        # making, and with it the limit on wrong keys.
        proxy_headers=False,
    )


def run(
    app: Starlette,
    opened: socket.socket,
    ready: Callable[[], None],
    log_level: str,
    reload: Callable[[], None] | None = None,
) -> None:
    """Serve until SIGINT or SIGTERM; `ready` is called when requests are answered.

    `reload` is called at SIGHUP, which ends the server where there is nothing to reload.
    """
    server = uvicorn.Server(_config(app, log_level, Deadlined))

    def stop(number: int, frame: FrameType | None) -> None:
        server.should_exit = True

    def again(number: int, frame: FrameType | None) -> None:
        if reload is not None:
            reload()

    # Uvicorn has handlers of its own while it serves, and afterwards raises the signal again for
    # those from before: these, so that a server which was told to end has ended well.
    kinds = (signal.SIGINT, signal.SIGTERM)
    before = {kind: signal.signal(kind, stop) for kind in kinds}
    if reload is not None:
        before[signal.SIGHUP] = signal.signal(signal.SIGHUP, again)
    try:
        ready()  # the socket listens already: a request sent now waits and is answered
        server.run(sockets=[opened])
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)


@contextlib.contextmanager
def serve_in_thread(app: Starlette, protocol: type[Deadlined] = Deadlined) -> Iterator[str]:
    """Serve on a free loopback port while the context lasts; gives the URL."""
    opened = listen("127.0.0.1", 0)
    server = uvicorn.Server(_config(app, "critical", protocol))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [opened]}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{opened.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(timeout=15)
        opened.close()
