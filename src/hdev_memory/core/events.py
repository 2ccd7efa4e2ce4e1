"""What the engine says while it works; the command line decides how that looks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from hdev_memory.core.entry import Value


class Looked(Value, frozen=True):
    """So many entries and bytes of one end have been seen by a snapshot so far."""

    side: Literal["source", "target"]
    entries: int
    bytes: int


class Checked(Value, frozen=True):
    """So many of the plan's actions have been compared with both ends so far."""

    done: int
    total: int


class Wrote(Value, frozen=True):
    """So many of the plan's actions have an outcome so far; `bytes` of content were written."""

    done: int
    total: int
    bytes: int


class Outside(Value, frozen=True):
    """One end now holds entries that the plan did not see; they are left alone."""

    side: Literal["source", "target"]
    entries: int


Event = Looked | Checked | Wrote | Outside
Emit = Callable[[Event], None]


def silent(event: Event) -> None:
    """Hear nothing."""
