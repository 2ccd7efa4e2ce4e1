"""`hdev backend`: put a store through the promises that every backend makes."""

from __future__ import annotations

import contextlib
import re
import shutil
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hdev_memory.cli import options as flags

if TYPE_CHECKING:
    from hdev_memory.backends.base import Backend, Where
    from hdev_memory.cli.eventlines import Lines
    from hdev_memory.conformance.run import Left, Result, Row, Summary
    from hdev_memory.errors import HdevError


def backend_check(
    endpoint: Annotated[
        str, typer.Argument(metavar="ENDPOINT", help="A folder, a server, or an environment.")
    ],
    api_key: flags.ApiKey = None,
    prefix: Annotated[
        str, typer.Option("--prefix", metavar="NAME", help="Work below NAME-<random>/.")
    ] = "hdev-check",
    insecure_http: flags.InsecureHttp = False,
    json: flags.Json = False,
    json_into: flags.JsonInto = None,
) -> int:
    """Check that a store keeps what a backend promises; exit 1 when a promise is broken.

    Writes below a fresh prefix only, and removes what it wrote; other entries are read.
    """
    import secrets
    from random import Random

    from hdev_memory.backends import open_backend
    from hdev_memory.cli import context, eventlines, steps
    from hdev_memory.conformance.run import run
    from hdev_memory.conformance.subject import Subject

    with contextlib.ExitStack() as stack:
        lines = stack.enter_context(eventlines.told(json=json, into=json_into))
        where = steps.one_end(context.settings(), endpoint, api_key, insecure_http=insecure_http)
        token = secrets.token_hex(6)
        below = f"{_checked(prefix)}-{token}"
        stopper = steps.Stopper()
        with open_backend(where, must_exist=True) as backend, stopper.installed():

            def again() -> Backend:
                # An ephemeral store is this very object, and has nothing to close.
                kept = where.kind == "ephemeral"
                return backend if kept else open_backend(where, must_exist=True)

            shown = _Shown(lines)
            shown.begin(backend, below)
            # The prefix holds the seed, so that a failure can be looked into.
            random = Random(token)  # noqa: S311
            subject = Subject(backend, again, below, random, sweep=partial(_sweep, where, below))
            summary = run(subject, shown.tell, stop=stopper.asked)
        incomplete = _incomplete(summary, where.kind)
        status = incomplete.exit_code if incomplete is not None else int(summary.failed > 0)
        shown.end(summary, status)
        if incomplete is not None:
            raise incomplete
        return status


def _checked(prefix: str) -> str:
    from hdev_memory.errors import UsageError

    if re.fullmatch(r"[A-Za-z0-9_-]{1,60}", prefix) is None:
        raise UsageError(
            "This is no name for a prefix.",
            why=f"--prefix was {prefix!r}.",
            hint="Use letters, digits, - and _, at most 60.",
        )
    return prefix


def _sweep(where: Where, below: str) -> None:
    """Remove our own folder, which no backend removes; there is none on a server."""
    if where.kind == "filesystem":
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(Path(where.location) / below)


def _incomplete(summary: Summary, kind: str) -> HdevError | None:
    """What kept the checks from saying anything of the store; None where they did."""
    from hdev_memory.errors import InterruptedEarly, KeyRefusedError, StoreError

    if summary.stopped:
        return InterruptedEarly(
            "The check was interrupted.",
            why="What it had written was removed, but for what is named above.",
        )
    if summary.unwritable:
        refused = KeyRefusedError if kind == "http" else StoreError
        return refused(
            "Nothing could be checked for writing.",
            why=f"{summary.unwritable}.",
            hint="Check it with a key, or as a user, that may write.",
        )
    return None


class _Shown:
    """Each check as an event line; for people a line for each, then the capability card."""

    def __init__(self, lines: Lines) -> None:
        self._lines = lines

    def begin(self, backend: Backend, below: str) -> None:
        from hdev_memory.cli.eventlines import Checking

        endpoint = backend.endpoint
        self._lines.emit(Checking(endpoint.kind, endpoint.location, endpoint.store, prefix=below))
        store = f", store {endpoint.store}" if endpoint.store else ""
        self._say(f"Checking {endpoint.kind} {endpoint.location}{store}")
        self._say(f"Working below {below}/")
        self._say("")

    def tell(self, item: Result | Left) -> None:
        from hdev_memory.cli.eventlines import Check
        from hdev_memory.conformance.checks import CHECKS
        from hdev_memory.conformance.run import Broken, Kept, Left, Skipped

        if isinstance(item, Left):
            self._left(item)
            return
        check = next(check for check in CHECKS if check.name == item.check)
        about = (check.name, check.group, check.promise)
        name = f"{check.group:<10}  {check.name}"
        match item:
            case Kept(notes=notes):
                self._lines.emit(Check(*about, "ok", notes=notes))
                self._say(f"ok      {name}")
            case Skipped(reason=reason, notes=notes):
                self._lines.emit(Check(*about, "not applicable", reason=reason, notes=notes))
                self._say(f"-       {name}: not applicable: {reason}")
            case Broken(expected=expected, found=found):
                notes = ()
                self._lines.emit(Check(*about, "failed", expected=expected, found=found))
                self._say(f"FAILED  {name}")
                self._say(f"          promise   {check.promise}")
                self._say(f"          expected  {expected}")
                self._say(f"          found     {found}")
        for note in notes:
            self._say(f"          note      {note}")

    def _left(self, left: Left) -> None:
        from hdev_memory.cli import eventlines
        from hdev_memory.cli.context import warn

        self._lines.emit(eventlines.Left(left.entries, left.folders, left.reason))
        if left.entries:
            reason = f" ({left.reason})" if left.reason else ""
            warn(f"{len(left.entries)} entries could not be removed, or may be left{reason}:")
            for key in left.entries:
                warn(f"  {key}")
        if left.folders:
            warn(f"{len(left.folders)} empty folders are left, for example {left.folders[0]}")

    def end(self, summary: Summary, status: int) -> None:
        from hdev_memory.cli.eventlines import Capability, CheckEnding

        self._lines.emit(
            CheckEnding(
                exit=status,
                ok=summary.ok,
                failed=summary.failed,
                not_applicable=summary.not_applicable,
                unwritable=summary.unwritable,
                stopped=summary.stopped,
                card=tuple(Capability(*_texts(row)) for row in summary.card),
            )
        )
        rows = [("capability", "declared", "observed")]
        rows += [_texts(row) for row in summary.card]
        first, second = (max(len(row[column]) for row in rows) for column in (0, 1))
        self._say("")
        for name, declared, observed in rows:
            self._say(f"{name:<{first}}  {declared:<{second}}  {observed}")
        self._say("")
        self._say(
            f"Checked: {summary.ok} ok, {summary.failed} failed, "
            f"{summary.not_applicable} not applicable."
        )

    def _say(self, text: str) -> None:
        from hdev_memory.cli.context import say_foreign

        if not self._lines.on_stdout:
            say_foreign(text)


def _texts(row: Row) -> tuple[str, str, str]:
    return row.name, row.declared, row.observed
