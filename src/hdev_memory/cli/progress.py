"""How far long work is: bars on stderr on a terminal, otherwise a plain line every few seconds.

Each stage has a line of its own, since both ends are read at the same time: entries, bytes, how
fast, and the time left where the total is known.
"""

from __future__ import annotations

import math
import sys
import time
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Literal, NamedTuple, Self

from hdev_memory.cli.eventlines import Lines, Outside
from hdev_memory.cli.eventlines import Progress as ProgressLine
from hdev_memory.core import events
from hdev_memory.review.document import size

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

PLAIN_EVERY = 5.0
"""Seconds between two plain lines of a stage. A stage that took longer is told at its end, too."""

EVENT_EVERY = 1.0
"""Seconds between two event lines of a stage; the end of a stage is always told."""

WINDOW = 10.0
"""Seconds that a rate is taken over: long enough to be steady, short enough to follow a change."""

_GRAIN = 0.25
"""Seconds between two marks of a window, so that it stays short."""

_SETTLED = 1.0
"""Seconds before a rate is worth anything."""

_FARTHEST = 100 * 3600
"""Seconds of time left from which on it is no use to anybody."""

_ROOMY = 100
"""Columns of a terminal that has room for bytes per second as well."""

Stage = Literal["source", "target", "compare", "write"]

SAID: dict[Stage, str] = {
    "source": "Reading the source",
    "target": "Reading the target",
    "compare": "Comparing with the plan",
    "write": "Writing",
}


class _Mark(NamedTuple):
    """How far a stage was at a moment."""

    at: float
    done: int
    bytes: int


class Pace:
    """How far one stage is, and how fast.

    It starts with what was done before: that says nothing of how fast this run is. `total` is None
    where it is not known, and `about` says that it is a guess, which holds until it is passed.
    """

    def __init__(
        self, stage: Stage, done: int, bytes_done: int, clock: Callable[[], float]
    ) -> None:
        self.stage = stage
        self.done = done
        self.bytes = bytes_done
        self.total: int | None = None
        self.about = False
        self.ended_at: float | None = None
        self._clock = clock
        self._first = _Mark(clock(), done, bytes_done)
        # The first one is never younger than the window, where the stage is as old as that.
        self._marks = deque([self._first])

    def move(
        self, done: int, bytes_done: int, total: int | None, *, about: bool, ended: bool
    ) -> None:
        """It is so far now. With `ended` the total is what was done."""
        now = self._clock()
        self.done, self.bytes = done, bytes_done
        if ended:
            self.total, self.about, self.ended_at = done, False, now
        else:
            passed = total is not None and done > total
            self.total, self.about = (None, False) if passed else (total, about)
        if now - self._marks[-1].at >= _GRAIN:
            self._marks.append(_Mark(now, done, bytes_done))
        while len(self._marks) > 1 and self._marks[1].at <= now - WINDOW:
            self._marks.popleft()

    @property
    def seconds(self) -> float:
        """Since the stage began, until it ended."""
        return (self.ended_at if self.ended_at is not None else self._clock()) - self._first.at

    def _since(self) -> tuple[float, _Mark]:
        """What rates are taken over: the window, and of a stage that has ended all of it."""
        base = self._first if self.ended_at is not None else self._marks[0]
        return self._first.at + self.seconds - base.at, base

    @property
    def rate(self) -> float | None:
        """Entries per second; None as long as nothing can be said."""
        seconds, base = self._since()
        return (self.done - base.done) / seconds if seconds >= _SETTLED else None

    @property
    def bytes_rate(self) -> float | None:
        """Bytes per second, likewise."""
        seconds, base = self._since()
        return (self.bytes - base.bytes) / seconds if seconds >= _SETTLED else None

    @property
    def left(self) -> int | None:
        """Seconds until the end, never negative; None where nobody can know."""
        if self.ended_at is not None:
            return 0
        rate, total = self.rate, self.total  # read once: the thread that draws asks as well
        if total is None or not rate:
            return None
        seconds = max(0, math.ceil((total - self.done) / rate))
        return seconds if seconds < _FARTHEST else None


def count_text(pace: Pace) -> str:
    """`1,200`, or `1,200/5,000` where the total is known."""
    done, total = pace.done, pace.total
    return f"{done:,}" if total is None else f"{done:,}/{total:,}"


def bytes_text(pace: Pace) -> str:
    return size(pace.bytes)


def rate_text(pace: Pace) -> str:
    """`310/s`; empty as long as nothing can be said."""
    return "" if pace.rate is None else f"{pace.rate:,.0f}/s"


def bytes_rate_text(pace: Pace) -> str:
    return "" if pace.bytes_rate is None else f"{size(int(pace.bytes_rate))}/s"


