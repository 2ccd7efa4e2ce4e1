"""How far long work is: a bar on stderr on a terminal, otherwise a plain line every few seconds."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Self

from hdev_memory.core import events

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

PLAIN_EVERY = 5.0
"""Seconds between two plain lines."""


class Shown:
    """Turns the engine's events into progress; `emit` is what the engine is given."""

    def __init__(self) -> None:
        self._bar: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._last = time.monotonic()

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
                self._show(f"Reading the {side}", entries, None)
            case events.Checked(done=done, total=total):
                self._show("Comparing with the plan", done, total)
            case events.Wrote(done=done, total=total):
                self._show("Writing", done, total)
            case events.Outside(side=side, entries=entries):
                from hdev_memory.cli.context import note

                noun = "entry" if entries == 1 else "entries"
                note(f"Note: the {side} holds {entries} new {noun} outside this plan (left alone).")

    def _show(self, what: str, done: int, total: int | None) -> None:
        if self._bar is not None:
            if what not in self._tasks:
                self._tasks[what] = self._bar.add_task(what, total=total)
            self._bar.update(self._tasks[what], completed=done, total=total)
        elif time.monotonic() - self._last >= PLAIN_EVERY:
            self._last = time.monotonic()
            of = f" of {total}" if total is not None else ""
            print(f"{what}: {done}{of} entries", file=sys.stderr, flush=True)
