"""A wire between a client and a memory server, which breaks in the middle of one write of many."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from typing import Literal, Self
from urllib.parse import urlsplit

_WRITE = b"POST /api/hdev-memory/1/write "


class Wire:
    """Passes connections on to `upstream`, until the write number `cut_in` (from 1) comes by.

    Of that request (`up`), or of its answer (`down`), `after` bytes more go through; then `then` is
    called and the connection ends. Later ones pass, or are refused while `dead` is set.
    """

    def __init__(
        self,
        upstream: str,
        *,
        cut_in: int = 0,
        direction: Literal["up", "down"] = "up",
        after: int = 0,
        then: Callable[[], None] = lambda: None,
    ) -> None:
        self.upstream = upstream
        self.dead = False
        self.cut = threading.Event()
        self._left = cut_in
        self._direction = direction
        self._after = after
        self._then = then
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        self._start(self._accept)
        return self

    def __exit__(self, *error: object) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        with self._lock:
            for end in self._open:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(timeout=30)
            assert not thread.is_alive()
        for end in self._open:
            end.close()

    def _start(self, work: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            if self.dead:
                client.close()
                continue
            place = urlsplit(self.upstream)
            try:
                server = socket.create_connection((place.hostname, place.port), timeout=30)
            except OSError:
                client.close()
                continue
            server.settimeout(None)
            armed = threading.Event()
            with self._lock:
                self._open |= {client, server}
            self._start(self._pass, client, server, armed, "up")
            self._start(self._pass, server, client, armed, "down")

    def _pass(
        self, here: socket.socket, there: socket.socket, armed: threading.Event, direction: str
    ) -> None:
        """Until either end is closed, or the cut."""
        with contextlib.suppress(OSError):
            tail = b""
            while piece := here.recv(64 * 1024):
                found = -1
                if direction == "up" and not armed.is_set():
                    found = self._marked(tail, piece)
                    tail = piece[-len(_WRITE) :]
                if found >= 0:
                    armed.set()
                if armed.is_set() and direction == self._direction:
                    there.sendall(piece[: max(0, found) + self._after])
                    self._break()
                    break
                there.sendall(piece)
        for end in (here, there):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _marked(self, tail: bytes, piece: bytes) -> int:
        """Where in the piece the write that is to be cut begins; -1 where it does not."""
        place = (tail + piece).find(_WRITE)
        if place < 0:
            return -1
        with self._lock:
            self._left -= 1
            return max(0, place - len(tail)) if self._left == 0 else -1

    def _break(self) -> None:
        self._then()
        self.cut.set()
