"""`hdev session`: `!migrate_memory` and its kin, from a prompt or a pipe."""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from hdev_memory.errors import HdevError, UsageError

if TYPE_CHECKING:
    from hdev_memory.config import Settings

OPTIONS = (
    "source_config",
    "target_config",
    "dry_run",
    "overwrite",
    "delete",
    "api_key",
    "source_api_key",
    "target_api_key",
)
COMMANDS = ("!migrate_memory", "!help", "!exit", "!quit")
HELP = """\
!migrate_memory [source_config=ENDPOINT] target_config=ENDPOINT [dry_run=true|false]
                [overwrite=true|false] [delete=true|false]
                [api_key=KEY] [source_api_key=KEY] [target_api_key=KEY]
    Migrate memory. ENDPOINT is "filesystem", "filesystem:PATH", "http:https://HOST" or the name
    of an environment; the source is the local folder unless it is given.
!help    Show this text.
!exit    Leave; !quit and Ctrl-D do the same."""


def session() -> int:
    """Take !migrate_memory commands from a prompt, or from a pipe when stdin is no terminal."""
    from hdev_memory.cli import context

    interactive = sys.stdin.isatty()
    settings = context.settings()
    return run_lines(
        _prompted(settings.home) if interactive else (line.rstrip("\n") for line in sys.stdin),
        lambda line: _migrate(line, settings),
        interactive=interactive,
    )


def run_lines(lines: Iterator[str], migrate: Callable[[str], int], *, interactive: bool) -> int:
    """Run each line, go on after a failing one; the status is that of the last one that failed.

    At a prompt the status is 0, and Ctrl-C gives up a line, not the session.
    """
    from hdev_memory.cli import show_error, show_interrupt

    failed = 0
    for text in lines:
        line = text.strip()
        if not line or line.startswith("#"):
            continue
        if line in ("!exit", "!quit"):
            break
        try:
            status = _dispatch(line, migrate)
        except HdevError as error:
            show_error(error)
            status = error.exit_code
        except KeyboardInterrupt:
            if not interactive:
                raise
            show_interrupt()
            continue
        failed = status or failed
        sys.stdout.flush()
    return 0 if interactive else failed


def _dispatch(line: str, migrate: Callable[[str], int]) -> int:
    from hdev_memory.cli.context import say

    command, _, rest = line.partition(" ")
    if command == "!help":
        say(HELP)
        return 0
    if command == "!migrate_memory":
        return migrate(rest)
    raise UsageError(
        "There is no such command in a session.",
        why=f"{command!r} is none of {', '.join(COMMANDS)}.",
        hint="!help tells what there is.",
    )


def parse(rest: str) -> dict[str, str]:
    """`name=value` words as a shell would split them. Raises UsageError."""
    try:
        words = shlex.split(rest)
    except ValueError as error:
        raise UsageError(
            "The line cannot be split into words.",
            why=f"{error}.",
            hint='Quote as in a shell: target_config="http:https://HOST".',
        ) from None
    found: dict[str, str] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if name not in OPTIONS or not equals:
            raise UsageError(
                "There is no such option.",
                why=f"{name!r} is none of {', '.join(OPTIONS)}.",
                hint="Write name=value; !help tells what there is.",
            )
        if name in found:
            raise UsageError(
                "An option is given twice.", why=f"It is {name}.", hint="Give it once."
            )
        found[name] = value
    return found


def boolean(name: str, text: str) -> bool:
    """`true` or `false` in any case, and nothing else: "false" once overwrote somebody's memory."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    raise UsageError(
        "An option takes true or false.", why=f"{name} was {text!r}.", hint=f"Write {name}=true."
    )


def _migrate(rest: str, settings: Settings) -> int:
    from hdev_memory.backends.base import Secret
    from hdev_memory.cli.migrate_memory import run_migration
    from hdev_memory.config import EndFlags

    given = parse(rest)
    switches = {name: boolean(name, given.get(name, "false")) for name in _SWITCHES}
    keys = {name: Secret(given[name]) if name in given else None for name in _KEYS}
    return run_migration(
        settings,
        EndFlags(endpoint=given.get("source_config"), api_key=keys["source_api_key"]),
        EndFlags(endpoint=given.get("target_config"), api_key=keys["target_api_key"]),
        shared_api_key=keys["api_key"],
        dry_run=switches["dry_run"],
        overwrite=switches["overwrite"],
        delete=switches["delete"],
        plans=Path("plans"),
    )


_SWITCHES = ("dry_run", "overwrite", "delete")
_KEYS = ("api_key", "source_api_key", "target_api_key")


def _prompted(home: Path) -> Iterator[str]:
    """Lines from a prompt, with completion, and a history without lines with a key or password."""
    from prompt_toolkit import PromptSession
    from prompt_toolkit.completion import WordCompleter
    from prompt_toolkit.history import FileHistory

    class Discreet(FileHistory):
        def append_string(self, string: str) -> None:
            if "api_key" not in string and not re.search("://[^/]*@", string):
                super().append_string(string)

    path = home / ".hdev" / "session_history"
    path.parent.mkdir(parents=True, exist_ok=True)
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
    words = [*COMMANDS]
    for name in OPTIONS:
        values = ("true", "false") if name in _SWITCHES else ("",)
        words += [f"{name}={value}" for value in values]
    prompt: PromptSession[str] = PromptSession(
        history=Discreet(str(path)),
        completer=WordCompleter(words, WORD=True),
        complete_while_typing=False,  # on Tab, as a shell does it
    )
    while True:
        try:
            yield prompt.prompt("hdev> ")
        except KeyboardInterrupt:
            continue
        except EOFError:
            return
