"""Planning folder to folder: against the limit in C, and programs that compare two trees."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.benchmarks import peers
from tests.benchmarks.measuring import Bench, Contender, Spent, peaks, row, run
from tests.benchmarks.results import Left, Row

_EDITED_EVERY = 100
_CACHES = Path("/proc/sys/vm/drop_caches")


def folders(bench: Bench) -> Iterator[Row]:
    """Two full stores, one entry in a hundred edited; everything is read on both sides."""
    large, small = (10_000, 1_000) if bench.quick else (100_000, 10_000)
    ours, *others = bench.compare(
        _ours(bench, large, "--no-cache"),
        _limit(bench, large),
        _peer(bench, large, ["rsync", "-rnci", "--delete"], slashes=True),
        _peer(bench, large, ["rclone", "check"]),
        _peer(bench, large, ["git", "diff", "--no-index", "--stat"]),
    )
    aims = ("plan-limit", "plan-rsync", "plan-rclone", None)
    what = f"plan, {large:,} entries on both sides"
    for other, aim, peer in zip(others, aims, ("C", "rsync", "rclone", "git"), strict=True):
        yield row(f"{what}, against {peer}", "s", ours, other, aim)

    again, find = bench.compare(_ours(bench, large), _find(bench, large))
    yield row(f"plan again, {large:,} entries, nothing changed", "s", again, find, "replan")

    for entries in sorted({1_000, small}):
        aim = "plan-10000" if entries == small else None
        less, rsync = bench.compare(
            _ours(bench, entries, "--no-cache"),
            _peer(bench, entries, ["rsync", "-rnc"], slashes=True),
            rounds=3 if bench.quick else 7,
        )
        yield row(f"plan, {entries:,} entries on both sides", "s", less, rsync, aim)
    yield row(
        f"peak memory of a plan, {large:,} against {small:,} entries",
        "MB",
        peaks(ours),
        peaks(less, f"the same with {small:,} entries") if not isinstance(ours, str) else ours,
        "plan-memory",
    )
    yield row(
        f"peak memory of a plan, {large:,} entries, both sides full",
        "MB",
        peaks(ours),
        aim="plan-memory-full",
    )

    into_empty, rsync = bench.compare(
        _ours(bench, small, "--no-cache", empty=True),
        _peer(bench, small, ["rsync", "-rnc"], slashes=True, empty=True),
        rounds=3 if bench.quick else 7,
    )
    yield row(f"plan, {small:,} entries, empty target", "s", into_empty, rsync, "plan-empty")
    (into_empty,) = bench.compare(_ours(bench, large, "--no-cache", empty=True), warm_up=False)
    yield row(
        f"peak memory of a plan, {large:,} entries, empty target",
        "MB",
        peaks(into_empty),
        aim="plan-memory-empty",
    )


def cold(bench: Bench) -> Iterator[Row]:
    """The same with nothing in the page cache, where this user may empty it."""
    entries = 10_000 if bench.quick else 100_000
    name = f"plan, {entries:,} entries on both sides, cold cache"
    if not os.access(_CACHES, os.W_OK):
        yield Left(name=name, why="only root can empty the page cache")
        return

    def emptied(make: Callable[[int], Contender]) -> Contender:
        whole, few = make(entries), make(10)

        def work() -> Spent:
            os.sync()
            _CACHES.write_text("3")
            few.work()  # what is cold is the stores, not the program and its libraries
            return whole.work()

        return Contender(whole.name, whole.command, work)

    rsync_words = ["rsync", "-rnci", "--delete"]
    _ours(bench, entries).work()  # so that there is something to know again
    ours, again, limit, rsync, find = bench.compare(
        emptied(lambda count: _ours(bench, count, "--no-cache")),
        emptied(lambda count: _ours(bench, count)),
        emptied(lambda count: _limit(bench, count)),
        emptied(lambda count: _peer(bench, count, rsync_words, slashes=True)),
        emptied(lambda count: _find(bench, count)),
        rounds=1 if bench.quick else 3,
        warm_up=False,
    )
    yield row(f"{name}, against C", "s", ours, limit)
    yield row(f"{name}, against rsync", "s", ours, rsync)
    yield row(f"plan again, {entries:,} entries, cold cache", "s", again, find)


def _ours(bench: Bench, entries: int, *flags: str, empty: bool = False) -> Contender:
    source, target = _ends(bench, entries, empty=empty)
    ends = (f"filesystem:{source}", f"filesystem:{target}")

    def work() -> Spent:
        return bench.hdev("plan", *ends, "--overwrite", *flags, "-o", bench.out())

    return Contender("hdev plan", " ".join(["hdev plan SOURCE TARGET --overwrite", *flags]), work)


def _limit(bench: Bench, entries: int) -> Contender:
    def work() -> Spent:
        ends = _ends(bench, entries)
        return run([peers.limit(bench.shared), *map(str, ends)], home=bench.place)

    return Contender("the limit in C", "limit SOURCE TARGET (limit.c, two processes)", work)


def _find(bench: Bench, entries: int) -> Contender:
    form = r"%p %s %T@ %C@ %i\n"

    def work() -> Spent:
        ends = map(str, _ends(bench, entries))
        return run([peers.find("find"), *ends, "-printf", form], home=bench.place)

    return Contender("find -printf", f"find SOURCE TARGET -printf '{form}'", work)


def _peer(
    bench: Bench, entries: int, words: list[str], *, slashes: bool = False, empty: bool = False
) -> Contender:
    name, *flags = words

    def work() -> Spent:
        ends = [str(end) + "/" * slashes for end in _ends(bench, entries, empty=empty)]
        # 1 is how some of them say that there are differences
        return run([peers.find(name), *flags, *ends], home=bench.place, accepted=(0, 1))

    ends = "SOURCE/ TARGET/" if slashes else "SOURCE TARGET"
    return Contender(" ".join(words[:2]), f"{' '.join(words)} {ends}", work)


def _ends(bench: Bench, entries: int, *, empty: bool = False) -> tuple[Path, Path]:
    if empty:
        target = bench.place / "empty"
        target.mkdir(exist_ok=True)
    else:
        target = bench.store(entries, edited_every=_EDITED_EVERY)
    return bench.store(entries), target
