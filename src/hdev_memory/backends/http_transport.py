"""Requests to one origin: with the key for it, within limits, and errors in our own words.

Every byte goes through a stream that knows what the current request may still take: seconds in
all, a pace, a size. So nothing that a server does before, in or after an answer can hold us longer,
or fill more memory, than a long answer of an honest server would.
"""

from __future__ import annotations

import contextlib
import json
import random
import re
import threading
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar
from urllib.parse import SplitResult, quote, urljoin, urlsplit

from hdev_memory.backends.base import GLANCE, Secret, Where
from hdev_memory.backends.http_pace import Gate
from hdev_memory.backends.http_wire import Allowance, Connection, Cut, Pace, Reply, tls
from hdev_memory.core.digest import NotCanonical, decode_value
from hdev_memory.core.entry import display_name
from hdev_memory.errors import BackendError, KeyRefusedError, UsageError

CONNECTIONS = 8
"""More of them gain nothing: our threads share one core, and the existing server has one."""

TOO_DEEP = "is nested too deep"
"""What is wrong with an answer that may be right and is only too deep for us."""

NDJSON = "application/x-ndjson"

_BYTES_A_SECOND = 64 * 1024
"""Bytes of a batch that put its deadline off by a second: a server gives a body as much."""

_RETRIED = (429, 502, 503, 504)
_PUT_OFF = (429, 503)
_REDIRECTS = (301, 302, 303, 307, 308)
_PATH = "/%:@!$&'()*+,;=~"
_DEFAULT_PORTS = {"http": 80, "https": 443}
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Limits:
    """What a server may take of us; the defaults are far beyond what an honest one needs.

    answer_bytes  one answer, its head included
    head_bytes    everything before the body, 1xx answers included
    headers       header lines of one answer
    depth         levels of nesting in an answer; a tree of the existing server has up to 256
    values        values in an answer: each costs a hundred times its two bytes once it is read
    page_lines    entries that are asked for in one page of a snapshot
    page_bytes    one such page; of fewer entries where they do not fit
    entries       entries of one snapshot in pages
    folders       folders that are listed one by one where the tree does not come in one answer
    pace          bytes each second that an answer brings, once it has begun
    grace         seconds that an answer may lag behind the pace
    redirects     how many a read follows
    attempts      how often one read is tried in all
    longest_wait  seconds that a server may ask us to wait with `Retry-After`
    budget        seconds that all failed attempts of a backend may cost, with the waits after them
    earned        seconds that each answer gives back to the budget
    """

    answer_bytes: int = 256 * 1024 * 1024
    head_bytes: int = 256 * 1024
    headers: int = 100
    depth: int = 300
    values: int = 16_000_000
    page_lines: int = 20_000
    page_bytes: int = 64 * 1024 * 1024
    entries: int = 20_000_000
    folders: int = 100_000
    pace: int = 1024
    grace: float = 5.0
    redirects: int = 3
    attempts: int = 4
    longest_wait: float = 60.0
    budget: float = 60.0
    earned: float = 0.02


@dataclass(frozen=True)
class Clock:
    """Time as the requests see it.

    now     seconds, never going back
    wall    seconds since 1970, which only a date in `Retry-After` is compared with
    wait    waits so many seconds, or until the event is set
    jitter  a number from 0 to 1, another one each time
    """

    now: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time
    wait: Callable[[threading.Event, float], object] = threading.Event.wait
    jitter: Callable[[], float] = random.random


LIMITS = Limits()
CLOCK = Clock()


class RequestFailed(Exception):
    """No usable answer came; whether the server acted on the request is not known.

    `again` says that the same read may well succeed when it is tried once more.
    """

    def __init__(self, text: str, *, again: bool = False) -> None:
        super().__init__(text)
        self.again = again


class AnswerTooLarge(RequestFailed):
    """The answer was cut off at its limit; the same read would come to the same."""


