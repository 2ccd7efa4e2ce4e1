"""What the commands share: the real environment, and the ways to speak to people and programs."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hdev_memory.config import Settings


def settings() -> Settings:
    """The settings of this process's environment."""
    from hdev_memory import config

    return config.load(os.environ, Path.cwd(), home())


def home() -> Path:
    return Path(os.environ.get("HOME") or os.path.expanduser("~"))


def say(text: str = "") -> None:
    """A line of result on stdout."""
    print(text)


def say_parts(parts: Iterable[str]) -> None:
    """A result on stdout that is there part by part; its last line ends as a line does."""
    for part in parts:
        sys.stdout.write(part)


def warn(text: str) -> None:
    """A line on stderr that does not stop anything."""
    from hdev_memory.review.inert import inert

    print(f"Warning: {inert(text)}", file=sys.stderr)


def note(text: str) -> None:
    """A line on stderr that tells how things go."""
    from hdev_memory.review.inert import inert

    print(inert(text), file=sys.stderr)


def say_foreign(text: str) -> None:
    """A line of result that holds foreign text, made inert."""
    from hdev_memory.review.inert import inert

    print(inert(text))


def note_inert(text: str) -> None:
    """A line on stderr whose text was made inert already."""
    print(text, file=sys.stderr)


def print_json(value: Any) -> None:
    """One JSON document on one line; ASCII, so that a terminal shows it safely."""
    print(json.dumps(value), flush=True)


def now() -> datetime:
    return datetime.now(UTC)


def instant(moment: datetime) -> str:
    """A point in time as plans record it."""
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def actor() -> str:
    """Who runs this, for the audit log."""
    import getpass

    name = os.environ.get("HDEV_ACTOR") or os.environ.get("GITHUB_ACTOR")
    if not name:
        try:
            name = getpass.getuser()
        except (KeyError, OSError):
            name = str(os.getuid())
    return name[:200]


def colour(stream: Any) -> bool:
    """Whether a stream takes colour: a terminal, and NO_COLOR is not set."""
    return stream.isatty() and not os.environ.get("NO_COLOR")


def width() -> int:
    """The columns of the terminal, or of COLUMNS; 100 where there is neither."""
    import shutil

    return max(40, shutil.get_terminal_size((100, 24)).columns)
