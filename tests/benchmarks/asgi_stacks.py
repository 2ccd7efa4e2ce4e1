"""Which server stack should carry the memory server: speed by `wrk`, weight, and import time.

`python -m tests.benchmarks.asgi_stacks [--seconds 2] [--rounds 3] [STACK ...]` needs `wrk`. Each
stack gets an environment of its own, so that its weight can be seen, and nothing else changes.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.benchmarks.corpus import ENTRY_BYTES
from tests.benchmarks.measuring import REPOSITORY

KEYS = 1_000
OURS = ("msgspec", "rfc8785", "pathspec", "prometheus-client")
"""What the workload itself needs; installed once the stack has been weighed."""

_FAST = ("uvicorn", "uvloop", "httptools")
STACKS: dict[str, tuple[tuple[str, ...], str]] = {
    "bare-uvicorn-fast": (_FAST, "uvicorn, uvloop, httptools"),
    "starlette-uvicorn": (("starlette", "uvicorn"), "starlette.applications, uvicorn, h11"),
    "starlette-uvicorn-uvloop": (
        ("starlette", "uvicorn", "uvloop"), "starlette.applications, uvicorn, h11, uvloop"
    ),
    "starlette-uvicorn-fast": (
        ("starlette", *_FAST), "starlette.applications, uvicorn, uvloop, httptools"
    ),
    "starlette-granian": (("starlette", "granian"), "starlette.applications, granian"),
    "starlette-hypercorn": (
        ("starlette", "hypercorn"), "starlette.applications, hypercorn.asyncio"
    ),
    "fastapi-uvicorn-fast": (("fastapi", *_FAST), "fastapi, uvicorn, uvloop, httptools"),
    "litestar-uvicorn-fast": (("litestar", *_FAST), "litestar, uvicorn, uvloop, httptools"),
    "blacksheep-uvicorn-fast": (("blacksheep", *_FAST), "blacksheep, uvicorn, uvloop, httptools"),
    "aiohttp": (("aiohttp",), "aiohttp.web"),
}  # fmt: skip
"""Stack -> what pip is told to install, and what a server of it imports."""

BATCHES, BATCH = 12, 500
"""Requests of `hdev-memory/1` that write, and the entries in each."""

# (where the entries are, what is done). GET and PUT are one entry a request, by `wrk` with
# CONNECTIONS; a batch and a snapshot are many, one request after another.
Load = tuple[str, str]
KINDS = ("memory", "folder", "sqlite")
LOADS: tuple[Load, ...] = (
    ("memory", "PUT"),
    ("memory", "GET"),
    *((kind, what) for kind in KINDS[1:] for what in ("PUT", "GET", "batch", "snapshot")),
)
CONNECTIONS = 32

_LUA = """\
local body = '{"content":"' .. string.rep('memory ', %(words)d) .. '","metadata":{"author":"a"}}'
local at = 0
request = function()
  at = (at + 1) %% %(keys)d
  local path = '/api/memory/entry/team-' .. (at %% 20) .. '/note-' .. at
  if '%(method)s' == 'GET' then return wrk.format('GET', path) end
  return wrk.format('PUT', path, {['Content-Type'] = 'application/json'}, body)
end
"""


@dataclass
class Found:
    """What one stack came to."""

    distributions: int = 0
    megabytes: float = 0.0
    import_seconds: float = 0.0
    rates: dict[Load, list[float]] = field(default_factory=lambda: defaultdict(list))
    """Requests or entries a second."""
    costs: dict[Load, list[float]] = field(default_factory=lambda: defaultdict(list))
    """Processor time of the server for each, in microseconds: what other work does not change."""


def prepare(stack: str, environment: Path, found: Found) -> Path:
    """Make the stack's environment, weigh it, and return its interpreter."""
    requirements, modules = STACKS[stack]
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    python = environment / "bin" / "python"
    _install(python, requirements)
    listed = subprocess.run(
        [python, "-m", "pip", "list", "--format", "json"], check=True, capture_output=True
    )
    own = {item["name"] for item in json.loads(listed.stdout)} - {"pip", "setuptools"}
    found.distributions = len(own)
    (packages,) = environment.glob("lib/python*/site-packages")
    files = (file for file in packages.rglob("*") if file.is_file() and not file.is_symlink())
    found.megabytes = sum(
        file.stat().st_size
        for file in files
        if not file.relative_to(packages).parts[0].startswith(("pip", "setuptools", "_distutils"))
        and "__pycache__" not in file.parts
    ) / 1e6  # fmt: skip
    _install(python, OURS)
    _imported(python, modules)  # writes the bytecode
    found.import_seconds = statistics.median(
        _imported(python, modules) - _imported(python, "sys") for _ in range(5)
    )
    return python


