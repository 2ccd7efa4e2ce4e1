"""Run the benchmarks, keep what they find, and write the page: `python -m tests.benchmarks`."""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks import (
    applying,
    migrating,
    million,
    page,
    peers,
    planning,
    plot,
    reviewing,
    serving,
    starting,
)
from tests.benchmarks.measuring import REPOSITORY, Bench
from tests.benchmarks.noise import Station
from tests.benchmarks.results import Benchmark, Left, Row, Run, keep, load

DOCUMENT = REPOSITORY / "docs" / "benchmarks.md"
RESULTS = REPOSITORY / "build" / "benchmarks.json"
_MEMORY_ONLY = ("tmpfs", "ramfs")


@dataclass(frozen=True)
class Measure:
    """One benchmark, and the aims that its rows answer."""

    rows: Callable[[Bench], Iterator[Row]]
    aims: tuple[str, ...] = ()
    quick: bool = True


MEASURES: dict[str, Measure] = {
    "start": Measure(starting.against_typer, ("start",)),
    "plan": Measure(
        planning.folders,
        (
            "plan-limit",
            "plan-rsync",
            "plan-rclone",
            "plan-memory",
            "replan",
            "plan-10000",
            "plan-empty",
            "plan-memory-full",
            "plan-memory-empty",
        ),
    ),
    "cold": Measure(planning.cold),
    "apply": Measure(applying.folders, ("apply-rsync", "apply-fsync")),
    "resume": Measure(applying.resume, ("resume",)),
    "copies": Measure(applying.copies),
    "large": Measure(applying.large),
    "server": Measure(serving.applies, ("server-migrator", "server-rclone")),
    "server-large": Measure(serving.large),
    "snapshot": Measure(serving.snapshots, ("server-snapshot",)),
    "requests": Measure(serving.requests),
    "existing": Measure(migrating.against_wrk, ("existing-wrk",)),
    "migrate": Measure(migrating.against_sequential, ("existing-copy",)),
    "review": Measure(
        reviewing.reviews,
        ("review-markdown", "review-html", "review-first-byte", "review-memory"),
    ),
    "million": Measure(million.folders, ("million-plan", "million-apply"), quick=False),
}
"""Every benchmark by its name, in the order in which they run."""


def measured(name: str, bench: Bench) -> Benchmark:
    """Run one benchmark; whatever goes wrong becomes a row that says so."""
    begin = time.perf_counter()
    rows: list[Row] = []
    why = "it ended without this row"
    try:
        for row in MEASURES[name].rows(bench):  # one by one: those before a failure are kept
            rows.append(row)  # noqa: PERF402
    except Exception as error:  # noqa: BLE001 - the other benchmarks go on, and the page says so
        why = f"{type(error).__name__}: {error}"
        traceback.print_exc()
    answered = {row.aim for row in rows}
    rows += [
        Left(name=name, why=why, aim=aim) for aim in MEASURES[name].aims if aim not in answered
    ]
    if not rows:
        rows.append(Left(name=name, why=why))
    return Benchmark(
        name=name,
        rows=rows,
        seconds=time.perf_counter() - begin,
        weather=bench.station.weather(),
    )


