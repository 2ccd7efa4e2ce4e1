"""A folder to the existing server, read back, against two requests in turn for each entry."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from tests.benchmarks import corpus
from tests.benchmarks.measuring import HDEV, Missing, Row, interleaved, run
from tests.emulation.existing_server import ExistingServer

API_KEY = "benchmark-key"


def against_sequential(place: Path, *, entries: int, rounds: int) -> list[Row | Missing]:
    """Each round starts with a new server process over an empty store."""
    source = place / "source"
    corpus.make(source, entries)

    def ours(url: str) -> list[str]:
        return [
            HDEV, "migrate-memory", "--source", "filesystem", "--source-path", str(source),
            "--target", "http", "--target-url", url,
        ]  # fmt: skip

    def theirs(url: str) -> list[str]:
        return [sys.executable, "-m", "tests.benchmarks.sequential", str(source), url]

    mine, others = interleaved(
        rounds,
        lambda: _copied(place, entries, ours),
        lambda: _copied(place, entries, theirs),
        warm_up=False,  # every round starts its own server, and takes long enough
    )
    return [
        Row(
            name=f"copy {entries:,} entries to the existing server, read back",
            command="hdev migrate-memory --source filesystem --target http",
            peer="GET, then PUT, one after the other (plain httpx, not read back)",
            unit="s",
            ours=mine,
            theirs=others,
            aim=0.5,
        )
    ]


def _copied(place: Path, entries: int, command: Callable[[str], list[str]]) -> float:
    store = place / "store"
    with ExistingServer(store, API_KEY) as server:
        spent = run(command(server.url), home=place, also={"HDEV_MEMORY_HTTP_API_KEY": API_KEY})
    arrived = sum(1 for _ in store.rglob("*.md")) - 1  # the server's own `global`
    shutil.rmtree(store)
    if arrived != entries:
        raise RuntimeError(f"{arrived} of {entries} entries arrived")
    return spent.seconds