def _install(python: Path, requirements: tuple[str, ...]) -> None:
    pinned = ["-c", str(REPOSITORY / "constraints.txt")]
    subprocess.run([python, "-m", "pip", "install", "-q", *pinned, *requirements], check=True)


def _imported(python: Path, modules: str) -> float:
    begin = time.perf_counter()
    subprocess.run([python, "-c", f"import {modules}"], check=True)
    return time.perf_counter() - begin


@contextlib.contextmanager
def served(stack: str, python: Path, store: Path | None) -> Iterator[tuple[str, int]]:
    """The stack in processes of its own on a free loopback port, and the id of their group, with
    which they end.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environ = {**os.environ, "PYTHONPATH": f"{REPOSITORY}:{REPOSITORY / 'src'}"}
    environ.pop("BENCH_STORE", None)
    if store is not None:
        environ["BENCH_STORE"] = str(store)
    server = subprocess.Popen(
        [python, "-m", "tests.benchmarks.asgi_apps", stack, str(port)],
        env=environ,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
    )
    try:
        _wait_for(port, server)
        yield f"http://127.0.0.1:{port}", server.pid
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def _wait_for(port: int, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 20
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            if server.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("the server does not listen") from None
            time.sleep(0.05)


def loaded(url: str, method: str, place: Path, seconds: int) -> tuple[int, float]:
    """Requests, and for how many seconds. Raises on any failed request."""
    script = place / f"{method}.lua"
    script.write_text(
        _LUA % {"method": method, "keys": KEYS, "words": ENTRY_BYTES // len("memory ")}
    )
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "-s", str(script)]
    said = subprocess.run([*command, url], check=True, capture_output=True, text=True).stdout
    found = re.search(r"(\d+) requests in ([\d.]+)s", said)
    if found is None or "Non-2xx" in said or "Socket errors" in said:
        raise RuntimeError(said)
    return int(found.group(1)), float(found.group(2))


def batches(url: str) -> tuple[int, float]:
    """Entries written, many in a request, and the seconds that took."""
    bodies = [_batch(number) for number in range(BATCHES)]
    connection = http.client.HTTPConnection(url.removeprefix("http://"))
    begin = time.perf_counter()
    for body in bodies:
        connection.request("POST", "/api/hdev-memory/1/write", body)
        if connection.getresponse().read().count(b'"stored"') != BATCH:
            raise RuntimeError("a batch was not written")
    seconds = time.perf_counter() - begin
    connection.close()
    return BATCHES * BATCH, seconds


def _batch(number: int) -> bytes:
    head = {"protocol": "hdev-memory/1", "kind": "write", "line_ends": "exact", "changes": BATCH}
    content = "memory " * (ENTRY_BYTES // len("memory "))
    lines = [
        {
            "put": f"batch-{number}/note-{one}",
            "before": None,
            "content": content,
            "metadata": {"author": "a"},
        }
        for one in range(BATCH)
    ]
    return b"".join(json.dumps(line).encode() + b"\n" for line in [head, *lines])


def snapshots(url: str, times: int = 3) -> tuple[int, float]:
    """Entries listed with their digests, and the seconds that took."""
    connection = http.client.HTTPConnection(url.removeprefix("http://"))
    entries = 0
    begin = time.perf_counter()
    for _ in range(times):
        connection.request("GET", "/api/hdev-memory/1/snapshot")
        *lines, end = connection.getresponse().read().splitlines()
        if json.loads(end)["entries"] != len(lines) - 1:
            raise RuntimeError("a snapshot was cut")
        entries += len(lines) - 1
    seconds = time.perf_counter() - begin
    connection.close()
    return entries, seconds


def processor_seconds(group: int) -> float:
    """What the processes of a group that live have used so far."""
    ticks = 0
    for process in Path("/proc").glob("[0-9]*"):
        try:
            fields = (process / "stat").read_text().rpartition(")")[2].split()
        except OSError:  # it has ended since it was listed
            continue
        if int(fields[2]) == group:
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def fill(url: str) -> None:
    """Write every key once, so that each can be read."""
    connection = http.client.HTTPConnection(url.removeprefix("http://"))
    body = json.dumps({"content": "memory " * (ENTRY_BYTES // 7), "metadata": {"author": "a"}})
    for number in range(KEYS):
        path = f"/api/memory/entry/team-{number % 20}/note-{number}"
        connection.request("PUT", path, body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        answer.read()
        if answer.status != 200:
            raise RuntimeError(f"{path}: {answer.status}")
    connection.close()


def measure(stack: str, python: Path, found: Found, place: Path, seconds: int) -> None:
    """One round of one stack: a fresh server for each kind of store, filled before it is read."""
    for kind in KINDS:
        folder = Path(tempfile.mkdtemp(prefix="store-", dir=place))
        store = {"memory": None, "folder": folder, "sqlite": folder / "memory.sqlite"}[kind]
        with served(stack, python, store) as (url, group):
            fill(url)
            for load in LOADS:
                if load[0] != kind:
                    continue
                before = processor_seconds(group)
                if load[1] == "batch":
                    count, took = batches(url)
                elif load[1] == "snapshot":
                    count, took = snapshots(url)
                else:
                    count, took = loaded(url, load[1], place, seconds)
                found.rates[load].append(count / took)
                found.costs[load].append((processor_seconds(group) - before) / count * 1e6)
        shutil.rmtree(folder)


def table(results: dict[str, Found]) -> Iterator[str]:
    """The results as Markdown: rates, then costs."""
    names = [f"{kind} {what}" for kind, what in LOADS]
    yield "| stack | " + " | ".join(names) + " |"
    yield "|---" * (len(LOADS) + 1) + "|"
    for stack, found in results.items():
        rates = [
            f"{statistics.median(found.rates[load]):,.0f} "
            f"({min(found.rates[load]):,.0f}-{max(found.rates[load]):,.0f})"
            for load in LOADS
        ]
        yield f"| {stack} | {' | '.join(rates)} |"
    yield ""
    yield "| stack | " + " | ".join(names) + " | packages | MB | import |"
    yield "|---" * (len(LOADS) + 4) + "|"
    for stack, found in results.items():
        costs = [f"{statistics.median(found.costs[load]):,.0f}" for load in LOADS]
        yield (
            f"| {stack} | {' | '.join(costs)} | {found.distributions} | "
            f"{found.megabytes:.1f} | {found.import_seconds * 1000:.0f} ms |"
        )


def main() -> None:
    """Measure the stacks in turn, round by round, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.asgi_stacks")
    parser.add_argument("--seconds", type=int, default=2, help="of each run of wrk")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("stacks", nargs="*", metavar="STACK", help=", ".join(STACKS))
    given = parser.parse_args()
    if shutil.which("wrk") is None:
        sys.exit("wrk is not installed, and nothing else here makes enough requests. "
                 "Install it (Debian: apt-get install wrk), then run this again.")  # fmt: skip
    results = {stack: Found() for stack in given.stacks or STACKS}
    with tempfile.TemporaryDirectory(prefix="hdev-stacks-") as name:
        place = Path(name)
        pythons = {stack: prepare(stack, place / stack, found) for stack, found in results.items()}
        for number in range(given.rounds):
            for stack, found in results.items():
                measure(stack, pythons[stack], found, place, given.seconds)
                print(f"round {number + 1}: {stack}", file=sys.stderr, flush=True)
    print("\n".join(table(results)))


if __name__ == "__main__":
    main()