def main() -> None:
    """Run what was asked for; every benchmark by default."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks",
        description=__doc__,
        epilog=f"Benchmarks: {', '.join(MEASURES)}.",
    )
    parser.add_argument("--quick", action="store_true", help="smaller sizes, fewer rounds")
    parser.add_argument(
        "--write", action="store_true", help="replace docs/benchmarks.md and its plot"
    )
    parser.add_argument(
        "--add", action="store_true", help="keep the kept rows of benchmarks that do not run now"
    )
    parser.add_argument(
        "--render", action="store_true", help="measure nothing: write the page of what is kept"
    )
    parser.add_argument(
        "--profile", action="store_true", help="say where our own time goes, by py-spy"
    )
    parser.add_argument("--skip", action="append", default=[], metavar="NAME", help="not this one")
    parser.add_argument(
        "--place", type=Path, metavar="FOLDER", help="where stores are made; a real disk"
    )
    parser.add_argument("--results", type=Path, default=RESULTS, help="where figures are kept")
    parser.add_argument("names", nargs="*", metavar="NAME", help="a benchmark; all by default")
    given = parser.parse_args()
    unknown = (set(given.names) | set(given.skip)) - MEASURES.keys()
    if unknown:
        parser.error(f"there is no benchmark {', '.join(sorted(unknown))}")
    if not given.render:
        # Ended like this it still ends the servers that it has started, and removes its stores.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
        names = [
            name
            for name, measure in MEASURES.items()
            if name not in given.skip
            and (name in given.names if given.names else measure.quick or not given.quick)
        ]
        place = Path(tempfile.mkdtemp(prefix="hdev-bench-", dir=given.place))
        place.chmod(0o711)  # PostgreSQL does not run as root: its user has to come through
        try:
            filesystem = _filesystem(place)
            if filesystem in _MEMORY_ONLY:
                parser.error(
                    f"{place.parent} is {filesystem}, where a sync costs nothing and no figure "
                    "means anything: give a folder on a disk with --place"
                )
            _run(names, place, filesystem, given)
        finally:
            shutil.rmtree(place)
    runs = load(given.results)
    if given.write or given.render:
        if not runs:
            parser.error(f"nothing is kept in {given.results}")
        DOCUMENT.write_text(page.document(runs))
        DOCUMENT.with_name(page.PLOT).write_text(plot.svg(runs))
        print(f"Written to {DOCUMENT.relative_to(REPOSITORY)} and {page.PLOT}.")


def _run(names: list[str], place: Path, filesystem: str, given: argparse.Namespace) -> None:
    """Run these, and keep what there is after each of them."""
    earlier = load(given.results) if given.add else []
    for run in earlier:
        run.benchmarks = [one for one in run.benchmarks if one.name not in names]
    run = Run(
        started=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        commit=_commit(),
        quick=given.quick,
        machine=_machine(filesystem),
        programs=peers.versions(),
        load=os.getloadavg()[0],
        benchmarks=[],
    )
    shared = place / "stores"
    shared.mkdir()
    whole = Station(place)
    for number, name in enumerate(names, 1):
        print(f"[{number}/{len(names)}] {name}, {_clock()}", flush=True)
        inside = place / name
        inside.mkdir()
        station = Station(place)
        bench = Bench(inside, shared, station, quick=given.quick, profiling=given.profile)
        found = measured(name, bench)
        shutil.rmtree(inside)
        whole.add(station)
        run.benchmarks.append(found)
        run.weather = whole.weather()
        keep(given.results, [one for one in earlier if one.benchmarks] + [run])
        print("\n".join([*page.table(found), *page.commands(found), ""]), flush=True)
    print(f"{len(names)} benchmarks in {run.seconds / 60:.1f} minutes, kept in {given.results}.")


def _clock() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%H:%M:%S")


def _commit() -> str:
    def git(*words: str) -> str:
        return subprocess.run(
            ["git", "-C", str(REPOSITORY), *words], capture_output=True, text=True, check=True
        ).stdout.strip()

    return git("rev-parse", "--short=12", "HEAD") + (
        " with uncommitted changes" if git("status", "--porcelain", "src", "tests") else ""
    )


def _machine(filesystem: str) -> list[str]:
    with open("/proc/cpuinfo") as file:
        model = next((line for line in file if line.startswith("model name")), "")
    with open("/proc/meminfo") as file:
        memory = int(file.readline().split()[1]) / 1e6
    return [
        f"{os.cpu_count()} cores ({model.partition(':')[2].strip() or platform.machine()})",
        f"{memory:.0f} GB of memory",
        f"stores on {filesystem}",
        f"Linux {platform.release().partition('-')[0]}",
        f"Python {platform.python_version()}",
    ]


def _filesystem(place: Path) -> str:
    """The kind of filesystem that a folder lies on."""
    longest, found = "", ""
    with open("/proc/mounts") as file:
        for line in file:
            _, point, kind, *_ = line.split()
            inside = place.is_relative_to(point)
            if inside and len(point) >= len(longest):
                longest, found = point, kind
    return found


if __name__ == "__main__":
    main()
