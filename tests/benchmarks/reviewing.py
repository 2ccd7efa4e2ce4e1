"""Showing a plan: how long a whole review takes, when its first byte comes, how much memory."""

from __future__ import annotations

from collections.abc import Iterator

from tests.benchmarks.measuring import HDEV, Bench, Contender, Spent, first_byte, peaks, row
from tests.benchmarks.results import Row


def reviews(bench: Bench) -> Iterator[Row]:
    """Of 10,000 actions, half of them overwrites; and of 100,000 new entries."""
    entries, more = (1_000, 10_000) if bench.quick else (10_000, 100_000)
    with bench.folder(copy_of=bench.store(entries // 2, edited_every=1)) as target:
        plan = bench.plan(f"filesystem:{bench.store(entries)}", f"filesystem:{target}")
        for form in ("markdown", "html"):
            (side,) = bench.compare(_show(bench, plan, "--full", "--format", form))
            yield row(f"review of {entries:,} actions, {form}", "s", side, aim=f"review-{form}")
    with bench.folder() as target:
        plan = bench.plan(f"filesystem:{bench.store(more)}", f"filesystem:{target}")
        whole, first = bench.compare(
            _show(bench, plan),
            Contender(
                "hdev show",
                "hdev show PLAN, until its first byte",
                lambda: first_byte([HDEV, "show", plan], home=bench.place),
            ),
        )
    yield row(f"first byte of a review of {more:,} actions", "s", first, aim="review-first-byte")
    yield row(f"whole review of {more:,} actions", "s", whole)
    what = f"peak memory, review of {more:,} actions"
    yield row(what, "MB", peaks(whole), aim="review-memory")


def _show(bench: Bench, plan: str, *flags: str) -> Contender:
    def work() -> Spent:
        return bench.hdev("show", plan, *flags)

    return Contender("hdev show", " ".join(["hdev show PLAN", *flags]), work)
