"""The JSON event lines of `--json` and `--json-into`: their shapes, and where they are written.

One JSON object per line, ASCII only so that a terminal shows it safely. The first line names the
format, the last is either the `summary` or the `error`; a stream without either was cut.
docs/formats.md describes every shape.
"""

from __future__ import annotations

import contextlib
import json as jsonlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Literal

import msgspec

from hdev_memory import __version__
from hdev_memory.core.approval import Decision, Worth
from hdev_memory.core.entry import Value
from hdev_memory.core.plan import Summary
from hdev_memory.core.rules import Level
from hdev_memory.errors import HdevError

FORMAT = "hdev-events/1"

Side = Literal["source", "target"]


class Line(Value, frozen=True, tag_field="type"):
    """The base of every line; `type` tells which it is."""


class Version(Line, frozen=True, tag="version"):
    """The first line."""

    format: str = FORMAT
    tool: str = f"hdev-memory {__version__}"


class Progress(Line, frozen=True, tag="progress"):
    """So many entries are through a stage; `total` is null where it is not known yet."""

    stage: Literal["source", "target", "compare", "write"]
    done: int
    total: int | None


class Outside(Line, frozen=True, tag="outside"):
    """One end holds entries that the plan did not see; they are left alone."""

    side: Side
    entries: int


class Drift(Line, frozen=True, tag="drift"):
    """An entry that is not as the plan says.

    `metadata` tells how the source's metadata differs from the target's, where both can be read.
    """

    side: str
    key: str
    expected: str
    found: str
    metadata: tuple[str, ...] = ()


class Failed(Line, frozen=True, tag="failed"):
    """An entry that was not, or will not be, carried over."""

    key: str
    reason: str


class KeptAside(Line, frozen=True, tag="kept"):
    """A file below the target that holds bytes which somebody else wrote during the run."""

    name: str


class Approval(Line, frozen=True, tag="approval"):
    """What one file among a plan's approvals is worth, and why."""

    name: str
    principal: str
    decision: str
    worth: Worth
    why: str
    comment: str


class Finding(Line, frozen=True, tag="finding"):
    """What a rule of a policy has found; `lifted` says that an override lets it pass."""

    rule: str
    level: Level
    key: str | None
    line: int | None
    text: str
    digest: str
    lifted: bool


class Endpoint(Line, frozen=True, tag="endpoint"):
    """What opening the endpoint of an environment came to."""

    name: str
    reachable: bool
    why: str


class Error(Line, frozen=True, tag="error"):
    """The last line of a command that was refused or failed."""

    exit: int
    what: str
    why: str
    hint: str


class Ending(Line, frozen=True, tag="summary"):
    """The base of the last line of a command that came to its end."""

    exit: int


class PlanEnding(Ending, frozen=True, tag="summary"):
    plan: str
    plan_id: str
    effect: str
    summary: Summary
    command: Literal["plan"] = "plan"


class ApplyEnding(Ending, frozen=True, tag="summary"):
    """`head` is null where there was nothing to do; `counts` are those of the receipt."""

    plan: str
    plan_id: str
    result: Literal["finished", "stopped", "nothing to do"]
    counts: dict[str, int]
    durability: Literal["full", "none"]
    head: str | None
    command: Literal["apply"] = "apply"


class VerifyEnding(Ending, frozen=True, tag="summary"):
    plan_id: str
    as_planned: int
    differ: int
    command: Literal["verify"] = "verify"


class ApproveEnding(Ending, frozen=True, tag="summary"):
    """`worth` is null where nobody has said who may sign; `head` is the log's."""

    plan: str
    plan_id: str
    decision: Decision
    name: str
    principal: str
    worth: Worth | None
    why: str
    head: str
    command: Literal["approve"] = "approve"


class ApprovalsEnding(Ending, frozen=True, tag="summary"):
    """`missing` says in words what keeps the plan from being applied."""

    plan_id: str
    required: int
    counted: int
    allowed: bool
    missing: tuple[str, ...]
    command: Literal["approvals"] = "approvals"


class OverrideEnding(Ending, frozen=True, tag="summary"):
    """`head` is the log's."""

    plan: str
    plan_id: str
    name: str
    principal: str
    findings: tuple[str, ...]
    head: str
    command: Literal["policy override"] = "policy override"


class MigrateEnding(Ending, frozen=True, tag="summary"):
    """The statistics; with `dry_run` they are what would be. `head` is null where nothing ran."""

    plan: str
    plan_id: str
    dry_run: bool
    total: int
    copied: int
    skipped: int
    failed: int
    deleted: int
    head: str | None
    command: Literal["migrate-memory"] = "migrate-memory"


class ConfigEnding(Ending, frozen=True, tag="summary"):
    environments: int
    unreachable: int
    command: Literal["config check"] = "config check"


class AuditEnding(Ending, frozen=True, tag="summary"):
    plan_id: str
    records: int
    head: str
    anchored: bool
    command: Literal["audit verify"] = "audit verify"


def encoded(line: Line) -> str:
    """The text of a line, without its LF."""
    return jsonlib.dumps(msgspec.to_builtins(line))


class Lines:
    """Writes event lines to stdout, a file, both, or nowhere."""

    def __init__(self, *, json: bool, file: IO[str] | None = None) -> None:
        self.on_stdout = json
        self._outputs: list[IO[str]] = ([sys.stdout] if json else []) + ([file] if file else [])
        self._broken: OSError | None = None
        self._ended = False

    @property
    def wanted(self) -> bool:
        """Whether anybody reads them."""
        return bool(self._outputs)

    def emit(self, line: Line) -> None:
        """Write a line at once. Never raises: whoever has stopped reading stops no write.

        A BrokenPipeError is raised when the command has ended; see `told`.
        """
        if self._ended:
            return
        self._ended = isinstance(line, Ending | Error)
        text = encoded(line) + "\n"
        for output in tuple(self._outputs):
            try:
                output.write(text)
                output.flush()
            except OSError as error:
                self._outputs.remove(output)
                self._lost(output, error)

    def _lost(self, output: IO[str], error: OSError) -> None:
        if output is sys.stdout:
            self._broken = error
            return
        from hdev_memory.cli.context import warn

        with contextlib.suppress(OSError):  # what it still buffers cannot be written either
            output.close()
        warn(f"the event lines cannot be written any more: {error.strerror}.")

    def close(self) -> None:
        """Raise the BrokenPipeError that was met, now that the work is done."""
        if self._broken is not None:
            raise self._broken


@contextlib.contextmanager
def told(*, json: bool, into: Path | None = None) -> Iterator[Lines]:
    """The lines of one command: the version first, and an error line where it ends in an error.

    Raises HdevError when the file cannot be opened; it is replaced as the command begins.
    """
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(_opened(into)) if into is not None else None
        lines = Lines(json=json, file=file)
        lines.emit(Version())
        try:
            yield lines
        except HdevError as error:
            lines.emit(_error(error))
            raise
        except KeyboardInterrupt:
            lines.emit(Error(130, "Interrupted; nothing was written.", "", ""))
            raise
        except Exception as error:
            from hdev_memory.cli import bug

            lines.emit(_error(bug(error)))
            raise
        lines.close()


def _opened(path: Path) -> IO[str]:
    try:
        return path.open("w", encoding="ascii")
    except OSError as error:
        raise HdevError(
            "The event lines cannot be written.",
            why=f"{path}: {error.strerror}.",
            hint="Give another file with --json-into.",
        ) from None


def _error(error: HdevError) -> Error:
    return Error(exit=error.exit_code, what=error.what, why=error.why, hint=error.hint)