@dataclass(frozen=True)
class Answer:
    """A status with the JSON object that came with it, and the headers that matter here.

    `flaw` says what is wrong with the body where it cannot be used; then `body` is empty. `items`
    is a JSON array that came in the place of an object, where the request takes one, and `lines`
    the bytes of an NDJSON body, which whoever asked for them reads.
    """

    status: int
    body: dict[str, Any]
    flaw: str
    etag: str | None
    location: str | None
    retry_after: str | None
    link: str | None = None
    items: tuple[Any, ...] = ()
    lines: bytes = b""

    @property
    def cause(self) -> str:
        """What it says of a failure, or else its status."""
        said = self.body.get("error") or self.body.get("detail")
        if said:
            return str(said)
        return f"status {self.status}" + (f", and the answer {self.flaw}" if self.flaw else "")


def short(text: object) -> str:
    """Foreign text for a reason: one line, printable, at most 200 characters."""
    shown = display_name(str(text)[:1000])
    return shown if len(shown) <= 200 else shown[:199] + "…"


def failure(method: str, path: str, cause: object) -> str:
    """The existing tool's wording, which people look for."""
    return f"HTTP request failed: {method} {path}: {short(cause)}"


@dataclass(frozen=True)
class _Taking:
    """What a request takes for an answer beside a JSON object: see `Transport.request`."""

    arrays: bool
    lines: int | None


def _unpacked(packed: bytearray, most: int) -> bytearray:
    """What a gzip body stands for, which is never more than `most` bytes. Raises Cut."""
    unpacking = zlib.decompressobj(zlib.MAX_WBITS | 16)
    try:
        raw = unpacking.decompress(packed, most + 1)
    except zlib.error:
        raise Cut("the answer is not the gzip that it claims to be") from None
    if len(raw) > most:
        raise Cut("the answer is too large once it is unpacked", large=True)
    if not unpacking.eof or unpacking.unused_data:
        raise Cut("the answer is not one whole gzip")
    return bytearray(raw)


class _Budget:
    """Seconds that failures may still cost, for all threads of one backend."""

    def __init__(self, limits: Limits) -> None:
        self._most = self._left = limits.budget
        self._earned = limits.earned
        self._guard = threading.Lock()

    def earn(self) -> None:
        with self._guard:
            self._left = min(self._most, self._left + self._earned)

    def spend(self, seconds: float) -> bool:
        """Whether there was so much; what there was is gone in any case."""
        with self._guard:
            enough = seconds < self._left
            self._left = max(0.0, self._left - seconds)
            return enough


