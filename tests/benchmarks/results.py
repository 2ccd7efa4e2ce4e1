"""What a run has found: rows that can be kept in a file, and what they say about their aims."""

from __future__ import annotations

import statistics
from pathlib import Path

import msgspec

from tests.benchmarks.aims import AIMS
from tests.benchmarks.noise import Weather

AGREEING = 0.75
"""A row is too noisy to tell when fewer than this share of its rounds give the row's verdict."""


class Side(msgspec.Struct, frozen=True):
    """One side of a comparison: a figure for each round, in the row's unit.

    `megabytes` is the peak memory of each round, of the largest process; empty where nobody looked.
    """

    name: str
    command: str
    figures: list[float]
    megabytes: list[float] = []

    @property
    def median(self) -> float:
        """What stands for the side in a ratio."""
        return statistics.median(self.figures)


class Measured(msgspec.Struct, frozen=True, tag="measured"):
    """One row: our side, a peer's where there is one, and the aim where there is one."""

    name: str
    unit: str
    ours: Side
    theirs: Side | None = None
    aim: str | None = None

    @property
    def ratio(self) -> float | None:
        """Our median over theirs."""
        return self.ours.median / self.theirs.median if self.theirs is not None else None

    @property
    def speed(self) -> float | None:
        """How many times as fast as the peer; None where nothing is compared but memory."""
        if self.ratio is None or self.unit == "MB":
            return None
        return 1 / self.ratio if self.unit == "s" else self.ratio

    @property
    def verdict(self) -> str:
        """`met`, `not met`, `too noisy to tell`, or nothing where there is no aim."""
        if self.aim is None:
            return ""
        aim = AIMS[self.aim]
        reached = aim.reached(self.ratio if self.ratio is not None else self.ours.median)
        alone = self.ours.figures
        if self.theirs is not None:
            others = self.theirs.figures
            if len(others) != len(alone):  # not of the same rounds
                others = [self.theirs.median] * len(alone)
            alone = [mine / other for mine, other in zip(alone, others, strict=True)]
        agreeing = sum(aim.reached(figure) == reached for figure in alone)
        if agreeing < AGREEING * len(alone):
            return "too noisy to tell"
        return "met" if reached else "not met"


class Left(msgspec.Struct, frozen=True, tag="left"):
    """A row that could not be measured, and why: what to install, or what failed."""

    name: str
    why: str
    aim: str | None = None


Row = Measured | Left


class Benchmark(msgspec.Struct, frozen=True):
    """The rows of one benchmark, how long it took, and how steady the machine was meanwhile."""

    name: str
    rows: list[Row]
    seconds: float
    weather: Weather


class Run(msgspec.Struct):
    """One run: when, of what, where, and what it found so far."""

    started: str
    commit: str
    quick: bool
    machine: list[str]
    programs: dict[str, str]
    load: float
    benchmarks: list[Benchmark]
    weather: Weather | None = None

    @property
    def seconds(self) -> float:
        """How long its benchmarks took together."""
        return sum(benchmark.seconds for benchmark in self.benchmarks)


def load(file: Path) -> list[Run]:
    """The runs kept in a file; none where there is no file."""
    return msgspec.json.decode(file.read_bytes(), type=list[Run]) if file.exists() else []


def keep(file: Path, runs: list[Run]) -> None:
    """Replace the file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    beside = file.with_suffix(".new")
    beside.write_bytes(msgspec.json.format(msgspec.json.encode(runs)))
    beside.replace(file)
