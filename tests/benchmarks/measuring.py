"""Run programs against each other in interleaved rounds, and say what came out as ratios."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

AGREEING = 0.75
"""A row is too noisy when fewer than this share of its rounds give the row's own verdict."""

NO_AIM = float("inf")
"""The aim of a row that is only to be known."""

HDEV = str(Path(sys.executable).with_name("hdev"))
REPOSITORY = Path(__file__).parents[2]


@dataclass(frozen=True)
class Spent:
    """What one process cost: seconds from start to end, and its peak memory in MB."""

    seconds: float
    megabytes: float


def run(command: Sequence[str], *, home: Path, also: Mapping[str, str] | None = None) -> Spent:
    """Run a program to its end in an empty home; raises RuntimeError when it does not exit with 0.

    Linux counts the pages of the parent into a new process's peak until it has its own program,
    so whoever calls this has to stay small.
    """
    environ = {**_environ(home), **(also or {})}
    begin = time.perf_counter()
    child = subprocess.Popen(
        command,
        cwd=home,
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert child.stderr is not None
    said = child.stderr.read()
    _, status, usage = os.wait4(child.pid, 0)
    seconds = time.perf_counter() - begin
    child.returncode = os.waitstatus_to_exitcode(status)
    child.stderr.close()
    if child.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} exited with {child.returncode}: {said[-2000:]}")
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is in bytes there, in KiB here
    return Spent(seconds, usage.ru_maxrss * unit / 1e6)


def first_byte(command: Sequence[str], *, home: Path) -> float:
    """Seconds from the start of a program to the first byte that it prints; it is then ended."""
    begin = time.perf_counter()
    with subprocess.Popen(
        command, cwd=home, env=_environ(home), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        first = child.stdout.read(1)
        seconds = time.perf_counter() - begin
        child.kill()
    if not first:
        raise RuntimeError(f"{' '.join(command)} printed nothing")
    return seconds


def _environ(home: Path) -> dict[str, str]:
    """An empty home, and no settings of Python's: an installed program has its modules compiled."""
    environ = {
        name: text for name, text in os.environ.items() if not name.startswith(("HDEV_", "PYTHON"))
    }
    return environ | {"HOME": str(home), "PYTHONPATH": str(REPOSITORY)}


@dataclass(frozen=True)
class Row:
    """One comparison: the figures of each round on our side and on the other.

    `theirs` is empty where `aim` is an absolute limit in `unit`, else `aim` is the largest ratio of
    ours to theirs that is good enough.
    """

    name: str
    command: str
    peer: str
    unit: str
    ours: Sequence[float]
    theirs: Sequence[float]
    aim: float

    @property
    def ratio(self) -> float:
        """Our median over theirs."""
        return statistics.median(self.ours) / statistics.median(self.theirs)

    @property
    def met(self) -> bool:
        reached = self.ratio if self.theirs else statistics.median(self.ours)
        return reached <= self.aim

    @property
    def noisy(self) -> bool:
        """Whether the rounds, each for itself, disagree about the aim."""
        alone = self.ours
        if self.theirs:
            alone = [mine / other for mine, other in zip(self.ours, self.theirs, strict=True)]
        agreeing = sum((reached <= self.aim) == self.met for reached in alone)
        return agreeing < AGREEING * len(alone)

    @property
    def verdict(self) -> str:
        if self.aim == NO_AIM:
            return ""
        return ("met" if self.met else "**not met**") + (", too noisy to tell" * self.noisy)


@dataclass(frozen=True)
class Missing:
    """A comparison that could not be made, and what to install for it."""

    name: str
    install: str


def figure(rounds: Sequence[float], unit: str) -> str:
    """The median and, in brackets, the lowest and the highest."""
    digits = 0 if unit == "MB" else 2
    median = statistics.median(rounds)
    return f"{median:.{digits}f} {unit} ({min(rounds):.{digits}f}-{max(rounds):.{digits}f})"


def interleaved(
    rounds: int, ours: Callable[[], float], theirs: Callable[[], float], *, warm_up: bool = True
) -> tuple[list[float], list[float]]:
    """Both sides `rounds` times each, taking turns at who comes first; once before to warm up."""
    if warm_up:
        ours()
        theirs()
    mine: list[float] = []
    others: list[float] = []
    for number in range(rounds):
        sides = [(ours, mine), (theirs, others)]
        for side, figures in sides if number % 2 == 0 else reversed(sides):
            figures.append(side())
    return mine, others