class Transport:
    """A small pool of threads, each with a connection of its own: they never contend."""

    def __init__(self, where: Where, limits: Limits = LIMITS, clock: Clock = CLOCK) -> None:
        """Raises UsageError for a key that would travel in the clear."""
        url = urlsplit(where.location)
        self.local = url.hostname in ("localhost", "127.0.0.1", "::1")
        if (
            where.key is not None
            and url.scheme == "http"
            and not (self.local or where.insecure_http)
        ):
            raise UsageError(
                "The key would travel unencrypted to another machine.",
                why=f"{where.location} is plain http.",
                hint="Use https, or --insecure-http if the network is yours alone.",
            )
        self.limits = limits
        self._clock = clock
        try:
            self._origin = _origin(url)
        except ValueError:
            raise UsageError("No server can have this name.", why=f"{url.hostname}.") from None
        self._root = f"{url.scheme}://{_authority(self._origin)}"
        self._base = quote(url.path.rstrip("/"), safe="/%")
        self._headers = {
            "Host": _authority(self._origin),
            "Accept": "application/json",
            "Accept-Encoding": "identity",
        }
        if where.key is not None:
            self._headers["Authorization"] = f"Bearer {_sendable(where.key)}"
        self._context = tls() if url.scheme == "https" else None
        self._timeout = where.timeout
        self._handshake = min(where.handshake, where.timeout)
        self._connections = where.parallelism or CONNECTIONS
        self._local = threading.local()
        self._clients: list[Connection] = []
        self._guard = threading.Lock()
        self._budget = _Budget(limits)
        self._closed = threading.Event()
        self._pool = ThreadPoolExecutor(self._connections, thread_name_prefix="hdev-http")
        self._gate = Gate(self._connections, clock.now, self._pool)

    def close(self) -> None:
        """Give up what is under way, and that at once: nobody waits for it any more."""
        self._closed.set()
        for client in self._clients:
            client.cut()
        self._pool.shutdown(wait=True, cancel_futures=True)
        for client in self._clients:
            client.close()
        self._clients.clear()

    def _client(self) -> Connection:
        client: Connection | None = getattr(self._local, "client", None)
        if client is None:
            limits = self.limits
            pace = Pace(limits.head_bytes, limits.headers, limits.pace, limits.grace)
            allowance = Allowance(pace, self._clock.now, self._handshake, self._closed)
            client = self._local.client = Connection(self._origin[1:], self._context, allowance)
            with self._guard:
                self._clients.append(client)
        return client

    def request(
        self,
        method: str,
        path: str,
        *,
        body: Any = None,
        headers: dict[str, str] | None = None,
        seconds: float | None = None,
        arrays: bool = False,
        lines: int | None = None,
    ) -> Answer:
        """One request. Raises RequestFailed, or KeyRefusedError for 401.

        The whole answer has to come within the timeout (`seconds` where it is another than that
        of the transport) and the limits. A GET follows redirects within the origin; of a write a
        redirect is the answer. A body in bytes is NDJSON, anything else is sent as JSON. `arrays`
        takes a JSON array for an answer as well as an object. `lines` takes NDJSON of so many
        bytes as well, packed or not; then each 64 KiB sent or received put the end of the time off
        by a second, so that a long answer needs no long timeout.
        """
        content = None
        sent = {**self._headers, **(headers or {})}
        if isinstance(body, bytes):
            content = body
            sent["Content-Type"] = NDJSON
        elif body is not None:
            content = json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
            sent["Content-Type"] = "application/json"
        end = self._clock.now() + (seconds if seconds is not None else self._timeout)
        if lines is not None:
            sent["Accept"] = f"{NDJSON}, application/json"
            sent["Accept-Encoding"] = "identity" if self.local else "gzip"
            end += len(content or b"") / _BYTES_A_SECOND
        taking = _Taking(arrays, lines)
        target = self._base + path
        for _ in range(self.limits.redirects + 1):
            answer = self._exchange(method, path, target, sent, content, end, taking)
            if answer.status == 401:
                raise KeyRefusedError(
                    "The server refused the key.",
                    why=failure(method, path, f"401 {answer.body.get('detail', '')}".rstrip())
                    + ".",
                    hint="Check the key: --api-key, HDEV_MEMORY_HTTP_API_KEY, or the "
                    "configuration.",
                )
            if answer.status not in _REDIRECTS or method != "GET":
                return answer
            target = self._redirected(path, target, answer)
        raise RequestFailed(failure(method, path, "redirects without an end"))

    def _exchange(
        self,
        method: str,
        path: str,
        target: str,
        headers: dict[str, str],
        content: bytes | None,
        end: float,
        taking: _Taking,
    ) -> Answer:
        client = self._client()
        most = self.limits.answer_bytes if taking.lines is None else taking.lines
        client.allowance.begin(end, most, None if taking.lines is None else _BYTES_A_SECOND)
        packed = False

        def check(reply: Reply) -> None:
            nonlocal packed
            packed = self._check_head(reply, taking)

        try:
            reply, raw = client.exchange(method, target, headers, content, check)
            if packed:
                raw = _unpacked(raw, most)
        except Cut as cut:
            if cut.large:
                raise AnswerTooLarge(failure(method, path, cut)) from None
            raise RequestFailed(failure(method, path, cut), again=cut.again) from None
        kind = reply.header("content-type") or ""
        in_lines = taking.lines is not None and kind.lower().partition(";")[0].strip() == NDJSON
        found, flaw = ({}, "is NDJSON") if in_lines else self._value(bytes(raw), kind)
        if isinstance(found, list) and not taking.arrays:
            found, flaw = {}, "is not a JSON object"
        if reply.status in _PUT_OFF:
            self._gate.refused()
        return Answer(
            status=reply.status,
            body=found if isinstance(found, dict) else {},
            flaw=flaw,
            items=tuple(found) if isinstance(found, list) else (),
            lines=bytes(raw) if in_lines else b"",
            link=reply.header("link"),
            etag=reply.header("etag"),
            location=reply.header("location"),
            retry_after=reply.header("retry-after"),
        )

    def _check_head(self, reply: Reply, taking: _Taking) -> bool:
        """Whether the body is packed. Raises Cut before it is read."""
        if len(reply.headers) > self.limits.headers:
            raise Cut(f"the answer has more than {self.limits.headers} headers")
        encoding = (reply.header("content-encoding") or "identity").lower()
        if encoding == "gzip" and taking.lines is not None and not self.local:
            return True
        if encoding != "identity":
            # Never decompressed: a few bytes can stand for gigabytes, and nobody asked for it.
            raise Cut(f"the answer is encoded as {encoding}, which was not asked for")
        return False

    def _redirected(self, path: str, target: str, answer: Answer) -> str:
        """Where a read goes on, within the origin. Raises RequestFailed."""
        try:
            url = urlsplit(urljoin(self._root + target, answer.location or ""))
            inside = _origin(url) == self._origin and "@" not in url.netloc
        except ValueError:
            inside = False
        if not answer.location or not inside:
            # The key is for this origin only.
            cause = f"{answer.status} redirects to another address: {answer.location}"
            raise RequestFailed(failure("GET", path, cause))
        return quote(url.path or "/", safe=_PATH) + (f"?{url.query}" if url.query else "")

    def _value(self, raw: bytes, kind: str) -> tuple[dict[str, Any] | list[Any], str]:
        """The JSON object or array of an answer, and what is wrong with it."""
        if not raw:
            return {}, "is empty"
        media, _, parameters = kind.lower().partition(";")
        charset = parameters.strip().removeprefix("charset=").strip('"')
        if media.strip() != "application/json" or charset not in ("", "utf-8"):
            return {}, f"is {short(kind) or 'of no stated type'}, not JSON"
        if self._too_many(raw):
            return {}, "holds too many values"
        try:
            found = decode_value(raw.decode())
        except UnicodeDecodeError:
            return {}, "is not UTF-8"
        except NotCanonical as error:
            return {}, TOO_DEEP if "nested" in str(error) else str(error)
        if not isinstance(found, dict | list):
            return {}, "is not a JSON object"
        if raw.count(b"{") + raw.count(b"[") > self.limits.depth and _deeper(
            found, self.limits.depth
        ):
            return {}, TOO_DEEP
        return found, ""

    def _too_many(self, raw: bytes) -> bool:
        if len(raw) <= self.limits.values:
            return False
        outside = _STRING.sub(b"", raw)
        return sum(outside.count(mark) for mark in (b",", b"[", b"{")) > self.limits.values

    def shake_hands(self, *paths: str) -> list[Answer]:
        """The answers to the first reads, which share their time; raises as `request`.

        They run in a thread that is left behind when the time is up: the look-up of a name knows
        no timeout of its own.
        """
        outcome: list[list[Answer] | BaseException] = []
        longer = self._handshake + 1  # so that the thread left behind ends soon as well

        def run() -> None:
            try:
                outcome.append([self.request("GET", path, seconds=longer) for path in paths])
            except BaseException as error:  # noqa: BLE001 - it is raised where it is waited for
                outcome.append(error)

        thread = threading.Thread(target=run, name="hdev-handshake", daemon=True)
        thread.start()
        thread.join(self._handshake)
        if not outcome:
            raise RequestFailed(
                f"HTTP request failed: no answer within {self._handshake:g} seconds", again=True
            )
        if isinstance(outcome[0], BaseException):
            raise outcome[0]
        return outcome[0]

    def get(
        self,
        path: str,
        *,
        headers: dict[str, str] | None = None,
        arrays: bool = False,
        lines: int | None = None,
    ) -> Answer:
        """A read, tried again where that can help, as long as the budget lasts."""
        return self.again(
            lambda: self.request("GET", path, headers=headers, arrays=arrays, lines=lines)
        )

    def again(self, ask: Callable[[], Answer], *, put_off: bool = False) -> Answer:
        """What may be asked more than once, tried again where that can help.

        The only place where anything is tried again. With `put_off` that is only where the server
        says that it has not begun: never after a failure that leaves open what was done.
        """
        retried = _PUT_OFF if put_off else _RETRIED
        for attempt in range(1, self.limits.attempts + 1):
            begun = self._clock.now()
            failed: RequestFailed | None = None
            answer: Answer | None = None
            try:
                answer = ask()
            except RequestFailed as error:
                failed = error
            if answer is not None and answer.status not in retried:
                self._budget.earn()
                return answer
            pause = self._pause(attempt, answer.retry_after if answer is not None else None)
            again = attempt < self.limits.attempts and (
                failed is None or (failed.again and not put_off)
            )
            cost = self._clock.now() - begun + (pause or 0.0)
            if again and pause is not None and self._budget.spend(cost):
                self._clock.wait(self._closed, pause)
                if not self._closed.is_set():
                    continue
            if failed is not None:
                raise failed
            assert answer is not None
            return answer
        raise AssertionError("the last attempt has ended")

    def _pause(self, attempt: int, asked: str | None) -> float | None:
        """Seconds before the next attempt; None where the server asks for too many."""
        own = 0.05 * 2.0**attempt * (0.5 + self._clock.jitter() / 2)
        wished = _retry_after(asked, self._clock.wall())
        if wished > self.limits.longest_wait:
            return None
        return max(own, wished)

    def start(self, call: Callable[[T], R], item: T) -> Future[R]:
        """`call` for an item in a thread of the pool; to be waited for with `result`."""
        return self._pool.submit(call, item)

    def map(
        self, call: Callable[[T], R], items: Iterable[T], ahead: int | None = None
    ) -> Iterator[R]:
        """`call` for each item, several at a time, results in order, memory flat.

        How many at a time is found by what the server makes of it. No more than `ahead` of them are
        begun before the first result is taken.
        """
        self._gate.begin()
        most = ahead if ahead is not None else self._connections * 4
        waiting: deque[Future[R]] = deque()
        try:
            for item in items:
                waiting.append(self._gate.submit(call, item))
                if len(waiting) >= most:
                    # Several at a time: to wake up for each costs as much as a small request.
                    _await(waiting[most // 4])
                    while len(waiting) == most or (waiting and waiting[0].done()):
                        yield result(waiting.popleft())
            while waiting:
                yield result(waiting.popleft())
        finally:
            for future in waiting:
                future.cancel()


def result(future: Future[R]) -> R:
    """What a call came to."""
    _await(future)
    return future.result()


def _await(future: Future[R]) -> None:
    """Wait in glances until a call has come to something.

    Of two signals in a row the kernel may give the second to another thread, and a wait without an
    end would never look at it: the main thread has to come back to Python to act on a signal.
    """
    while not future.done():
        with contextlib.suppress(TimeoutError, CancelledError):
            future.exception(GLANCE)


Origin = tuple[str, str, int]


def _origin(url: SplitResult) -> Origin:
    """Scheme, host as it goes over the wire, and port. Raises ValueError where one is none."""
    host = (url.hostname or "").lower()
    port = url.port or _DEFAULT_PORTS.get(url.scheme, 0)
    return url.scheme, host if host.isascii() else host.encode("idna").decode(), port


def _authority(origin: Origin) -> str:
    scheme, host, port = origin
    shown = f"[{host}]" if ":" in host else host
    return shown if port == _DEFAULT_PORTS[scheme] else f"{shown}:{port}"


def _sendable(key: Secret) -> str:
    """Raises UsageError for a key that no header can hold; the library's message would show it."""
    text = key.reveal()
    if not text.isascii() or not text.isprintable():
        raise UsageError(
            "The key holds a character that cannot be sent.",
            hint="Check where the key comes from: a line break or a letter that is not ASCII.",
        )
    return text


def _retry_after(text: str | None, now: float) -> float:
    """Seconds that a server asks for: a number, or a date; 0 for anything else."""
    if text is None:
        return 0.0
    if text.isascii() and text.isdigit():
        return float(text[:12])
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - now)
    except (ValueError, OverflowError):
        return 0.0


def _deeper(value: Any, depth: int) -> bool:
    """Whether it has more levels of objects and lists than `depth`."""
    level = [value]
    while level and depth > 0:
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
        depth -= 1
    return bool(level)


def unreachable(location: str, error: RequestFailed) -> BackendError:
    """What a request that failed comes to, where nothing can go on without it."""
    if error.again:
        return BackendError(
            "The memory server cannot be reached.",
            why=f"{error}.",
            hint=f"Check that {location} is right and that the server runs. If it is only slow, "
            "give it longer with HDEV_MEMORY_HTTP_TIMEOUT, in seconds.",
        )
    return BackendError(
        "The memory server gives no answer that can be used.",
        why=f"{error}.",
        hint=f"Check that {location} is right, and what stands between here and the server.",
    )
