"""The page that is kept with the project: what the runs have found, as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tests.benchmarks.aims import AIMS
from tests.benchmarks.noise import CPU_SHARE, DISK_SHARE, FOREIGN_SHARE, Weather, spread
from tests.benchmarks.results import Benchmark, Left, Measured, Row, Run, Side

PLOT = "benchmarks.svg"

_INTRODUCTION = """\
# Benchmarks

`nox -s bench` measures all of this and keeps what it finds in `build/benchmarks.json`; `-- --quick`
takes smaller sizes, `-- --write` replaces this page and its plot, names (`-- plan requests`) choose
benchmarks, and `-- --profile` says where our own time goes. Programs are measured whole, with their
start-up, in rounds that take turns; a figure is the median, with the lowest and the highest in
brackets. Only ratios of one run mean anything on another machine.

An entry is a file of notes, 2 KB on average (half are below 1.3 KB, one in a hundred is over 12
KB), and a small file of metadata, in folders up to six deep, some of them with hundreds of files.
All lies in the page cache but where a row says *cold*. *Ratio* is the median of hdev over that of
the peer, *speed* how many times as fast as the peer hdev is.

An apply of hdev is durable, verified and logged, and keeps what it replaces. Of the peers only
`rsync --fsync`, restic and git sync. restic encrypts and removes duplicates, git keeps history:
they do another job, and stand there for what a durable copy costs otherwise.

