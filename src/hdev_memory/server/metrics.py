"""What the server counts, for Prometheus: no key of an entry, no name of a client is in it."""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import assert_never

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Metric,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
    values,
)
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.registry import Collector

from hdev_memory import __version__
from hdev_memory.backends.base import Change, Drifted, Failed, Put, Receipt, Removed, Stored

CONTENT_TYPE = CONTENT_TYPE_LATEST
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
ENTRIES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048)


# A second line for each count, with a time that nobody asks for.
disable_created_metrics()  # type: ignore[no-untyped-call]


def buried(shared: Path, worker: int) -> None:
    """A worker with this process id is gone: what it counted stays, how it stood does not."""
    mark_process_dead(worker, str(shared))  # type: ignore[no-untyped-call]


class Metrics:
    """The counts of one server. `shared` is the folder through which its workers add theirs up.

    With it, `PROMETHEUS_MULTIPROC_DIR` must have named the same folder before this module was
    imported, and nothing without it: prometheus-client decides then where its numbers live.
    """

    def __init__(self, shared: Path | None = None) -> None:
        assert values.ValueClass._multiprocess is (shared is not None)
        self._registry = CollectorRegistry()
        # With several workers their files are collected, and the metrics belong to no registry.
        own = self._registry if shared is None else None
        self._connections = Gauge(
            "hdev_connections", "Open connections.", registry=own, multiprocess_mode="livesum"
        )
        self._cut_off = Counter(
            "hdev_connections_cut_off", "Connections that were cut off.", ["reason"], registry=own
        )
        self._in_progress = Gauge(
            "hdev_requests_in_progress",
            "Requests that are being answered.",
            registry=own,
            multiprocess_mode="livesum",
        )
        self._requests = Counter(
            "hdev_requests", "Requests answered.", ["method", "route", "status"], registry=own
        )
        self._seconds = Histogram(
            "hdev_request_seconds",
            "From the head of a request to the end of its answer.",
            ["method", "route"],
            registry=own,
            buckets=SECONDS,
        )
        self._taken = Counter(
            "hdev_request_body_bytes", "Bytes of bodies received.", ["route"], registry=own
        )
        self._given = Counter(
            "hdev_response_body_bytes", "Bytes of bodies sent.", ["route"], registry=own
        )
        self._read = Counter("hdev_entries_read", "Entries given to clients whole.", registry=own)
        self._changes = Counter(
            "hdev_entry_changes", "Changes of entries.", ["change", "outcome"], registry=own
        )
        self._written = Counter("hdev_entry_bytes_written", "Content stored.", registry=own)
        self._commit_entries = Histogram(
            "hdev_commit_entries",
            "Changes made durable together.",
            registry=own,
            buckets=ENTRIES,
        )
        self._commit_seconds = Histogram(
            "hdev_commit_seconds",
            "For making them durable.",
            registry=own,
            buckets=SECONDS,
        )
        self._wrong_keys = Counter("hdev_wrong_api_keys", "API keys that were wrong.", registry=own)
        self._up = Gauge(
            "hdev_storage_up",
            "1 when the storage could be reached at this scrape.",
            registry=own,
            multiprocess_mode="livemostrecent",
        )
        self._ready = Gauge(
            "hdev_ready",
            "1 when /readyz said so at this scrape.",
            registry=own,
            multiprocess_mode="livemostrecent",
        )
        build = Gauge(
            "hdev_build",
            "The version that runs.",
            ["version"],
            registry=own,
            multiprocess_mode="livemax",
        )
        build.labels(__version__).set(1)
        if shared is None:
            ProcessCollector(registry=self._registry)
        else:
            MultiProcessCollector(self._registry, str(shared))  # type: ignore[no-untyped-call]
            self._registry.register(_Workers(shared))

    def connected(self) -> None:
        self._connections.inc()

    def disconnected(self) -> None:
        self._connections.dec()

    def cut_off(self, reason: str) -> None:
        """`head`: none came in time; `untaken`: the answer was not taken; `too many` were open."""
        self._cut_off.labels(reason).inc()

    def begun(self) -> None:
        self._in_progress.inc()

    def answered(
        self, method: str, route: str, status: int, seconds: float, taken: int, given: int
    ) -> None:
        """A request ended, after so many seconds and bytes of bodies."""
        self._in_progress.dec()
        self._requests.labels(method, route, str(status)).inc()
        self._seconds.labels(method, route).observe(seconds)
        self._taken.labels(route).inc(taken)
        self._given.labels(route).inc(given)

    def read(self, entries: int) -> None:
        self._read.inc(entries)

    def committed(
        self, changes: Sequence[Change], receipts: Sequence[Receipt], seconds: float
    ) -> None:
        """So long it took to make these changes durable, together."""
        self._commit_entries.observe(len(changes))
        self._commit_seconds.observe(seconds)
        tally: Tally[tuple[str, str]] = Tally()
        size = 0
        for change, receipt in zip(changes, receipts, strict=True):
            kind = "put" if isinstance(change, Put) else "remove"
            tally[kind, _outcome(receipt)] += 1
            if isinstance(receipt, Stored) and isinstance(change, Put):
                size += len(change.content)
        for (kind, outcome), count in tally.items():
            self._changes.labels(kind, outcome).inc(count)
        self._written.inc(size)

    def wrong_key(self) -> None:
        self._wrong_keys.inc()

    def text(self, *, storage_up: bool, ready: bool) -> bytes:
        """All of it in Prometheus' text format; CONTENT_TYPE is its type."""
        self._up.set(storage_up)
        self._ready.set(ready)
        return generate_latest(self._registry)


def _outcome(receipt: Receipt) -> str:
    match receipt:
        case Stored() | Removed():
            return "done"
        case Drifted():
            return "drifted"
        case Failed():
            return "failed"
        case _:
            assert_never(receipt)


class _Workers(Collector):
    """Memory, descriptors and processor time of each worker that lives, under its process id."""

    def __init__(self, shared: Path) -> None:
        self._shared = shared

    def collect(self) -> Iterable[Metric]:
        families: dict[str, Metric] = {}
        for file in sorted(self._shared.glob("gauge_livesum_*.db")):
            worker = file.stem.rpartition("_")[2]
            for family in ProcessCollector(pid=lambda of=worker: of, registry=None).collect():  # type: ignore[misc]
                into = families.setdefault(
                    family.name, Metric(family.name, family.documentation, family.type)
                )
                for sample in family.samples:
                    into.add_sample(sample.name, {**sample.labels, "pid": worker}, sample.value)
        return families.values()
