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
    from hdev_memory.errors import HdevError


def settings() -> Settings:
    """The settings of this process's environment."""
    from hdev_memory import config

    return config.load(os.environ, Path.cwd(), home())


def home() -> Path:
    return Path(os.environ.get("HOME") or os.path.expanduser("~"))


def cache_folder() -> Path:
    """The user's folder for what can be made again; it need not exist."""
    if sys.platform == "darwin":
        return home() / "Library" / "Caches" / "hdev-memory"
    given = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(given) if os.path.isabs(given) else home() / ".cache") / "hdev-memory"


def unwritten(error: OSError) -> HdevError:
    """What to say where stdout takes no more."""
    from hdev_memory.errors import HdevError

    return HdevError(
        "The output cannot be written.",
        why=f"{error.strerror}.",
        hint="Make room, or send it elsewhere: what is there is not all of it.",
    )


def _put(text: str, *, end: str = "\n", flush: bool = False) -> None:
    """Raises HdevError where stdout takes no more, and BrokenPipeError where nobody reads it."""
    try:
        print(text, end=end, flush=flush)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise unwritten(error) from None


def say(text: str = "") -> None:
    """A line of result on stdout."""
    _put(text)


def say_parts(parts: Iterable[str]) -> None:
    """A result that comes in parts, with its own line ends; the first is shown at once."""
    for number, part in enumerate(parts):
        _put(part, end="", flush=number == 0)


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

    _put(inert(text))


def note_inert(text: str) -> None:
    """A line on stderr whose text was made inert already."""
    print(text, file=sys.stderr)


def print_json(value: Any) -> None:
    """One JSON document on one line; ASCII, so that a terminal shows it safely."""
    _put(json.dumps(value), flush=True)


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
