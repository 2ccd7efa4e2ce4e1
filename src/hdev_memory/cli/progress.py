"""How far long work is: a bar on stderr on a terminal, otherwise a plain line every few seconds."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Self

from hdev_memory.cli.eventlines import Lines, Outside
from hdev_memory.cli.eventlines import Progress as ProgressLine
from hdev_memory.core import events

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

PLAIN_EVERY = 5.0
"""Seconds between two plain lines."""

EVENT_EVERY = 1.0
"""Seconds between two event lines of progress; the end of a stage is always told."""

Stage = Literal["source", "target", "compare", "write"]

SAID: dict[Stage, str] = {
    "source": "Reading the source",
    "target": "Reading the target",
    "compare": "Comparing with the plan",
    "write": "Writing",
}


class Shown:
    """Turns the engine's events into progress; `emit` is what the engine is given."""

    def __init__(
        self, lines: Lines | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._bar: Progress | None = None
        self._tasks: dict[Stage, TaskID] = {}
        self._lines = lines if lines is not None else Lines(json=False)
        self._clock = clock
        self._last_plain = self._last_event = clock()

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import (
                BarColumn,
                MofNCompleteColumn,
                Progress,
                SpinnerColumn,
                TextColumn,
                TimeElapsedColumn,
            )

            self._bar = Progress(
                SpinnerColumn(),
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                console=Console(stderr=True),
                transient=True,
            )
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def emit(self, event: events.Event) -> None:
        match event:
            case events.Looked(side=side, entries=entries):
                self._show(side, entries, None)
            case events.Checked(done=done, total=total):
                self._show("compare", done, total)
            case events.Wrote(done=done, total=total):
                self._show("write", done, total)
            case events.Outside(side=side, entries=entries):
                from hdev_memory.cli.context import note

                noun = "entry" if entries == 1 else "entries"
                note(f"Note: the {side} holds {entries} new {noun} outside this plan (left alone).")
                self._lines.emit(Outside(side=side, entries=entries))

    def _show(self, stage: Stage, done: int, total: int | None) -> None:
        now = self._clock()
        if done == total or now - self._last_event >= EVENT_EVERY:
            self._last_event = now
            self._lines.emit(ProgressLine(stage=stage, done=done, total=total))
        if self._bar is not None:
            if stage not in self._tasks:
                self._tasks[stage] = self._bar.add_task(SAID[stage], total=total)
            self._bar.update(self._tasks[stage], completed=done, total=total)
        elif now - self._last_plain >= PLAIN_EVERY:
            self._last_plain = now
            of = f" of {total}" if total is not None else ""
            print(f"{SAID[stage]}: {done}{of} entries", file=sys.stderr, flush=True)
