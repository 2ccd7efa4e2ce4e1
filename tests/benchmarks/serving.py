"""Our server, over each storage: applying to it, reading all of it, and single requests."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import msgspec

from tests.benchmarks import corpus, peers
from tests.benchmarks.measuring import API_KEY, Bench, Contender, Spent, row, run
from tests.benchmarks.migrating import KEY, sequential
from tests.benchmarks.results import Row, Side

_LARGE = 20
_TRANSFERS = 8
_WRK_CONNECTIONS = 32
_WRK_PATHS = 1_000

Storage = contextlib.AbstractContextManager[str]


@contextlib.contextmanager
def _folder(bench: Bench) -> Iterator[str]:
    with bench.folder() as place:
        yield f"filesystem:{place}"


@contextlib.contextmanager
def _sqlite(bench: Bench) -> Iterator[str]:
    with bench.folder() as place:
        yield f"sqlite:{place}/memory.db"


@contextlib.contextmanager
def _postgres(bench: Bench) -> Iterator[str]:
    with peers.postgres(bench.place) as url:
        yield url


STORAGES: dict[str, Callable[[Bench], Storage]] = {
    "folder": _folder,
    "SQLite": _sqlite,
    "PostgreSQL": _postgres,
}
"""What our server can keep entries in: each opens an empty one, and says its `--storage`."""


def applies(bench: Bench) -> Iterator[Row]:
    """New entries over the network, against the existing migrator and against rclone."""
    entries, fewer = (1_000, 300) if bench.quick else (10_000, 2_000)
    source = bench.store(entries)
    servers: dict[str, list[float]] = {name: [] for name in [*STORAGES, "rclone"]}
    *ours, migrator, rclone = bench.compare(
        *(_apply(bench, source, entries, name, servers[name]) for name in STORAGES),
        sequential(bench, fewer),
        _rclone(bench, source, entries, servers["rclone"]),
        warm_up=False,  # every round starts its own servers, and takes long enough
    )
    for name, mine in zip(STORAGES, ours, strict=True):
        what = f"apply of {entries:,} to our server, {name}"
        yield row(
            f"{what}, against the existing migrator", "entries/s", mine, migrator, "server-migrator"
        )
        yield row(f"{what}, against rclone to WebDAV", "entries/s", mine, rclone, "server-rclone")
    for name, mine in zip(STORAGES, ours, strict=True):
        yield row(
            f"peak memory of our server, {name}, meanwhile",
            "MB",
            _server(mine, "hdev memory-server", servers[name]),
            _server(rclone, "rclone serve webdav", servers["rclone"]),
        )


def large(bench: Bench) -> Iterator[Row]:
    """A few entries of 900 KB to our server."""
    source = bench.place / "large"
    corpus.make_large(source, _LARGE)
    *ours, rclone = bench.compare(
        *(_apply(bench, source, _LARGE, name, []) for name in STORAGES),
        _rclone(bench, source, _LARGE, []),
        warm_up=False,
    )
    for name, mine in zip(STORAGES, ours, strict=True):
        what = f"apply of {_LARGE} entries of 900 KB to our server, {name}"
        yield row(f"{what}, against rclone to WebDAV", "entries/s", mine, rclone)


def snapshots(bench: Bench) -> Iterator[Row]:
    """Reading a whole store through our server, against one request for each entry."""
    entries, fewer = (10_000, 300) if bench.quick else (100_000, 2_000)
    source = bench.store(entries)
    with contextlib.ExitStack() as stack:
        contenders = []
        for name in STORAGES:
            served = _once(partial(_filled, bench, stack, name, source))
            contenders += [
                _snapshot(bench, entries, name, served),
                _unchanged(bench, entries, name, served),
            ]
        *ours, dry_run = bench.compare(*contenders, sequential(bench, fewer, "--dry-run"))
    for name, snapshot, plan in zip(STORAGES, ours[::2], ours[1::2], strict=True):
        yield row(
            f"snapshot of our server, {name}, {entries:,} entries",
            "entries/s",
            snapshot,
            dry_run,
            "server-snapshot",
        )
        yield row(
            f"plan against our server, {name}, {entries:,} entries, nothing to do",
            "entries/s",
            plan,
            dry_run,
        )


def requests(bench: Bench) -> Iterator[Row]:
    """Single requests by wrk, against servers that do less: no key, no condition, or no disk."""
    source = bench.store(_WRK_PATHS)
    keys = [path.relative_to(source).as_posix() for path in sorted(source.rglob("*.md"))]
    with contextlib.ExitStack() as stack:
        served: dict[str, Callable[[], str]] = {
            f"our server on {name}": _once(partial(_filled, bench, stack, name, source))
            for name in STORAGES
        }
        others = {
            "the existing server": peers.existing,
            "rclone serve webdav": peers.webdav,
            "nginx": peers.nginx,
        }
        for name, server in others.items():
            served[name] = _once(partial(_beside, bench, stack, source, server))
        served["bare ASGI in memory"] = _once(partial(_bare, bench, stack, source))
        for method in ("PUT", "GET"):
            names = [name for name in served if (method, name) != ("PUT", "nginx")]
            found = dict(
                zip(
                    names,
                    bench.compare(
                        *(_wrk(bench, method, name, keys, served) for name in names), warm_up=False
                    ),
                    strict=True,
                )
            )
            yield from _request_rows(method, found)


def _request_rows(method: str, found: dict[str, Side | str]) -> Iterator[Row]:
    ours = [name for name in found if name.startswith("our server")]
    for name in ours:
        against = [other for other in found if other not in ours]
        for other in against if name == ours[0] else against[:1]:
            what = f"{method}, {name}, against {other}"
            yield row(what, "requests/s", found[name], found[other])


def _apply(
    bench: Bench, source: Path, entries: int, storage: str, server_peaks: list[float]
) -> Contender:
    def work() -> Spent:
        with STORAGES[storage](bench) as place, peers.our_server(place, home=bench.place) as server:
            plan = bench.plan(f"filesystem:{source}", server.url, "--no-cache")
            spent = bench.hdev("apply", plan, also=KEY)
            server_peaks.append(server.megabytes)
        return spent.per_second(entries)

    return Contender(
        f"hdev apply, {storage}",
        f"hdev apply PLAN, {entries:,} entries; hdev memory-server --storage {storage}",
        work,
    )


def _rclone(bench: Bench, source: Path, entries: int, server_peaks: list[float]) -> Contender:
    # Unless told otherwise it waits 10 ms before each request, which made it ten times slower.
    flags = ["--webdav-pacer-min-sleep", "0", "--transfers", str(_TRANSFERS)]

    def work() -> Spent:
        with bench.folder() as store, peers.webdav(store, home=bench.place) as server:
            command = [peers.find("rclone"), "copy", str(source), ":webdav:", *flags]
            spent = run([*command, "--webdav-url", server.url], home=bench.place)
            server_peaks.append(server.megabytes)
            arrived = sum(1 for _ in store.rglob("*.md"))
        if arrived != entries:
            raise RuntimeError(f"{arrived} of {entries} entries arrived")
        return spent.per_second(entries)

    command = (
        f"rclone copy SOURCE :webdav: {' '.join(flags)}, {entries:,} entries in two files each"
    )
    return Contender("rclone copy", f"{command}; rclone serve webdav FOLDER (no sync)", work)


def _server(side: Side | str, name: str, figures: list[float]) -> Side | str:
    """The server's side of a comparison."""
    if isinstance(side, str):
        return side
    return Side(name=name, command=side.command, figures=figures)