Peak memory is that of the largest process of a side (rsync works in three). Less than 10 MB cannot
be told apart: that is what the process has that starts it.
"""

_YARDSTICKS = """\
Before each round two fixed pieces of work are timed: {hashes} on one processor, and files that are
written and synced one by one. The machine is called too noisy for a row where they spread over more
than {cpu:.0%} and {disk:.0%} of their median (from the lowest tenth to the highest), or where
others took more than {foreign:.0%} of the processors."""


def document(runs: Sequence[Run]) -> str:
    """The whole page."""
    return "\n".join([_INTRODUCTION, *_about(runs), *_summary(runs), *_plot(), *_details(runs)])


def rows(runs: Sequence[Run]) -> list[tuple[Benchmark, Row]]:
    """Every row, in the order of the benchmarks."""
    return [
        (benchmark, row) for run in runs for benchmark in run.benchmarks for row in benchmark.rows
    ]


def without_row(runs: Sequence[Run]) -> list[str]:
    """The aims that nothing was measured for."""
    seen = {row.aim for _, row in rows(runs)}
    return [aim for aim in AIMS if aim not in seen]


def _about(runs: Sequence[Run]) -> Iterator[str]:
    yield "## The run" if len(runs) == 1 else "## The runs"
    yield ""
    if len(runs) > 1:
        yield (
            f"**The figures below are of {len(runs)} runs**, so only those within one section can "
            "be compared.\n"
        )
    for run in runs:
        names = ", ".join(benchmark.name for benchmark in run.benchmarks)
        size = "**quick sizes, for which no aim was set**" if run.quick else "full sizes"
        yield (
            f"* {run.started}, commit `{run.commit}`, {size}, {_span(run.seconds)}: {names}. "
            f"{'; '.join(run.machine)}."
        )
        yield f"  {_weather(run)}"
    yield ""
    programs = runs[0].programs if runs else {}
    yield "Peers: " + "; ".join(f"{name}: {said}" for name, said in programs.items()) + "."
    yield ""
    yield _YARDSTICKS.format(
        hashes="a chain of hashes", cpu=CPU_SHARE, disk=DISK_SHARE, foreign=FOREIGN_SHARE
    )
    yield ""


def _weather(run: Run) -> str:
    weather = run.weather
    if weather is None:
        return "**It was not finished.**"
    figures = (
        f"processor yardstick {_figures(weather.cpu, 's', 3)}, disk yardstick "
        f"{_figures(weather.disk, 's', 3)}, load before it {run.load:.2f}, stolen "
        f"{weather.steal:.1%}, used by others {weather.foreign:.1%}"
    )
    if weather.complaints:
        return f"**The machine was too noisy ({', '.join(weather.complaints)})**: {figures}."
    return f"The machine was quiet: {figures}."


def _summary(runs: Sequence[Run]) -> Iterator[str]:
    """Every aim: reached, missed, in doubt, or not measured."""
    yield "## Aims"
    yield ""
    yield "| aim | | figures | |"
    yield "|---|---|---|---|"
    found = rows(runs)
    for name, aim in AIMS.items():
        mine = [(benchmark, row) for benchmark, row in found if row.aim == name]
        if not mine:
            yield f"| {aim.job} | {aim.text} | not measured | |"
        for benchmark, row in mine:
            match row:
                case Left():
                    why = f"{row.name}: not measured: {_inert(row.why)}"
                    yield f"| {aim.job} | {aim.text} | {why} | |"
                case Measured():
                    yield (
                        f"| {aim.job} | {aim.text} | {row.name}: {_reached(row)} | "
                        f"{_verdict(row)}{_unsteady(benchmark.weather)} |"
                    )
    yield ""
    missed = [
        name
        for name, aim in AIMS.items()
        if aim.hurdle
        and any(
            isinstance(row, Measured) and row.aim == name and row.verdict != "met"
            for _, row in found
        )
    ]
    if missed:
        yield "What stands in the way of those not met:"
        yield ""
        for name in missed:
            yield f"* {AIMS[name].job} ({AIMS[name].text}): {AIMS[name].hurdle}"
        yield ""


def _plot() -> Iterator[str]:
    yield f"![How many times as fast as each peer, on a logarithmic axis]({PLOT})"
    yield ""


def _details(runs: Sequence[Run]) -> Iterator[str]:
    for run in runs:
        for benchmark in run.benchmarks:
            yield f"## {benchmark.name}"
            yield ""
            yield from table(benchmark)
            yield ""
            yield from commands(benchmark)
            yield ""


def table(benchmark: Benchmark) -> Iterator[str]:
    """What one benchmark has found."""
    weather = benchmark.weather
    said = ", ".join(weather.complaints)
    machine = f"**the machine was too noisy: {said}**" if said else "the machine was quiet"
    yield (
        f"{_span(benchmark.seconds)}; {machine} (processor ±{spread(weather.cpu) / 2:.0%}, "
        f"disk ±{spread(weather.disk) / 2:.0%}, stolen {weather.steal:.1%}, used by others "
        f"{weather.foreign:.1%})."
    )
    yield ""
    yield "| what | hdev | peer | ratio | speed | peak MB, hdev / peer | aim | |"
    yield "|---|---|---|---|---|---|---|---|"
    for row in benchmark.rows:
        match row:
            case Left():
                yield f"| {row.name} | not measured: {_inert(row.why)} | | | | | {_aim(row)} | |"
            case Measured():
                ratio = f"{row.ratio:.2f}" if row.ratio is not None else ""
                speed = f"{row.speed:.2f}" if row.speed is not None else ""
                theirs = _side(row.theirs, row.unit) if row.theirs is not None else ""
                memory = "" if row.unit == "MB" else _memory(row)
                yield (
                    f"| {row.name} | {_side(row.ours, row.unit)} | {theirs} | {ratio} | {speed} | "
                    f"{memory} | {_aim(row)} | {_verdict(row)} |"
                )


def commands(benchmark: Benchmark) -> Iterator[str]:
    """What was run, once each."""
    seen: list[str] = []
    for row in benchmark.rows:
        if not isinstance(row, Measured):
            continue
        for side in (row.ours, row.theirs):
            if side is not None and (line := f"* {side.name}: `{side.command}`") not in seen:
                seen.append(line)
    yield from seen


def _reached(row: Measured) -> str:
    return f"{row.ratio:.2f}" if row.ratio is not None else _figures(row.ours.figures, row.unit)


def _verdict(row: Measured) -> str:
    return row.verdict if row.verdict in ("met", "") else f"**{row.verdict}**"


def _unsteady(weather: Weather) -> str:
    return f"; **noisy machine: {', '.join(weather.complaints)}**" if weather.complaints else ""


def _aim(row: Row) -> str:
    return AIMS[row.aim].text if row.aim is not None else ""


def _side(side: Side, unit: str) -> str:
    return f"{_figures(side.figures, unit)} ({side.name})"


def _memory(row: Measured) -> str:
    sides = [side for side in (row.ours, row.theirs) if side is not None]
    return " / ".join(f"{max(side.megabytes):.0f}" if side.megabytes else "-" for side in sides)


def _figures(figures: Sequence[float], unit: str, digits: int | None = None) -> str:
    """Median, lowest and highest."""
    if digits is None:
        digits = 2 if unit == "s" else 0
    ordered = sorted(figures)
    middle = len(ordered) // 2
    median = (ordered[middle] + ordered[~middle]) / 2
    span = f" ({ordered[0]:,.{digits}f}-{ordered[-1]:,.{digits}f})" if len(ordered) > 1 else ""
    return f"{median:,.{digits}f} {unit}{span}"


def _span(seconds: float) -> str:
    return f"{seconds / 60:.1f} minutes" if seconds >= 90 else f"{seconds:.0f} seconds"


def _inert(text: str) -> str:
    """A reason, in one line of one cell."""
    return " ".join(text.replace("|", "/").split())[:300]
