"""Parse, call, print, exit: the frame of the command line, one file per command.

Only the module of the command in use is imported; for the others their help line here is enough.
That keeps `hdev --help` close to the cost of Typer itself.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
import sys
from collections.abc import Callable, Collection, Sequence
from importlib import import_module
from typing import Annotated, Any, NoReturn

import typer

from hdev_memory.errors import HdevError

USAGE_EXIT = 64
_INTERRUPTED = 130

COMMANDS: dict[str, tuple[str, str]] = {
    "plan": ("plan:plan", "Compare two memories and write a plan to review."),
    "show": ("show:show", "Show a plan for review."),
    "diff": ("diff:diff", "Tell what changed between two plans."),
    "approve": ("approve:approve", "Sign that a plan may, or must not, be applied."),
    "approvals": ("approvals:approvals", "List a plan's approvals, and what each is worth."),
    "policy check": ("policy:policy_check", "Tell what the policies find in a plan."),
    "policy explain": ("policy:policy_explain", "Tell what the rules of a policy are."),
    "policy override": ("policy:policy_override", "Sign that soft findings shall not stop a plan."),
    "apply": ("apply:apply", "Carry out exactly a plan, if nothing has drifted."),
    "verify": ("verify:verify", "Re-read the target and compare it with a plan."),
    "rollback": ("rollback:rollback", "Write a plan that undoes another one."),
    "audit verify": ("audit:audit_verify", "Check the audit log of a plan."),
    "audit compare": ("audit_compare:audit_compare", "Compare a plan's log with its server's."),
    "audit show": ("audit_show:audit_show", "Show the audit log of a plan as a timeline."),
    "audit sign": ("audit:audit_sign", "Sign the receipt of a plan's last run."),
    "audit export": ("audit_export:audit_export", "Write an in-toto statement of a plan's run."),
    "migrate-memory": ("migrate_memory:migrate_memory", "Plan and apply in one step."),
    "memory-server": ("memory_server:memory_server", "Serve a memory over HTTP."),
    "memory-server keys add": ("server_keys:keys_add", "Make an API key, and print it once."),
    "memory-server keys list": ("server_keys:keys_list", "Tell the names and roles of the keys."),
    "memory-server keys revoke": ("server_keys:keys_revoke", "Make an API key useless."),
    "session": ("session:session", "Take !migrate_memory commands from a prompt or a pipe."),
    "lock status": ("lock:lock_status", "Tell who holds a memory."),
    "lock release": ("lock:lock_release", "Break the lock of a memory server."),
    "backups list": ("backups:backups_list", "List the pre-images that plans have kept."),
    "backups prune": ("backups:backups_prune", "Remove pre-images of finished plans."),
    "config show": ("config:config_show", "Show each setting and where it comes from."),
    "config check": ("config:config_check", "Check the configuration."),
    "backend check": ("backend:backend_check", "Check that a store keeps a backend's promises."),
    "schema": ("schema:schema", "Print a JSON Schema of what this program writes."),
    "ci comment": ("ci:ci_comment", "Write the review of a plan into its pull request."),
    "ci summary": ("ci:ci_summary", "Add the review of a plan to the summary of a job."),
    "ci outputs": ("ci:ci_outputs", "Tell the later steps of a pipeline about a plan."),
    "ci labels": ("ci:ci_labels", "Label a pull request with what its plan does."),
    "ci report": ("ci:ci_report", "Write the report that GitLab's widget shows."),
    "demo": ("demo:demo", "Show the whole workflow on a throw-away example."),
}
"""Command -> (module:function, help line); `hdev --help` lists groups behind the others."""

GROUPS = {
    "audit": "Check, show, sign and export audit logs.",
    "backend": "Put a store through the promises of a backend.",
    "backups": "List and remove pre-images.",
    "ci": "Bring a plan into the review of a pull request.",
    "config": "Look at the configuration.",
    "policy": "Judge plans by rules, and lift soft findings.",
    "lock": "See and break the lock on a memory.",
    "memory-server keys": "Make, list and revoke the API keys of a server.",
}

_HELP_NAMES = {"help_option_names": ["-h", "--help"]}


def _version(wanted: bool) -> None:
    if wanted:
        from hdev_memory import __version__

        print(f"hdev-memory {__version__}")
        raise typer.Exit


def _root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Plan, review, apply and audit migrations of AI-agent memory."""


def needed(argv: Sequence[str]) -> frozenset[str]:
    """The commands that `argv`, or a shell completion, needs whole."""
    words = [word for word in argv if not word.startswith("-")][:3]
    everything = any(name.endswith("_COMPLETE") for name in os.environ)
    paths = {name: name.split() for name in COMMANDS}
    return frozenset(
        name
        for name, path in paths.items()
        if everything or words[: len(path)] == path or words[: len(path) - 1] == path[:-1] != []
    )


