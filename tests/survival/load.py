"""Clients of every kind for a memory server, each until it is told to stop.

Those that write have keys of their own, and know of each what was acknowledged last.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import random
import socket
import struct
from collections import Counter
from pathlib import Path
from threading import Event
from urllib.parse import urlsplit

from hdev_memory.backends.base import EVERYTHING, UNATTENDED, Put, Remove, Secret, Where
from hdev_memory.backends.http import HttpBackend
from hdev_memory.core.entry import Entry, EntryState, Normalisation

KEY = "key-of-the-load"
NORMAL = Normalisation()
HEADERS = {"Authorization": f"Bearer {KEY}", "Hdev-Metadata": "replace"}
OWN_KEYS = 400
PAUSE = 0.05
"""Seconds between two requests of a client: a busy server, and none that only has a queue."""

ENTRY = "/api/memory/entry/"
WRITE = "/api/hdev-memory/1/write"
SNAPSHOT = "/api/hdev-memory/1/snapshot"

Model = dict[str, int]
"""What was acknowledged last: key to number; a key that is not there was removed, or never made."""


def content(number: int) -> bytes:
    """About 2 KiB, now and then much more."""
    return f"{number:>9}\n".encode() * (20_000 if number % 500 == 0 else 200)


def metadata(number: int) -> dict[str, object]:
    return {"number": number}


def opened(url: str) -> HttpBackend:
    return HttpBackend(Where("http", url, key=Secret(KEY), parallelism=2))


def batches(url: str, name: str, stop: Event, told: Counter[str], model: Model) -> None:
    """Our client, which writes and removes many entries at once."""
    dice = random.Random(name)
    number = 0
    keys = [f"{name}/{n % 7}/{n}" for n in range(OWN_KEYS)]
    with opened(url) as backend:
        while not stop.is_set():
            changes: list[Put | Remove] = []
            numbers = {}
            for key in sorted(dice.sample(keys, dice.choice((1, 5, 50, 200)))):
                stands = model.get(key)
                before = state(stands) if stands is not None else None
                if before is not None and dice.random() < 0.2:
                    changes.append(Remove(key=key, before=before))
                    continue
                number += 1
                numbers[key] = number
                changes.append(
                    Put(
                        key=key,
                        content=content(number),
                        metadata=metadata(number),
                        before=before,
                        after=state(number),
                    )
                )
            for receipt in backend.write(changes, NORMAL, UNATTENDED):
                told[f"batches: {type(receipt).__name__}"] += 1
                if receipt.key in numbers:
                    model[receipt.key] = numbers[receipt.key]
                else:
                    del model[receipt.key]
            stop.wait(PAUSE)


def state(number: int):
    return NORMAL.state(content(number), metadata(number))


def classic(url: str, name: str, stop: Event, told: Counter[str], model: Model) -> None:
    """A client of the dialect: one request for each entry, its connection used for a while."""
    dice = random.Random(name)
    number = 0
    while not stop.is_set():
        connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
        with contextlib.closing(connection):
            for _ in range(dice.randrange(1, 60)):
                key = f"{name}/{dice.randrange(OWN_KEYS // 4)}"
                method = dice.choice(("PUT", "PUT", "GET", "DELETE"))
                number += 1
                body = None
                if method == "PUT":
                    text = content(number).decode()
                    body = json.dumps({"content": text, "metadata": metadata(number)})
                connection.request(method, ENTRY + key, body, HEADERS)
                answer = connection.getresponse()
                found = json.loads(answer.read())
                told[f"classic: {method} {answer.status}"] += 1
                if method == "PUT" and found["success"]:
                    model[key] = number
                elif method == "DELETE" and found["success"]:
                    del model[key]
                elif method == "GET" and found["success"]:
                    assert found["metadata"] == metadata(model[key]), key


def looking(url: str, name: str, stop: Event, told: Counter[str]) -> None:
    """Our client, which lists the store and reads some of it, over connections that are new."""
    dice = random.Random(name)
    while not stop.is_set():
        with opened(url) as backend:
            found = list(backend.snapshot(EVERYTHING, NORMAL))
            keys = [one.key for one in found]
            assert all(isinstance(one, EntryState) for one in found)
            assert keys == sorted(set(keys))
            told["looking: snapshots"] += 1
            told["looking: listed"] += len(keys)
            for one in backend.read(sorted(dice.sample(keys, min(len(keys), 100)))):
                told["looking: read" if isinstance(one, Entry) else "looking: absent"] += 1


def breaking(url: str, name: str, stop: Event, told: Counter[str]) -> None:
    """Connections that end in the middle, in every way."""
    dice = random.Random(name)
    body = _batch(f"{name}/x")
    while not stop.is_set():
        how = dice.choice(("nothing", "half a head", "half a body", "no answer", "half an answer",
                           "rubbish"))  # fmt: skip
        with _connected(url) as connection:
            if how == "half a head":
                connection.sendall(b"GET /api/health HTTP/1.1\r\nHos")
            elif how == "half a body":
                connection.sendall(_head("POST", WRITE, len(body)) + body[: len(body) // 2])
            elif how == "no answer":
                put = json.dumps({"content": "x", "metadata": {}}).encode()
                connection.sendall(_head("PUT", f"{ENTRY}{name}/y", len(put)) + put)
            elif how == "half an answer":
                connection.sendall(_head("GET", SNAPSHOT))
                connection.recv(500)
            elif how == "rubbish":
                connection.sendall(bytes(dice.randrange(256) for _ in range(200)))
            if dice.random() < 0.5:  # a reset in the place of an orderly end
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        told[f"breaking: {how}"] += 1
        stop.wait(PAUSE)


def slow(url: str, name: str, stop: Event, told: Counter[str]) -> None:
    """Takes its time with the head, and with the answer."""
    request = _head("GET", SNAPSHOT)
    while not stop.is_set():
        with _connected(url) as connection:
            for byte in request:
                connection.sendall(bytes([byte]))
                if stop.wait(0.01):
                    return
            for _ in range(100):
                if not connection.recv(256) or stop.wait(0.02):
                    break
        told["slow: connections"] += 1


def _batch(prefix: str) -> bytes:
    lines = [{"protocol": "hdev-memory/1", "kind": "write", "line_ends": "exact", "changes": 50}]
    lines += [
        {"put": f"{prefix}{n}", "before": None, "content": "x" * 2000, "metadata": {}}
        for n in range(50)
    ]
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


def _head(method: str, path: str, length: int = 0) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", f"Authorization: Bearer {KEY}"]
    return "\r\n".join([*lines, f"Content-Length: {length}", "", ""]).encode()


def _connected(url: str) -> socket.socket:
    place = urlsplit(url)
    return socket.create_connection((place.hostname, place.port), timeout=60)


class Watched:
    """What a process has at a moment, as Linux tells it."""

    def __init__(self, number: int) -> None:
        self._place = Path(f"/proc/{number}")

    def _status(self, name: str) -> int:
        lines = (self._place / "status").read_text().splitlines()
        return int(next(line.split()[1] for line in lines if line.startswith(f"{name}:")))

    @property
    def memory(self) -> int:
        """Bytes of resident memory that are its own."""
        return (self._status("RssAnon")) * 1024

    @property
    def threads(self) -> int:
        return self._status("Threads")

    @property
    def handles(self) -> int:
        return len(list((self._place / "fd").iterdir()))


def connections(url: str) -> int:
    """Connections of this machine to or from the port of `url` that somebody has not closed."""
    port = f"{urlsplit(url).port:04X}"
    closed = {"06", "0A"}  # TIME_WAIT, which belongs to nobody, and LISTEN
    count = 0
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(FileNotFoundError):
            for line in Path(table).read_text().splitlines()[1:]:
                _, here, _, how = line.split()[:4]
                count += here.endswith(f":{port}") and how not in closed
    return count
