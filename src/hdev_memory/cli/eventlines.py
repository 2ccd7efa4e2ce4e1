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
from typing import IO, Annotated, Final, Literal

import msgspec

from hdev_memory import __version__
from hdev_memory.core.approval import Decision, Worth
from hdev_memory.core.audit import HeadText, Time
from hdev_memory.core.digest import Digest, NamedDigest
from hdev_memory.core.entry import Value
from hdev_memory.core.plan import Count, Summary
from hdev_memory.core.rules import Level
from hdev_memory.errors import HdevError

FORMAT: Final = "hdev-events/1"

Side = Literal["source", "target"]
Status = Annotated[int, msgspec.Meta(ge=0, le=255)]
"""An exit status; cli.md has the table of them."""


class Line(Value, frozen=True, tag_field="type"):
    """The base of every line; `type` tells which it is."""


class Version(Line, frozen=True, tag="version"):
    """The first line."""

    format: Literal["hdev-events/1"] = FORMAT
    tool: str = f"hdev-memory {__version__}"


class Progress(Line, frozen=True, tag="progress"):
    """So many entries are through a stage, and so many bytes of their content.

    `total` is null where it is not known; of `source` and `target` it is a guess until the end.
    `seconds` is how long the stage has taken, `left` how many more it is likely to take, null where
    nobody can know.
    """

    stage: Literal["source", "target", "compare", "write"]
    done: Count
    total: Count | None
    bytes: Count
    seconds: Annotated[float, msgspec.Meta(ge=0)]
    left: Count | None


class Outside(Line, frozen=True, tag="outside"):
    """One end holds entries that the plan did not see; they are left alone."""

    side: Side
    entries: Count


class Drift(Line, frozen=True, tag="drift"):
    """An entry that is not as the plan says.

    `metadata` tells how the source's metadata differs from the target's, where both can be read.
    """

    side: Side
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


class Setting(Line, frozen=True, tag="setting"):
    """One setting, and where it comes from; `value` is null for a key, which is never shown."""

    name: str
    value: str | None
    origin: str


class Environment(Line, frozen=True, tag="environment"):
    """One environment; `key` tells whether it has a key."""

    name: str
    endpoint: str
    key: bool
    origin: str


class Backup(Line, frozen=True, tag="backup"):
    """The pre-images of one plan; `finished` is null where its run is not finished."""

    plan: str
    entries: Count
    bytes: Count
    finished: Time | None


class Pruned(Line, frozen=True, tag="pruned"):
    """The pre-images of one plan, which were removed, or would be with `--dry-run`."""

    plan: str
    entries: Count
    bytes: Count


class Spared(Line, frozen=True, tag="spared"):
    """A plan whose pre-images may not be removed, and why."""

    plan: str
    why: str


class Checking(Line, frozen=True, tag="checking"):
    """The store that is put through the checks, and the prefix that they work below."""

    kind: str
    location: str
    store: str | None
    prefix: str


class Check(Line, frozen=True, tag="check"):
    """How one check went.

    `expected` and `found` are null unless it failed, `reason` unless it is not applicable.
    """

    check: str
    group: str
    promise: str
    outcome: Literal["ok", "failed", "not applicable"]
    expected: str | None = None
    found: str | None = None
    reason: str | None = None
    notes: tuple[str, ...] = ()


class Left(Line, frozen=True, tag="left"):
    """What the checks could not remove, or may have left behind: entries, and empty folders."""

    entries: tuple[str, ...]
    folders: tuple[str, ...]
    reason: str


class Disagreement(Line, frozen=True, tag="disagreement"):
    """A write of which a plan's log and its server's log do not tell the same.

    `kind` is one of `missing here`, `missing there`, `failed here`, `unknown there`, `differs`.
    """

    kind: str
    run: str
    key: str
    here: str
    there: str


class Later(Line, frozen=True, tag="later"):
    """An entry of a plan that somebody else wrote after it; `plan` is empty for no plan."""

    key: str
    by: str
    time: str
    plan: str
    seq: int


class Error(Line, frozen=True, tag="error"):
    """The last line of a command that was refused or failed."""

    exit: Status
    what: str
    why: str
    hint: str


class Ending(Line, frozen=True, tag="summary"):
    """The base of the last line of a command that came to its end."""

    exit: Status


class PlanEnding(Ending, frozen=True, tag="summary"):
    """The plan that was made; `summary` is its own."""

    plan: str
    plan_id: NamedDigest
    effect: Digest
    summary: Summary
    command: Literal["plan"] = "plan"


