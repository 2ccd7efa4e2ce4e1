"""Run programs in interleaved rounds, and say what each of them cost."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.benchmarks import corpus
from tests.benchmarks.noise import Station
from tests.benchmarks.results import Left, Measured, Row, Side

HDEV = str(Path(sys.executable).with_name("hdev"))
REPOSITORY = Path(__file__).parents[2]
API_KEY = "benchmark-key"
_LAUNCH = str(Path(__file__).with_name("launch.py"))
LONGEST = 1800.0
"""Seconds after which a program is ended, and its benchmark fails."""


class NotInstalled(Exception):
    """A program that we are compared with is missing; the message says what to install."""


@dataclass(frozen=True)
class Spent:
    """What one piece of work cost: a figure in its row's unit, and the peak memory in MB of the
    largest of its processes where somebody looked."""

    figure: float
    megabytes: float | None = None

    def per_second(self, count: int) -> Spent:
        """The same as a rate, of work that took seconds."""
        return Spent(count / self.figure, self.megabytes)


@dataclass(frozen=True)
class Contender:
    """One side of a comparison, before it is measured."""

    name: str
    command: str
    work: Callable[[], Spent]


def run(
    command: Sequence[str],
    *,
    home: Path,
    also: Mapping[str, str] | None = None,
    accepted: Sequence[int] = (0,),
) -> Spent:
    """Run a program to its end in an empty home: its seconds.

    Raises RuntimeError for another exit status, or when it takes too long.
    """
    with tempfile.TemporaryDirectory(prefix="launch-", dir=home) as place:
        answer = Path(place) / "answer"
        launch = [sys.executable, "-I", "-S", _LAUNCH, str(answer), str(LONGEST)]
        said = subprocess.run(
            [*launch, *command],
            cwd=home,
            env={**environ(home), **(also or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        ).stderr
        # The page keeps the reason, and no folder of this machine.
        name, said = Path(command[0]).name, said.replace(str(home), "")
        if not answer.exists():
            raise RuntimeError(f"{name} could not be started: {said[-2000:]}")
        seconds, status, kibibytes = answer.read_text().split()
    if int(status) not in accepted:
        raise RuntimeError(f"{name} exited with {status}: {said[-2000:]}")
    return Spent(float(seconds), int(kibibytes) * 1024 / 1e6)


def first_byte(command: Sequence[str], *, home: Path) -> Spent:
    """Seconds from the start of a program to the first byte that it prints; it is then ended."""
    begin = time.perf_counter()
    with subprocess.Popen(
        command, cwd=home, env=environ(home), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        first = child.stdout.read(1)
        seconds = time.perf_counter() - begin
        child.kill()
    if not first:
        raise RuntimeError(f"{' '.join(command)} printed nothing")
    return Spent(seconds)


def environ(home: Path) -> dict[str, str]:
    """An empty home, and no settings of Python's: an installed program has its modules compiled."""
    kept = {
        name: text
        for name, text in os.environ.items()
        if not name.startswith(("HDEV_", "PYTHON", "RCLONE_", "RESTIC_", "GIT_", "XDG_"))
    }
    return kept | {"HOME": str(home), "PYTHONPATH": str(REPOSITORY)}


class Profiler:
    """Says where the time of our own side goes, by py-spy, in a run that is not measured."""

    def __init__(self, place: Path, rate: int = 200) -> None:
        self.file = place / "stacks.txt"
        self._rate = str(rate)

    def command(self, words: Sequence[str]) -> list[str]:
        """The command that watches another one."""
        spy = str(Path(sys.executable).with_name("py-spy"))
        return [
            spy, "record", "--rate", self._rate, "--subprocesses", "--function", "--format", "raw",
            "--output", str(self.file), "--", sys.executable, *words,
        ]  # fmt: skip

    def found(self, lines: int = 15) -> str:
        """The functions that were on top of the stack most often, with their share."""
        top: dict[str, int] = {}
        for line in self.file.read_text().splitlines():
            stack, _, count = line.rpartition(" ")
            function = stack.rpartition(";")[2]
            top[function] = top.get(function, 0) + int(count)
        whole = sum(top.values()) or 1
        most = sorted(top.items(), key=lambda item: -item[1])[:lines]
        return "\n".join(f"{count / whole:6.1%}  {function}" for function, count in most)


