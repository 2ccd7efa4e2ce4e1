"""`hdev backend`: put a store through the promises that every backend makes."""

from __future__ import annotations

import contextlib
import re
import shutil
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from hdev_memory.cli import options as flags

if TYPE_CHECKING:
    from hdev_memory.backends.base import Backend, Where
    from hdev_memory.conformance.run import Left, Result, Summary

FORMAT = "hdev-check/1"


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
) -> int:
    """Check that a store keeps what a backend promises; exit 1 when a promise is broken.

    Writes below a fresh prefix only, and removes what it wrote; other entries are read.
    """
    import secrets
    from random import Random

    from hdev_memory.backends import open_backend
    from hdev_memory.cli import context, steps
    from hdev_memory.conformance.run import run
    from hdev_memory.conformance.subject import Subject

    where = steps.one_end(context.settings(), endpoint, api_key, insecure_http=insecure_http)
    token = secrets.token_hex(6)
    below = f"{_checked(prefix)}-{token}"
    stopper = steps.Stopper()
    with open_backend(where, must_exist=True) as backend, stopper.installed():

        def again() -> Backend:
            # An ephemeral store is this very object, and has nothing to close.
            return backend if where.kind == "ephemeral" else open_backend(where, must_exist=True)

        shown = _Json() if json else _Lines()
        shown.begin(backend, below)
        # The prefix holds the seed, so that a failure can be looked into.
        random = Random(token)  # noqa: S311
        subject = Subject(backend, again, below, random, sweep=partial(_sweep, where, below))
        summary = run(subject, shown.tell, stop=stopper.asked)
        shown.end(summary)
    _require_complete(summary, where.kind)
    return 1 if summary.failed else 0


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


def _require_complete(summary: Summary, kind: str) -> None:
    from hdev_memory.errors import InterruptedEarly, KeyRefusedError, StoreError

    if summary.stopped:
        raise InterruptedEarly(
            "The check was interrupted.",
            why="What it had written was removed, but for what is named above.",
        )
    if summary.unwritable:
        refused = KeyRefusedError if kind == "http" else StoreError
        raise refused(
            "Nothing could be checked for writing.",
            why=f"{summary.unwritable}.",
            hint="Check it with a key, or as a user, that may write.",
        )


class _Lines:
    """One line for each check, then the capability card, for people."""

    def begin(self, backend: Backend, below: str) -> None:
        endpoint = backend.endpoint
        store = f", store {endpoint.store}" if endpoint.store else ""
        self._say(f"Checking {endpoint.kind} {endpoint.location}{store}")
        self._say(f"Working below {below}/")
        self._say("")

    def tell(self, item: Result | Left) -> None:
        from hdev_memory.conformance.checks import CHECKS
        from hdev_memory.conformance.run import Broken, Kept, Left, Skipped

        if isinstance(item, Left):
            self._left(item)
            return
        check = next(check for check in CHECKS if check.name == item.check)
        name = f"{check.group:<10}  {check.name}"
        match item:
            case Kept(notes=notes):
                self._say(f"ok      {name}")
            case Skipped(reason=reason, notes=notes):
                self._say(f"-       {name}: not applicable: {reason}")
            case Broken(expected=expected, found=found):
                notes = ()
                self._say(f"FAILED  {name}")
                self._say(f"          promise   {check.promise}")
                self._say(f"          expected  {expected}")
                self._say(f"          found     {found}")
        for note in notes:
            self._say(f"          note      {note}")

    def _left(self, left: Left) -> None:
        from hdev_memory.cli.context import warn

        if left.entries:
            reason = f" ({left.reason})" if left.reason else ""
            warn(f"{len(left.entries)} entries could not be removed, or may be left{reason}:")
            for key in left.entries:
                warn(f"  {key}")
        if left.folders:
            warn(f"{len(left.folders)} empty folders are left, for example {left.folders[0]}")

    def end(self, summary: Summary) -> None:
        rows = [("capability", "declared", "observed")]
        rows += [(row.name, row.declared, row.observed) for row in summary.card]
        first, second = (max(len(row[column]) for row in rows) for column in (0, 1))
        self._say("")
        for name, declared, observed in rows:
            self._say(f"{name:<{first}}  {declared:<{second}}  {observed}")
        self._say("")
        self._say(
            f"Checked: {summary.ok} ok, {summary.failed} failed, "
            f"{summary.not_applicable} not applicable."
        )

    @staticmethod
    def _say(text: str) -> None:
        from hdev_memory.cli.context import say
        from hdev_memory.review.inert import inert

        say(inert(text))


class _Json:
    """JSON lines: the version first, the summary with the card last."""

    def begin(self, backend: Backend, below: str) -> None:
        from hdev_memory import __version__

        self._print(
            "version",
            {
                "format": FORMAT,
                "tool": f"hdev-memory {__version__}",
                "endpoint": backend.endpoint,
                "prefix": below,
            },
        )

    def tell(self, item: Result | Left) -> None:
        from hdev_memory.conformance.checks import CHECKS
        from hdev_memory.conformance.run import Left

        if isinstance(item, Left):
            self._print("left", {name: getattr(item, name) for name in item.__struct_fields__})
            return
        check = next(check for check in CHECKS if check.name == item.check)
        about = {"group": check.group, "promise": check.promise}
        self._print("check", {**msgspec.to_builtins(item), **about})

    def end(self, summary: Summary) -> None:
        self._print("summary", msgspec.to_builtins(summary))

    @staticmethod
    def _print(kind: str, fields: dict[str, Any]) -> None:
        from hdev_memory.cli.context import print_json

        print_json(msgspec.to_builtins({"type": kind, **fields}))
