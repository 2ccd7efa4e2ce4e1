"""`hdev memory-server`: serve a memory over HTTP."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    import contextlib
    import socket
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from hdev_memory.backends.base import Secret, Where


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
    storage: Annotated[
        str | None,
        typer.Option(
            "--storage",
            metavar="PLACE",
            help="The memory: PATH, sqlite:PATH or postgres://HOST/DATABASE.",
        ),
    ] = None,
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
    workers: Annotated[
        int,
        typer.Option(
            "--workers", metavar="N", min=1, max=64, help="Processes; more than 1 on a database."
        ),
    ] = 1,
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
    trusted_proxy: Annotated[
        list[str] | None,
        typer.Option(
            "--trusted-proxy",
            metavar="ADDRESS",
            help="A proxy, or network, whose X-Forwarded-For tells the client; repeatable.",
        ),
    ] = None,
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
    from pathlib import Path

    from hdev_memory.backends.base import Secret
    from hdev_memory.cli import context as shared
    from hdev_memory.cli import steps
    from hdev_memory.config import environ_key
    from hdev_memory.server.logs import configure

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
    where = _storage(context, storage, storage_path, backend)
    proxies = _proxies(trusted_proxy or ())
    stack = context.with_resource(contextlib.ExitStack())
    counts = _counted_together(stack, workers)
    # What is imported from here on counts where that folder is, if there is one.
    from hdev_memory.server import keysfile
    from hdev_memory.server import storage as storages
    from hdev_memory.server.app import create_app
    from hdev_memory.server.audit import AUDIT_FILE
    from hdev_memory.server.limits import Limits
    from hdev_memory.server.metrics import Metrics
    from hdev_memory.server.run import descriptors_for, listen_each, run

    if workers > 1 and not storages.shareable(where):
        _refuse_workers(where)
    listed = os.path.lexists(keys)
    _check_keys(host, full, read_only, keys, listed=listed, named=keys_file != DEFAULT_KEYS)
    if where.kind == "filesystem":
        root = Path(where.location)
        _refuse_inside(root, keys, "--keys-file")
        if log_file is not None and log_file != root / AUDIT_FILE:
            _refuse_inside(root, log_file, "--audit-log")
    elif where.kind in storages.DATABASES and log_file is not None:
        _refuse_log()
    if listed and keysfile.read(keys).readable:
        shared.warn(f"{keys} can be read by other users; chmod 600 keeps them out.")
    limits = Limits(entry_bytes=max_entry_bytes, connections=max_connections)
    if missing := descriptors_for(limits):
        shared.warn(f"{missing} of {max_connections} connections have no descriptor: ulimit -n.")
    sockets = [
        stack.enter_context(contextlib.closing(opened))
        for opened in listen_each(host, port, workers)
    ]
    bound = sockets[0].getsockname()[1]

    def serve(opened: socket.socket, answering: Callable[[str], None], life: int | None) -> None:
        with storages.opened(
            where, log_file=log_file, clock=time.monotonic, now=shared.now, warn=shared.warn
        ) as kept:
            app = create_app(
                kept.backend,
                store_id=kept.store_id,
                api_key=full,
                read_only_api_key=read_only,
                keys_file=keys,
                limits=limits,
                require_preconditions=require_preconditions,
                journal=kept.journal,
                log=kept.log,
                lock=kept.lock,
                clock=time.monotonic,
                now=shared.now,
                metrics=Metrics(counts),
            )
            shown = storage_path if storage is None and where.kind == "filesystem" else kept.shown
            again = app.state.access.look_again if listed else None
            ready = partial(answering, shown)
            run(
                app,
                opened,
                ready,
                again,
                drain=drain,
                grace=grace,
                life=life,
                proxies=proxies,
            )

    def ready(shown: str) -> None:
        name = f"[{host}]" if ":" in host else host
        place = f"http://{name}:{bound}"
        print(f"Memory server ready on {place} (storage: {shown})", flush=True)

    if counts is None:
        serve(sockets[0], ready, None)
        return 0
    return _watched(sockets, serve, ready, counts, reload=listed, patience=drain + grace + 10)


def _counted_together(stack: contextlib.ExitStack, workers: int) -> Path | None:
    """The folder in which several workers count together; it and its name in the environment are
    gone with the stack."""
    import os
    import tempfile
    from pathlib import Path

    if workers == 1:
        os.environ.pop("PROMETHEUS_MULTIPROC_DIR", None)
        return None
    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="hdev-memory-server-"))
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
    stack.callback(os.environ.pop, "PROMETHEUS_MULTIPROC_DIR", None)
    return Path(folder)


def _watched(
    sockets: list[socket.socket],
    serve: Callable[[socket.socket, Callable[[str], None], int], None],
    ready: Callable[[str], None],
    counts: Path,
    *,
    reload: bool,
    patience: float,
) -> int:
    """The exit status of a server of several workers."""
    from hdev_memory.cli import show_error
    from hdev_memory.errors import HdevError
    from hdev_memory.server.metrics import buried
    from hdev_memory.server.workers import Supervisor

    def work(opened: socket.socket, answering: Callable[[str], None], life: int) -> int:
        try:
            serve(opened, answering, life)
        except HdevError as error:
            show_error(error)
            return error.exit_code
        return 0

    return Supervisor(
        sockets,
        work,
        ready=ready,
        buried=partial(buried, counts),
        reload=reload,
        patience=patience,
    ).run()


def _refuse_workers(where: Where) -> None:
    from hdev_memory.errors import UsageError

    kind = "A folder" if where.kind == "filesystem" else "An ephemeral memory"
    raise UsageError(
        "This storage is served by one process.",
        why=f"{kind} has one writer, which knows of every write.",
        hint="Give --storage sqlite:PATH or postgres://HOST/DATABASE, or leave --workers out.",
    )


def _storage(context: typer.Context, storage: str | None, storage_path: str, backend: str) -> Where:
    """Where the memory is, as the flags say it. Raises UsageError where they contradict."""
    import os
    from pathlib import Path

    from hdev_memory.cli import context as shared
    from hdev_memory.config import storage_of
    from hdev_memory.errors import UsageError

    if storage is None:
        storage = f"filesystem:{storage_path}" if backend == "filesystem" else backend
    else:
        for name in ("storage_path", "backend"):
            source = context.get_parameter_source(name)
            if source is not None and source.name == "COMMANDLINE":
                raise UsageError(
                    "The storage of the server is not clear.",
                    why=f"Both --storage and --{name.replace('_', '-')} were given.",
                    hint="Give --storage alone.",
                )
    where, warnings = storage_of(storage, os.environ, Path.cwd(), shared.home())
    for warning in warnings:
        shared.warn(warning)
    return where


def _proxies(given: Sequence[str]) -> list[str]:
    """The addresses and networks of proxies. Raises UsageError where one is neither."""
    import ipaddress

    from hdev_memory.errors import UsageError

    for text in given:
        try:
            ipaddress.ip_network(text)
        except ValueError as error:
            raise UsageError(
                "A trusted proxy is an address or a network.",
                why=f"--trusted-proxy was {text!r}: {error}.",
                hint="Give for example --trusted-proxy 10.0.0.5 or --trusted-proxy 10.0.0.0/24.",
            ) from None
    return list(given)


def _refuse_log() -> None:
    from hdev_memory.errors import UsageError

    raise UsageError(
        "--audit-log says nothing for a database.",
        why="A database keeps the log beside the entries, so that both take effect together.",
        hint="Leave it out; GET /api/audit and `hdev audit compare` read the log.",
    )


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