class RollbackEnding(Ending, frozen=True, tag="summary"):
    """The plan that was made; `undoes` is the id of the one that it undoes."""

    plan: str
    plan_id: NamedDigest
    effect: Digest
    summary: Summary
    undoes: NamedDigest
    command: Literal["rollback"] = "rollback"


class ApplyEnding(Ending, frozen=True, tag="summary"):
    """`head` is null where there was nothing to do; `counts` are those of the receipt.

    `signed_with` is the fingerprint of the key that signed the receipt, null for none.
    """

    plan: str
    plan_id: NamedDigest
    result: Literal["finished", "stopped", "nothing to do"]
    counts: dict[str, Count]
    durability: Literal["full", "none"]
    head: HeadText | None
    signed_with: str | None
    command: Literal["apply"] = "apply"


class VerifyEnding(Ending, frozen=True, tag="summary"):
    """How many entries of the target are as the plan leaves them, and how many are not."""

    plan_id: NamedDigest
    as_planned: Count
    differ: Count
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
    plan_id: NamedDigest
    dry_run: bool
    total: Count
    copied: Count
    skipped: Count
    failed: Count
    deleted: Count
    head: HeadText | None
    command: Literal["migrate-memory"] = "migrate-memory"


class ConfigShowEnding(Ending, frozen=True, tag="summary"):
    """How many settings and environments there are."""

    settings: Count
    environments: Count
    command: Literal["config show"] = "config show"


class ConfigEnding(Ending, frozen=True, tag="summary"):
    """How many environments there are, how many of them could not be opened, and the digest of the
    rules, as `--trust-digest` takes it."""

    environments: Count
    unreachable: Count
    trust_digest: str
    command: Literal["config check"] = "config check"


class BackupsEnding(Ending, frozen=True, tag="summary"):
    """How many plans keep pre-images."""

    backups: Count
    command: Literal["backups list"] = "backups list"


class PruneEnding(Ending, frozen=True, tag="summary"):
    """From how many plans pre-images were removed; with `dry_run`, would be."""

    dry_run: bool
    pruned: Count
    command: Literal["backups prune"] = "backups prune"


class LockEnding(Ending, frozen=True, tag="summary"):
    """Who holds a memory: `holder` is null where nobody does.

    `expires_in` is in seconds; null where the lock lasts as long as its process.
    """

    holder: str | None
    expires_in: Count | None
    command: Literal["lock status"] = "lock status"


class ReleaseEnding(Ending, frozen=True, tag="summary"):
    """Whether anybody had the lock that was broken."""

    released: bool
    command: Literal["lock release"] = "lock release"


class Capability(Value, frozen=True):
    """One line of a backend's capability card."""

    name: str
    declared: str
    observed: str


class CheckEnding(Ending, frozen=True, tag="summary"):
    """How the checks went; `unwritable` says why nothing could be written, empty where it could."""

    ok: Count
    failed: Count
    not_applicable: Count
    unwritable: str
    stopped: bool
    card: tuple[Capability, ...]
    command: Literal["backend check"] = "backend check"


class AuditEnding(Ending, frozen=True, tag="summary"):
    """How long the log is and where it ends; `anchored` where what was asked for vouches for it.

    `anchored_to` is the last record that something from outside vouches for, 0 for none;
    `signed_by` is the principal and the key that have signed the receipt, null for none.
    """

    plan_id: NamedDigest
    records: Count
    head: HeadText
    anchored: bool
    anchored_to: Count
    signed_by: str | None
    command: Literal["audit verify"] = "audit verify"


class AuditSignEnding(Ending, frozen=True, tag="summary"):
    """The head that was signed with the receipt, and the fingerprint of the key."""

    plan_id: NamedDigest
    head: HeadText
    signed_with: str
    command: Literal["audit sign"] = "audit sign"


class CompareEnding(Ending, frozen=True, tag="summary"):
    """`head` and `server_head` are the ends of the two logs."""

    plan_id: str
    agree: int
    settled: int
    disagree: int
    later: int
    head: str
    server_head: str
    command: Literal["audit compare"] = "audit compare"


def kinds() -> list[type[Line]]:
    """Every kind of line, in the order of this file."""
    found: list[type[Line]] = []
    for kind in (*Line.__subclasses__(), *Ending.__subclasses__()):
        if kind is not Ending and kind not in found:
            found.append(kind)
    return found


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