@dataclass
class Bench:
    """What every benchmark is given.

    place   a folder of its own, removed afterwards
    shared  where the stores lie that several benchmarks read
    """

    place: Path
    shared: Path
    station: Station
    quick: bool
    profiling: bool = False
    _profiler: Profiler | None = field(default=None, init=False)

    @property
    def rounds(self) -> int:
        return 2 if self.quick else 3

    def store(self, entries: int, *, edited_every: int = 0) -> Path:
        """A store that nobody may change; made at its first use."""
        root = self.shared / f"{entries}-{edited_every}"
        if not root.exists():
            corpus.make(root, entries, edited_every=edited_every)
        return root

    @contextlib.contextmanager
    def folder(self, copy_of: Path | None = None) -> Iterator[Path]:
        """An empty folder, or a copy of another one, that has reached the disk; then removed."""
        place = Path(tempfile.mkdtemp(prefix="target-", dir=self.place))
        inside = place / "memory"
        if copy_of is None:
            inside.mkdir()
        else:
            shutil.copytree(copy_of, inside)
        os.sync()
        try:
            yield inside
        finally:
            shutil.rmtree(place)

    def out(self) -> str:
        """A path for a plan's folder."""
        return f"{tempfile.mkdtemp(prefix='plan-', dir=self.place)}/plan"

    def hdev(self, *words: str, also: Mapping[str, str] | None = None) -> Spent:
        """Run our own program; watched, where that was asked for."""
        command = [HDEV, *words]
        if self._profiler is not None:
            command = self._profiler.command(command)
        return run(command, home=self.place, also=also)

    def plan(self, source: str, target: str, *flags: str) -> str:
        """Write a plan that is not measured; the path of its folder."""
        out = self.out()
        key = {"HDEV_MEMORY_HTTP_API_KEY": API_KEY}
        command = [HDEV, "plan", source, target, "--overwrite", "-o", out, *flags]
        run(command, home=self.place, also=key)
        os.sync()
        return out

    def compare(
        self, *contenders: Contender, rounds: int | None = None, warm_up: bool = True
    ) -> list[Side | str]:
        """Each of them so many times, taking turns at who comes first; in the order given.

        Where it is warmed up, each runs once before that, which is not counted. One that is not
        installed or fails takes no further part: the answer for it is the reason.
        """
        failed: dict[int, str] = {}
        spent: list[list[Spent]] = [[] for _ in contenders]
        turns = list(range(len(contenders)))

        def work(turn: int) -> None:
            if turn in failed:
                return
            try:
                spent[turn].append(contenders[turn].work())
            except Exception as error:  # noqa: BLE001 - the others go on, and the row says so
                failed[turn] = f"{contenders[turn].name}: {error}"
                print(f"  {failed[turn]}", flush=True)

        if warm_up:
            for turn in turns:
                work(turn)
            spent = [[] for _ in contenders]
        for number in range(rounds or self.rounds):
            self.station.look()
            first = number % len(turns)
            for turn in turns[first:] + turns[:first]:
                work(turn)
        self.station.look()
        if self.profiling:
            self._profile(contenders[0])
        return [
            failed[turn] if turn in failed else _side(contender, spent[turn])
            for turn, contender in enumerate(contenders)
        ]

    def _profile(self, ours: Contender) -> None:
        self._profiler = Profiler(self.place)
        try:
            ours.work()
            print(f"  where the time of {ours.command} goes:\n{self._profiler.found()}", flush=True)
        finally:
            self._profiler = None


def _side(contender: Contender, spent: Sequence[Spent]) -> Side:
    return Side(
        name=contender.name,
        command=contender.command,
        figures=[one.figure for one in spent],
        megabytes=[one.megabytes for one in spent if one.megabytes is not None],
    )


def row(
    name: str, unit: str, ours: Side | str, theirs: Side | str | None = None, aim: str | None = None
) -> Row:
    """One row of two sides; a side that is a reason leaves the row out, with that reason."""
    if isinstance(ours, str):
        return Left(name=name, why=ours, aim=aim)
    if isinstance(theirs, str):
        return Left(name=name, why=theirs, aim=aim)
    return Measured(name=name, unit=unit, ours=ours, theirs=theirs, aim=aim)


def peaks(side: Side | str, name: str | None = None) -> Side | str:
    """The peak memory of a side, as the figures of another row."""
    if isinstance(side, str):
        return side
    return Side(name=name or side.name, command=side.command, figures=side.megabytes)
