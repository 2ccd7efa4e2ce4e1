"""Run the benchmarks and print their table: `python -m tests.benchmarks [--quick] [--write]`."""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from tests.benchmarks import applying, migrating, planning, reviewing, starting
from tests.benchmarks.measuring import NO_AIM, REPOSITORY, Missing, Row, figure

DOCUMENT = REPOSITORY / "docs" / "benchmarks.md"

_INTRODUCTION = """\
# Benchmarks

`nox -s bench` measures; `nox -s bench -- --quick` takes smaller sizes, and `-- --write` replaces
this page. Figures are medians of interleaved rounds of whole processes, with the lowest and the
highest in brackets. Entries hold 2 KB and a small metadata file, and lie in the page cache. Only
the ratios of one run mean anything; a row whose rounds disagree about its aim says that it is too
noisy.

Copying to the existing server is bound by that server: one process that needs 1.2 to 2.6 ms of
processor time for the two requests of an entry, and that hdev kept busy for 72 to 88 % of a run
with 2,000 entries, start-up and planning included. Planning into an empty target hashes every
entry of the source, which rsync has no need to do there.

Measured with {size} on {machine}, shared with other work.
"""

Benchmark = Callable[[Path], list[Row | Missing]]


def benchmarks(*, quick: bool) -> dict[str, Benchmark]:
    """Each benchmark by its name; it is given an empty folder of its own."""
    return {
        "plan": partial(planning.against_rsync, rounds=5 if quick else 9),
        "migrate": partial(
            migrating.against_sequential, entries=1_000 if quick else 10_000, rounds=3
        ),
        "apply": partial(applying.against_rsync, entries=2_000 if quick else 10_000, rounds=3),
        "review": partial(
            reviewing.plans, entries=20_000 if quick else 100_000, rounds=1 if quick else 3
        ),
        "start": partial(starting.against_typer, rounds=10 if quick else 20),
        "memory": partial(
            planning.peak_memory, entries=20_000 if quick else 100_000, rounds=1 if quick else 3
        ),
    }


def table(rows: Sequence[Row | Missing]) -> Iterator[str]:
    """The results as Markdown."""
    yield "| what | hdev | peer | ratio | aim | |"
    yield "|---|---|---|---|---|---|"
    for row in rows:
        match row:
            case Missing():
                yield f"| {row.name} | not measured: install {row.install} | | | | |"
            case Row(theirs=[]) | Row(theirs=()):
                ours = figure(row.ours, row.unit)
                yield f"| {row.name} | {ours} | | | under {row.aim:g} {row.unit} | {row.verdict} |"
            case Row():
                ours, theirs = figure(row.ours, row.unit), figure(row.theirs, row.unit)
                aim = "" if row.aim == NO_AIM else f"at most {row.aim:.3g}"
                ratio = f"{row.ratio:.2f} | {aim}"
                yield f"| {row.name} | {ours} | {theirs} | {ratio} | {row.verdict} |"


def commands(rows: Sequence[Row | Missing]) -> Iterator[str]:
    """What was run, for each row."""
    for row in rows:
        if isinstance(row, Row):
            against = f", against: {row.peer}" if row.peer else ""
            yield f"* {row.name}: `{row.command}`{against}."


def document(rows: Sequence[Row | Missing], *, quick: bool) -> str:
    """The page that is kept with the project."""
    size = "the quick sizes" if quick else "the full sizes"
    machine = f"{os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}"
    return "\n".join(
        [_INTRODUCTION.format(size=size, machine=machine), *table(rows), "", *commands(rows), ""]
    )


def main() -> None:
    """Run what was asked for; every benchmark by default."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="smaller sizes, fewer rounds")
    parser.add_argument("--write", action="store_true", help="replace docs/benchmarks.md")
    parser.add_argument(
        "names", nargs="*", help="plan, migrate, apply, review, start, memory; all by default"
    )
    given = parser.parse_args()
    known = benchmarks(quick=given.quick)
    unknown = set(given.names) - known.keys()
    if unknown:
        parser.error(f"there is no benchmark {', '.join(sorted(unknown))}")
    if given.write and given.names:
        parser.error("--write keeps the whole table, so it goes with no names")
    rows: list[Row | Missing] = []
    for name, benchmark in known.items():
        if given.names and name not in given.names:
            continue
        with tempfile.TemporaryDirectory(prefix="hdev-bench-") as place:
            found = benchmark(Path(place))
        rows += found
        print("\n".join([*table(found), *commands(found), ""]), flush=True)
    if given.write:
        DOCUMENT.write_text(document(rows, quick=given.quick))
        print(f"Written to {DOCUMENT.relative_to(REPOSITORY)}.")


if __name__ == "__main__":
    main()
