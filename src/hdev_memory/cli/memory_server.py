"""`hdev memory-server`: serve a memory over HTTP."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from pathlib import Path

    from hdev_memory.backends.base import Secret


KeysFile = Annotated[
    str,
    typer.Option(
        "--keys-file", metavar="FILE", help="The API keys that `memory-server keys` manages."
    ),
]
DEFAULT_KEYS = "~/.hdev/server-keys.json"


def memory_server(
    context: typer.Context,
    host: Annotated[str, typer.Option("--host", help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int,
        typer.Option(
            "--port", metavar="N", envvar="PORT", min=0, max=65535, help="0 takes a free port."
        ),
    ] = 8080,
    storage_path: Annotated[
        str, typer.Option("--storage-path", metavar="PATH", help="The folder; made when missing.")
    ] = "~/.hdev/memory",
    api_key: Annotated[
        str | None,
        typer.Option("--api-key", metavar="KEY", help="The key; else HDEV_MEMORY_API_KEY"),
    ] = None,
    read_only_api_key: Annotated[
        str | None,
        typer.Option(
            "--read-only-api-key",
            metavar="KEY",
            help="A key that may only read.",
        ),
    ] = None,
    keys_file: KeysFile = DEFAULT_KEYS,
    audit_log: Annotated[
        str | None,
        typer.Option(
            "--audit-log",
            metavar="FILE",
            help="The log of writes; else .hdev-audit.jsonl in the storage.",
        ),
    ] = None,
    max_entry_bytes: Annotated[
        int,
        typer.Option(
            "--max-entry-bytes", metavar="N", min=1, help="Larger entries are refused (413)."
        ),
    ] = 1024 * 1024,
    require_preconditions: Annotated[
        bool,
        typer.Option(
            "--require-preconditions", help="Refuse writes without If-Match or If-None-Match (428)."
        ),
    ] = False,
    backend: Annotated[
        Literal["filesystem", "ephemeral"],
        typer.Option("--backend", metavar="KIND", help="filesystem or ephemeral."),
    ] = "filesystem",
    log_level: Annotated[
        Literal["debug", "info", "warning", "error", "critical"],
        typer.Option(
            "--log-level",
            metavar="LEVEL",
            case_sensitive=False,
            help="debug, info, warning, error or critical.",
        ),
    ] = "warning",
    log_format: Annotated[
        Literal["text", "json"],
        typer.Option("--log-format", metavar="FORM", help="text, or json: an object a line."),
    ] = "text",
    max_connections: Annotated[
        int,
        typer.Option(
            "--max-connections", metavar="N", min=1, help="Requests of more are answered with 503."
        ),
    ] = 1000,
    drain: Annotated[
        float,
        typer.Option(
            "--drain",
            metavar="SECONDS",
            min=0,
            max=3600,
            help="How long to go on when told to end, with /readyz at 503.",
        ),
    ] = 0,
    grace: Annotated[
        float,
        typer.Option(
            "--grace",
            metavar="SECONDS",
            min=0,
            max=3600,
            help="Then, how long to finish the requests that were taken.",
        ),
    ] = 30,
    no_web_ui: Annotated[
        bool, typer.Option("--no-web-ui", help="Accepted; there is no web UI.")
    ] = False,
    disable_s3_backup: Annotated[
        bool, typer.Option("--disable-s3-backup", help="Accepted; there is no S3 backup.")
    ] = False,
    s3_bucket: Annotated[str | None, typer.Option("--s3-bucket", help="Accepted, unused.")] = None,
    s3_region: Annotated[str | None, typer.Option("--s3-region", help="Accepted, unused.")] = None,
    s3_endpoint_url: Annotated[
        str | None, typer.Option("--s3-endpoint-url", help="Accepted, unused.")
    ] = None,
) -> int:
    """Serve a memory over HTTP, on loopback unless told otherwise; ends on SIGINT or SIGTERM."""
    if context.invoked_subcommand is not None:
        return _none_given(context)

    import contextlib
    import os
    import time
    import uuid
    from pathlib import Path

    from hdev_memory.backends.base import Backend, Secret
    from hdev_memory.backends.ephemeral import EphemeralBackend
    from hdev_memory.backends.filesystem import FilesystemBackend
    from hdev_memory.cli import context as shared
    from hdev_memory.cli import steps
    from hdev_memory.config import environ_key
    from hdev_memory.errors import StoreError
    from hdev_memory.server.app import create_app
    from hdev_memory.server.audit import AUDIT_FILE, ServerLog
    from hdev_memory.server.journal import Journal
    from hdev_memory.server.lease import FENCE_FILE, Fences
    from hdev_memory.server.limits import Limits
    from hdev_memory.server.logs import configure
    from hdev_memory.server.run import listen, run
    from hdev_memory.server.store import NORMAL, store_identity

    configure(log_level, log_format)
    if s3_bucket and not disable_s3_backup:
        shared.warn("S3 backup is no part of this server; the S3 flags do nothing.")
    full, read_only = steps.from_argv(api_key, read_only_api_key)
    if full is None and (found := environ_key(os.environ, "HDEV_MEMORY_API_KEY")):
        full = Secret(found.value)
    if read_only is None and (found := environ_key(os.environ, "HDEV_MEMORY_READ_ONLY_API_KEY")):
        read_only = Secret(found.value)
    keys = Path(keys_file).expanduser().absolute()
    log_file = Path(audit_log).expanduser().absolute() if audit_log is not None else None
    root = Path(storage_path).expanduser().absolute()
    listed = os.path.lexists(keys)
    _check_keys(host, full, read_only, keys, listed=listed, named=keys_file != DEFAULT_KEYS)
    if backend == "filesystem":
        _refuse_inside(root, keys, "--keys-file")
        if log_file is not None and log_file != root / AUDIT_FILE:
            _refuse_inside(root, log_file, "--audit-log")
    with contextlib.ExitStack() as stack:
        log: ServerLog | None = None
        journal: Journal | None = None
        if backend == "ephemeral":
            shown = "this process, gone when it ends"
            store: Backend = EphemeralBackend()
            identity = str(uuid.uuid4())
            fences = Fences()
        else:
            shown = storage_path
            try:
                root.mkdir(parents=True, exist_ok=True)
                store = stack.enter_context(FilesystemBackend(str(root), must_exist=True))
                # Before anything of an earlier server is touched: it may still be running.
                stack.enter_context(store.hold(f"hdev memory-server, process {os.getpid()}"))
                identity = store_identity(root)
                fences = Fences(root / FENCE_FILE)
                journal = stack.enter_context(contextlib.closing(Journal(root)))
            except OSError as error:
                raise StoreError(
                    "The storage folder cannot be used.",
                    why=f"{root}: {error.strerror}.",
                    hint="Give a folder that this user may write to with --storage-path.",
                ) from None
            log_file = log_file if log_file is not None else root / AUDIT_FILE
        if log_file is not None:
            log = stack.enter_context(ServerLog(log_file, shared.now))
            if log.torn:
                shared.warn(f"a torn last line of {log_file} was kept aside as {log.torn}.")
        if journal is not None:
            recovered = journal.recover(store, NORMAL, log)
            for key in recovered.left:
                shared.warn(f"{key} was changed since a server was cut off in it; left alone.")
            for name in recovered.kept:
                shared.warn(f"bytes that nobody planned to replace were kept as {name}.")
            if not recovered.logged:
                shared.warn(f"{log_file} is not the audit log of the server that was cut off.")
        app = create_app(
            store,
            store_id=identity,
            api_key=full,
            read_only_api_key=read_only,
            keys_file=keys,
            limits=Limits(entry_bytes=max_entry_bytes, connections=max_connections),
            require_preconditions=require_preconditions,
            journal=journal,
            log=log,
            fences=fences,
            clock=time.monotonic,
            now=shared.now,
        )
        if app.state.access.readable:
            shared.warn(f"{keys} can be read by other users; chmod 600 keeps them out.")
        opened = stack.enter_context(listen(host, port))
        bound = opened.getsockname()[1]
        name = f"[{host}]" if ":" in host else host

        def ready() -> None:
            print(f"Memory server ready on http://{name}:{bound} (storage: {shown})", flush=True)

        again = app.state.access.look_again if listed else None
        run(app, opened, ready, again, drain=drain, grace=grace)
    return 0


def _none_given(context: typer.Context) -> int:
    """Raises UsageError for a flag of the server before a command that starts no server."""
    from hdev_memory.errors import UsageError

    for name in context.params:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            flag = f"--{name.replace('_', '-')}"
            raise UsageError(
                "The flags of the server say nothing to this command.",
                why=f"{flag} stands before {context.invoked_subcommand}.",
                hint="Leave it out, or give it behind the command if it takes it.",
            )
    return 0


def _check_keys(
    host: str,
    full: Secret | None,
    read_only: Secret | None,
    keys: Path,
    *,
    listed: bool,
    named: bool,
) -> None:
    """Raises UsageError where the server would be open to more than it should."""
    import ipaddress

    from hdev_memory.errors import UsageError

    if named and not listed:
        raise UsageError(
            "There is no such file of keys.",
            why=f"{keys} is missing.",
            hint="`hdev memory-server keys add NAME --role write --keys-file FILE` makes it.",
        )
    try:
        local = ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = host == "localhost"
    if listed:
        return
    if not local and full is None:
        raise UsageError(
            "A server that other machines can reach needs a key.",
            why="The address is not loopback, and no key was given.",
            hint="Set HDEV_MEMORY_API_KEY, or make keys with `hdev memory-server keys add`, or "
            "leave --host out.",
        )
    if full is None and read_only is not None:
        raise UsageError("A read-only key needs a full key beside it.", hint="Give --api-key too.")


def _refuse_inside(root: Path, file: Path, flag: str) -> None:
    import os

    from hdev_memory.errors import UsageError

    place = os.path.realpath(file)
    if os.path.commonpath([place, os.path.realpath(root)]) == os.path.realpath(root):
        raise UsageError(
            "This file would lie inside the memory that is served.",
            why=f"{file} is in {root}.",
            hint=f"Give a file elsewhere with {flag}.",
        )