def build(whole: Collection[str]) -> typer.Typer:
    """The program, with real commands for those that are needed `whole`; of the others, the name
    and the help line."""
    app = typer.Typer(
        name="hdev",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,  # rich costs a help page as much as all the rest
        context_settings=_HELP_NAMES,
    )
    app.callback()(_root)
    groups: dict[str, typer.Typer] = {"": app}
    for name, (place, text) in COMMANDS.items():
        path = name.split()
        function = _load(place) if name in whole else _placeholder
        told = _paragraphs(function.__doc__ or "") if name in whole else text
        parent, inner = _group(groups, path[:-1]), path[-1]
        if any(other.startswith(f"{name} ") for other in COMMANDS):
            # A command that has commands of its own, such as memory-server.
            groups[name] = typer.Typer(
                invoke_without_command=True, help=told, context_settings=_HELP_NAMES
            )
            groups[name].callback()(function)
            parent.add_typer(groups[name], name=inner)
        else:
            parent.command(inner, help=told, context_settings=_HELP_NAMES)(function)
    return app


def _group(groups: dict[str, typer.Typer], path: list[str]) -> typer.Typer:
    """The group of this name, made with those above it where it is not there yet."""
    name = " ".join(path)
    if name not in groups:
        groups[name] = typer.Typer(
            no_args_is_help=True, help=GROUPS[name], context_settings=_HELP_NAMES
        )
        _group(groups, path[:-1]).add_typer(groups[name], name=path[-1])
    return groups[name]


def _load(place: str) -> Callable[..., Any]:
    module, _, function = place.partition(":")
    found: Callable[..., Any] = getattr(import_module(f"hdev_memory.cli.{module}"), function)
    return found


def _paragraphs(docstring: str) -> str:
    """A docstring with each paragraph on one line, for Typer to wrap: it keeps line breaks."""
    import inspect

    parts = inspect.cleandoc(docstring).split("\n\n")
    return "\n\n".join(" ".join(part.split()) for part in parts)


@functools.cache
def _parser(whole: frozenset[str]) -> Callable[..., Any]:
    """What `build` gives, ready to be called: that takes longer than many a command, and a session
    runs one after another."""
    return typer.main.get_command(build(whole))


def _placeholder() -> None:
    raise AssertionError("a command that was not loaded")


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run a command line, and exit with the status of DESIGN section 7."""
    words = list(sys.argv[1:] if argv is None else argv)
    _prepare_stdout()
    status = 0
    try:
        status = run(words)
        sys.stdout.flush()
    except BrokenPipeError:
        status = 141  # whoever read us has gone; nothing more can be said on this descriptor
        _mute()
    except OSError as error:
        if status == 0:
            from hdev_memory.cli.context import unwritten

            show_error(unwritten(error))
            status = 1
        _mute()
    sys.exit(status)


def _prepare_stdout() -> None:
    """Let no text fail for its characters: what an encoding lacks is spelled out, as on stderr."""
    if sys.stdout is None:  # closed by whoever started us: nobody listens
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - open as long as the program runs
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _mute() -> None:
    """Drop what could not be written; Python would try once more at its end, and exit with 120."""
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def run(words: list[str]) -> int:
    """Run a command line and return its exit status; errors are printed on stderr."""
    try:
        status = _parser(needed(words))(
            args=words or ["--help"], prog_name="hdev", standalone_mode=False
        )
        if status == _INTERRUPTED:  # what Typer makes of a KeyboardInterrupt
            raise KeyboardInterrupt
        return status if isinstance(status, int) else 0
    except HdevError as error:
        show_error(error)
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        show_interrupt()
        return _INTERRUPTED
    except SystemExit:  # what Typer makes of a BrokenPipeError
        raise BrokenPipeError from None
    except BrokenPipeError:
        raise
    except Exception as error:  # noqa: BLE001 - the last line of defence against tracebacks
        if hasattr(error, "format_message"):
            return _usage(error, words)
        return _bug(error)


def _usage(error: Any, words: list[str]) -> int:
    """A usage error of Typer, whose own exit status 2 means changes here."""
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "hdev"
    text = " ".join(error.format_message().split())
    show_error(
        HdevError(
            "The command line is wrong.", why=text, hint=f"{path} --help tells what it takes."
        )
    )
    return USAGE_EXIT


def _bug(error: Exception) -> int:
    if os.environ.get("HDEV_DEBUG"):
        import traceback

        traceback.print_exception(error)
    show_error(bug(error))
    return 1


def bug(error: Exception) -> HdevError:
    """What to say of an unexpected exception; its text stays out, it may quote what was read."""
    return HdevError(
        "hdev-memory has met a bug in itself.",
        why=f"{type(error).__name__}.",
        hint="Run it again with HDEV_DEBUG=1 for the traceback, and report it.",
    )


def show_interrupt() -> None:
    """What to say of a KeyboardInterrupt; where writes have begun there is none, but an error."""
    print("Interrupted; nothing was written.", file=sys.stderr)


def show_error(error: HdevError) -> None:
    """What happened, why, and what to do next, on stderr."""
    from hdev_memory.cli.context import colour
    from hdev_memory.review.inert import inert

    start, end = ("\x1b[1;31m", "\x1b[0m") if colour(sys.stderr) else ("", "")
    print(f"{start}Error:{end} {inert(error.what)}", file=sys.stderr)
    if error.why:
        print(f"  Why: {inert(error.why)}", file=sys.stderr)
    if error.hint:
        print(f"  Next: {inert(error.hint)}", file=sys.stderr)
