"""One connection to a server, of which every byte is within what the current request may take.

The standard library reads the answers; what it would let pass is refused here: lengths that are no
numbers or contradict each other, encodings of the transfer that are not `chunked`, heads that break
off, bodies that do.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import re
import select
import socket
import ssl
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http.client import HTTPMessage

import certifi

from hdev_memory.backends.base import GLANCE

IDLE_SECONDS = 2.0
"""Servers close idle connections after 5 s or so; a write must not meet that moment."""

_SENT = 64 * 1024
_TAKEN = 64 * 1024
_LENGTH = re.compile("[0-9]{1,18}")
_TARGET = re.compile(r"[!-~]+")
_FIELD = re.compile("[ -~\x80-\xff]*")


class Cut(Exception):
    """The request is given up, and its connection with it.

    `again` says that the same read may well succeed when it is tried once more, `large` that the
    answer was cut off at the limit of its size.
    """

    def __init__(self, text: str, *, again: bool = False, large: bool = False) -> None:
        super().__init__(text)
        self.again = again
        self.large = large


@dataclass(frozen=True)
class Pace:
    """What any answer must keep to.

    head_bytes  everything before the body, 1xx answers included
    headers     header lines of one answer
    pace        bytes each second that an answer brings, once it has begun
    grace       seconds that an answer may lag behind the pace
    """

    head_bytes: int
    headers: int
    pace: int
    grace: float


class Allowance:
    """What the current request of one connection may still take."""

    def __init__(
        self, pace: Pace, now: Callable[[], float], connect: float, closed: threading.Event
    ) -> None:
        self.pace = pace
        self.now = now
        self._closed = closed
        self._connect = connect
        self._end = 0.0
        self._first: float | None = None
        self._received = 0
        self._most = 0
        self._answer = 0
        self._earning: int | None = None

    def begin(self, end: float, most: int, earning: int | None) -> None:
        """A new request, which has to be over at `end`, and whose answer may have `most` bytes.

        With `earning` each so many bytes of the answer put the end off by a second.
        """
        self._end = end
        self._answer = most
        self._earning = earning
        self._first = None
        self._received = 0
        self._most = self.pace.head_bytes

    def body(self) -> None:
        """The head has come; what follows is the body."""
        self._most = self._answer

    def left(self) -> float:
        """Seconds until the request must be over; raises Cut when none are left, or when nobody
        waits for the answer any more."""
        if self._closed.is_set():
            raise Cut("given up")
        earned = self._received / self._earning if self._earning is not None else 0.0
        left = self._end + earned - self.now()
        if left <= 0:
            raise Cut("the answer takes too long", again=True)
        return left

    def to_connect(self) -> float:
        """Seconds that opening a connection may take; raises Cut when none are left."""
        return min(self._connect, self.left())

    def received(self, count: int) -> None:
        """Raises Cut when it is too much, or comes too slowly."""
        now = self.now()
        self._first = now if self._first is None else self._first
        self._received += count
        self.check_size(self._received)
        if self._received < self.pace.pace * (now - self._first - self.pace.grace):
            raise Cut("the answer comes too slowly", again=True)

    def check_size(self, size: int) -> None:
        """Raises Cut when so much is too much."""
        if size > self._most:
            raise Cut("the answer is too large", large=True)


class _Incoming(io.RawIOBase):
    """What comes from a socket, within the allowance."""

    def __init__(self, opened: socket.socket, allowance: Allowance) -> None:
        self._socket = opened
        self._allowance = allowance
        self.idle = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int | None:  # type: ignore[override]
        if self.idle:
            return None
        while True:
            left = self._allowance.left()
            try:
                if left < GLANCE:
                    self._socket.settimeout(left)
                count = self._socket.recv_into(buffer)
            except TimeoutError:
                continue  # nothing has come; whether more may be waited for is asked above
            self._allowance.received(count)
            return count


class _Reader(io.BufferedReader):
    """The one reader of a connection: an answer that is over must not close it for the next one."""

    def close(self) -> None:
        """It ends with its connection."""


class _Source:
    """What `http.client` takes for a socket."""

    def __init__(self, reader: _Reader) -> None:
        self._reader = reader

    def makefile(self, _mode: str) -> _Reader:
        return self._reader


@dataclass(frozen=True)
class Reply:
    """The head of an answer."""

    status: int
    headers: HTTPMessage

    def header(self, name: str) -> str | None:
        """A header's text; of several all, with commas; None where there is none."""
        found = self.headers.get_all(name)
        return ", ".join(found) if found else None


