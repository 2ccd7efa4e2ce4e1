"""Applying to the existing server: against its own migrator's way, and against what it can take."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from tests.benchmarks import peers
from tests.benchmarks.measuring import API_KEY, Bench, Contender, Spent, row, run
from tests.benchmarks.results import Row

KEY = {"HDEV_MEMORY_HTTP_API_KEY": API_KEY}
_CONNECTIONS = 8
"""As many as hdev uses."""


def against_sequential(bench: Bench) -> Iterator[Row]:
    """The whole copy, planned and read back, against one request after another."""
    entries, fewer = (1_000, 500) if bench.quick else (10_000, 2_000)
    source = bench.store(entries)

    def ours() -> Spent:
        with bench.folder() as store, peers.existing(store, home=bench.place) as server:
            words = ["--source", "filesystem", "--source-path", str(source), "--target", "http"]
            spent = bench.hdev("migrate-memory", *words, "--target-url", server.url, also=KEY)
            _check(store, entries)
        return spent.per_second(entries)

    ours_, theirs = bench.compare(
        Contender(
            "hdev migrate-memory",
            f"hdev migrate-memory --source filesystem --target http, {entries:,} entries",
            ours,
        ),
        sequential(bench, fewer),
        warm_up=False,
    )
    name = f"copy of {entries:,} entries to the existing server, read back"
    yield row(name, "entries/s", ours_, theirs, "existing-copy")


def against_wrk(bench: Bench) -> Iterator[Row]:
    """An apply, against wrk with exactly the requests that such an apply sends."""
    entries = 500 if bench.quick else 5_000
    source = bench.store(entries)
    recorded = bench.place / "requests"
    requests = 0

    def applied(record: Path | None) -> Spent:
        with bench.folder() as store:
            server = peers.existing(store, home=bench.place, recorded=record)
            with server:
                plan = bench.plan(f"filesystem:{source}", server.url, "--no-cache")
            if record is not None:
                record.unlink()  # what the plan has asked
            with server:
                words = ["apply", plan, "--parallelism", str(_CONNECTIONS)]
                spent = bench.hdev(*words, also=KEY)
                _check(store, entries)
        return spent

    def replayed() -> Spent:
        with bench.folder() as store, peers.existing(store, home=bench.place) as server:
            spent = peers.replay(server.url, recorded, home=bench.place, connections=_CONNECTIONS)
            _check(store, entries, missing=_CONNECTIONS)  # wrk is ended with some on their way
        return spent

    applied(recorded)
    requests = _count(recorded)
    ours, wrk = bench.compare(
        Contender(
            "hdev apply",
            f"hdev apply PLAN --parallelism {_CONNECTIONS}, {entries:,} new entries, "
            f"{requests:,} requests",
            lambda: applied(None).per_second(requests),
        ),
        Contender("wrk", f"wrk -t1 -c{_CONNECTIONS} -s replay.lua, the same requests", replayed),
        warm_up=False,
    )
    name = f"apply of {entries:,} new entries to the existing server"
    yield row(name, "requests/s", ours, wrk, "existing-wrk")


def sequential(bench: Bench, entries: int, *flags: str) -> Contender:
    """The existing migrator's way into its own server, empty at first; as entries a second.

    In a dry run the server holds the entries already.
    """
    source = bench.store(entries)
    filled = source if "--dry-run" in flags else None

    def work() -> Spent:
        with bench.folder(copy_of=filled) as store:
            with peers.existing(store, home=bench.place) as server:
                command = [sys.executable, "-m", "tests.benchmarks.sequential"]
                spent = run([*command, str(source), server.url, *flags], home=bench.place, also=KEY)
            _check(store, entries)
        return spent.per_second(entries)

    what = "one GET after another" if flags else "GET, PUT, one after the other, not read back"
    name = "the existing dry run" if flags else "the existing migrator"
    return Contender(name, f"{what}; {entries:,} entries to the existing server", work)


def _check(store: Path, entries: int, *, missing: int = 0) -> None:
    arrived = sum(1 for _ in store.rglob("*.md")) - 1  # the server's own `global`
    if not entries - missing <= arrived <= entries:
        raise RuntimeError(f"{arrived} of {entries} entries arrived")


def _count(recorded: Path) -> int:
    count = 0
    with recorded.open("rb") as file:
        while line := file.readline():
            file.seek(int(line), 1)
            count += 1
    return count