def left_text(pace: Pace) -> str:
    """`0:27 left`; empty where nobody can know, and at the end."""
    left = pace.left
    return "" if not left else f"{duration(left)} left"


def duration(seconds: int) -> str:
    """`0:27` or `1:02:03`."""
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def plain(pace: Pace) -> str:
    """Where a stage is, in one line."""
    about = "about " if pace.about else ""
    of = f" of {about}{pace.total:,}" if pace.total is not None and pace.ended_at is None else ""
    entries = "entry" if pace.done == 1 and not of else "entries"
    told = [f"{pace.done:,}{of} {entries}", bytes_text(pace)]
    if pace.ended_at is not None:
        told[-1] += f" in {duration(math.ceil(pace.seconds))}"
    told += [rate_text(pace), bytes_rate_text(pace), left_text(pace)]
    return f"{SAID[pace.stage]}: {', '.join(part for part in told if part)}"


class Shown:
    """Turns the engine's events into progress; `emit` is what the engine is given."""

    def __init__(
        self, lines: Lines | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._bars: Progress | None = None
        self._tasks: dict[Stage, TaskID] = {}
        self._lines = lines if lines is not None else Lines(json=False)
        self._clock = clock
        self._paces: dict[Stage, Pace] = {}
        self._last_plain: dict[Stage, float] = {}
        self._last_event: dict[Stage, float] = {}

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            from rich.console import Console

            console = Console(stderr=True)
            if console.is_interactive:  # not on a terminal that cannot move its cursor
                self._bars = _bars(console)
                self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bars is not None:
            self._bars.stop()
        for pace in self._paces.values():
            if pace.ended_at is None:
                self._event(pace)
            # Plain lines have told already what has ended; of bars nothing is left.
            if pace.seconds >= PLAIN_EVERY and (self._bars is not None or pace.ended_at is None):
                _print(plain(pace))

    def emit(self, event: events.Event) -> None:
        match event:
            case events.Looked():
                self._show(
                    event.side, event.entries, event.bytes, event.expected, ended=event.ended
                )
            case events.Checked():
                ended = event.done == event.total
                self._show("compare", event.done, event.bytes, event.total, ended=ended)
            case events.Wrote():
                ended = event.done == event.total
                self._show("write", event.done, event.bytes, event.total, ended=ended)
            case events.Outside(side=side, entries=entries):
                from hdev_memory.cli.context import note

                noun = "entry" if entries == 1 else "entries"
                note(f"Note: the {side} holds {entries} new {noun} outside this plan (left alone).")
                self._lines.emit(Outside(side=side, entries=entries))

    def _show(
        self, stage: Stage, done: int, bytes_done: int, total: int | None, *, ended: bool
    ) -> None:
        now = self._clock()
        pace = self._paces.get(stage)
        if pace is None:
            pace = self._paces[stage] = Pace(stage, done, bytes_done, self._clock)
            self._last_plain[stage] = self._last_event[stage] = now
        pace.move(done, bytes_done, total, about=stage in ("source", "target"), ended=ended)
        if ended or now - self._last_event[stage] >= EVENT_EVERY:
            self._last_event[stage] = now
            self._event(pace)
        if self._bars is not None:
            if stage not in self._tasks:
                self._tasks[stage] = self._bars.add_task(SAID[stage], pace=pace)
            self._bars.update(self._tasks[stage], completed=done, total=pace.total)
        elif now - self._last_plain[stage] >= PLAIN_EVERY or (
            ended and pace.seconds >= PLAIN_EVERY
        ):
            self._last_plain[stage] = now
            _print(plain(pace))

    def _event(self, pace: Pace) -> None:
        self._lines.emit(
            ProgressLine(
                stage=pace.stage,
                done=pace.done,
                total=pace.total,
                bytes=pace.bytes,
                seconds=round(pace.seconds, 3),
                left=pace.left,
            )
        )


def _print(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _bars(console: Console) -> Progress:
    """A line for each stage that is never wider than the terminal: the bar is what gives way."""
    from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TextColumn
    from rich.table import Column
    from rich.text import Text

    class Told(ProgressColumn):
        """What a function says of a stage's pace, asked at each drawing: time passes by itself."""

        def __init__(self, text: Callable[[Pace], str]) -> None:
            super().__init__(Column(no_wrap=True, justify="right"))
            self._text = text

        def render(self, task: Task) -> Text:
            return Text(self._text(task.fields["pace"]))

    roomy = console.width >= _ROOMY
    return Progress(
        *([SpinnerColumn()] if roomy else []),
        TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True)),
        BarColumn(bar_width=None, table_column=Column(max_width=40)),
        Told(count_text),
        Told(rate_text),
        Told(bytes_text),
        *([Told(bytes_rate_text)] if roomy else []),
        Told(left_text),
        console=console,
        transient=True,
    )