class Connection:
    """A connection to one origin, opened when it is needed and kept while that is safe."""

    def __init__(
        self, address: tuple[str, int], context: ssl.SSLContext | None, allowance: Allowance
    ) -> None:
        self.allowance = allowance
        self._address = address
        self._context = context
        self._socket: socket.socket | None = None
        self._incoming: _Incoming | None = None
        self._reader: _Reader | None = None
        self._used = 0.0

    def cut(self) -> None:
        """End what is being sent or received, from another thread."""
        opened = self._socket
        if opened is not None:
            with contextlib.suppress(OSError):  # it is closed already
                socket.socket.shutdown(opened, socket.SHUT_RDWR)  # not TLS's, which waits

    def close(self) -> None:
        """Let go of it; the next request opens another one."""
        if self._socket is not None:
            self._socket.close()
        self._socket = self._incoming = self._reader = None

    def exchange(
        self,
        method: str,
        target: str,
        headers: dict[str, str],
        content: bytes | None,
        check: Callable[[Reply], None],
    ) -> tuple[Reply, bytearray]:
        """Send one request; the head of its answer, on which `check` may raise, and its body.

        Raises Cut.
        """
        head = _head(method, target, headers, content)
        # A short body goes with the head: one packet, and one look at it by the server.
        parts = [head, content] if content and len(content) > _SENT else [head + (content or b"")]
        try:
            reply, body, keep = self._exchanged(method, parts, check)
        except Cut:
            self.close()
            raise
        except (OSError, http.client.HTTPException, ValueError) as error:
            self.close()
            raise Cut(str(error) or type(error).__name__, again=True) from None
        except BaseException:
            self.close()
            raise
        if keep:
            self._used = self.allowance.now()
        else:
            self.close()
        return reply, body

    def _exchanged(
        self, method: str, parts: Sequence[bytes], check: Callable[[Reply], None]
    ) -> tuple[Reply, bytearray, bool]:
        opened, incoming, reader = self._open()
        lost: OSError | None = None
        try:
            for part in parts:
                self._send(opened, part)
        except OSError as error:
            lost = error  # it may have answered before it took the whole: a 413 does
        opened.settimeout(GLANCE)
        try:
            answer = self._answer(method, reader)
        except (OSError, http.client.HTTPException):
            if lost is not None:
                raise lost from None
            raise
        reply = Reply(answer.status, answer.headers)
        length = _length(reply)
        check(reply)
        self.allowance.body()
        body = bytearray()
        while piece := answer.read(_TAKEN):
            body += piece
            self.allowance.check_size(len(body))
        if length is not None and answer.length:
            raise Cut("the connection was closed in the middle of the answer", again=True)
        incoming.idle = True
        keep = not (lost or answer.will_close or _left_over(reader))
        return reply, body, keep

    def _open(self) -> tuple[socket.socket, _Incoming, _Reader]:
        if self._socket is not None and self._incoming is not None and self._reader is not None:
            if self.allowance.now() - self._used < IDLE_SECONDS and not _readable(self._socket):
                self._incoming.idle = False
                return self._socket, self._incoming, self._reader
            self.close()
        opened = socket.create_connection(self._address, self.allowance.to_connect())
        self._socket = opened
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._context is not None:
            opened.settimeout(self.allowance.to_connect())
            opened = self._context.wrap_socket(opened, server_hostname=self._address[0])
            self._socket = opened
        self._incoming = _Incoming(opened, self.allowance)
        self._reader = _Reader(self._incoming, _TAKEN)
        return opened, self._incoming, self._reader

    def _send(self, opened: socket.socket, part: bytes) -> None:
        view = memoryview(part)
        for start in range(0, len(view), _SENT):
            opened.settimeout(self.allowance.left())
            opened.sendall(view[start : start + _SENT])

    def _answer(self, method: str, reader: _Reader) -> http.client.HTTPResponse:
        while True:
            answer = http.client.HTTPResponse(_Source(reader), method=method)  # type: ignore[arg-type]
            answer.begin()
            if answer.headers.defects:
                raise Cut("the head of the answer is malformed", again=True)
            if answer.status == http.client.SWITCHING_PROTOCOLS:
                raise Cut("the server switches to another protocol", again=True)
            if answer.status >= 200:
                return answer


def tls() -> ssl.SSLContext:
    """Certificates that the system trusts, or certifi does."""
    context = ssl.create_default_context()
    context.load_verify_locations(certifi.where())
    context.set_alpn_protocols(["http/1.1"])
    return context


def _head(method: str, target: str, headers: dict[str, str], content: bytes | None) -> bytes:
    """The head of a request. Raises Cut for what would not be one request."""
    if not _TARGET.fullmatch(target):
        raise Cut("the address is none that can be asked for")
    lines = [f"{method} {target} HTTP/1.1"]
    for name, text in headers.items():
        if not _FIELD.fullmatch(text):
            raise Cut(f"the header {name} cannot be sent")
        lines.append(f"{name}: {text}")
    if content is not None or method in ("PUT", "POST"):
        lines.append(f"Content-Length: {len(content or b'')}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def _length(reply: Reply) -> int | None:
    """The length that an answer states, if it does. Raises Cut where its framing is ambiguous."""
    coding = reply.headers.get_all("transfer-encoding")
    lengths = reply.headers.get_all("content-length")
    if coding is not None:
        if lengths is not None or [text.strip().lower() for text in coding] != ["chunked"]:
            raise Cut("where the answer ends is ambiguous", again=True)
        return None
    if lengths is None:
        return None
    stated = {text.strip() for text in lengths}
    if len(stated) != 1 or not _LENGTH.fullmatch(next(iter(stated))):
        raise Cut("the length of the answer is not one number", again=True)
    return int(next(iter(stated)))


def _left_over(reader: _Reader) -> bool:
    """Whether something came with the answer, behind it, that nobody has asked for."""
    return bool(reader.peek(1))


def _readable(opened: socket.socket) -> bool:
    """Whether something has come on an idle connection: its end, or what nobody has asked for."""
    poll = select.poll()
    poll.register(opened, select.POLLIN)
    return bool(poll.poll(0)) or (isinstance(opened, ssl.SSLSocket) and opened.pending() > 0)