def _filled(bench: Bench, stack: contextlib.ExitStack, storage: str, source: Path) -> str:
    """The URL of a server that holds what `source` holds, until the stack is closed."""
    place = stack.enter_context(STORAGES[storage](bench))
    server = stack.enter_context(peers.our_server(place, home=bench.place))
    bench.hdev("apply", bench.plan(f"filesystem:{source}", server.url), also=KEY)
    return server.url


def _beside(
    bench: Bench,
    stack: contextlib.ExitStack,
    source: Path,
    server: Callable[..., peers.Server],
) -> str:
    store = stack.enter_context(bench.folder(copy_of=source))
    return stack.enter_context(server(store, home=bench.place)).url


def _bare(bench: Bench, stack: contextlib.ExitStack, source: Path) -> str:
    import httpx

    server = stack.enter_context(peers.bare(home=bench.place))
    with httpx.Client(base_url=server.url, trust_env=False) as client:
        for file in source.rglob("*.md"):
            key = file.relative_to(source).as_posix().removesuffix(".md")
            body = {"content": file.read_text()}
            client.put(f"/api/memory/entry/{key}", json=body).raise_for_status()
    return server.url


def _once(make: Callable[[], str]) -> Callable[[], str]:
    """The same, made at its first use only."""
    found: list[str] = []

    def url() -> str:
        if not found:
            found.append(make())
        return found[0]

    return url


def _snapshot(bench: Bench, entries: int, storage: str, served: Callable[[], str]) -> Contender:
    def work() -> Spent:
        command = [sys.executable, "-m", "tests.benchmarks.snapshot", served(), str(entries)]
        return run(command, home=bench.place, also=KEY).per_second(entries)

    return Contender(
        f"snapshot, {storage}",
        f"python -m tests.benchmarks.snapshot URL (start-up included), {entries:,} entries",
        work,
    )


def _unchanged(bench: Bench, entries: int, storage: str, served: Callable[[], str]) -> Contender:
    source = bench.store(entries)

    def work() -> Spent:
        words = [f"filesystem:{source}", served(), "--no-cache", "-o", bench.out()]
        return bench.hdev("plan", *words, also=KEY).per_second(entries)

    command = f"hdev plan SOURCE URL --no-cache, {entries:,} entries"
    return Contender(f"hdev plan, {storage}", command, work)


def _wrk(
    bench: Bench, method: str, name: str, keys: list[str], served: dict[str, Callable[[], str]]
) -> Contender:
    """Requests to a server, of a thousand entries in turn."""
    files = name in ("rclone serve webdav", "nginx")
    content = "word " * 400 + "\n"
    entry = {"content": content, "metadata": {"author": "agent-1", "tags": ["notes"]}}
    seconds = 2 if bench.quick else 4

    def work() -> Spent:
        url = served[name]()
        paths = bench.place / f"paths-{'files' if files else 'entries'}"
        paths.write_text(
            "".join(f"/{key}\n" if files else f"/api/memory/entry/{key[:-3]}\n" for key in keys)
        )
        body = bench.place / f"body-{'file' if files else 'entry'}"
        body.write_bytes(content.encode() if files else msgspec.json.encode(entry))
        return peers.wrk(
            url,
            home=bench.place,
            connections=_WRK_CONNECTIONS,
            seconds=seconds,
            METHOD=method,
            PATHS=str(paths),
            BODY=str(body) if method == "PUT" else "",
            KEY="" if files else API_KEY,
        )

    command = f"wrk -t1 -c{_WRK_CONNECTIONS} -d{seconds}s -s load.lua, {method}, 2 KB"
    return Contender(name, command, work)
