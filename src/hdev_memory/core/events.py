"""What the engine says while it works; the command line decides how that looks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from hdev_memory.core.entry import Value


class Looked(Value, frozen=True):
    """So many entries and bytes of content of one end have been seen by a snapshot so far.

    `expected` is how many entries it is likely to come to, None where nobody knows. With `ended`
    the snapshot is complete, and the numbers are those of the whole end.
    """

    side: Literal["source", "target"]
    entries: int
    bytes: int
    expected: int | None = None
    ended: bool = False


class Checked(Value, frozen=True):
    """So many of the plan's actions have been compared with the ends so far; `bytes` of content
    were read for it."""

    done: int
    total: int
    bytes: int


class Wrote(Value, frozen=True):
    """So many of the plan's actions have an outcome so far; `bytes` of content were written.

    The first one of a run tells what earlier runs have done.
    """

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
