"""`hdev memory-server`: serve a memory over HTTP."""

from __future__ import annotations

from typing import Annotated, Literal

import typer


def memory_server(
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
            help="A key that may only read; else HDEV_MEMORY_READ_ONLY_API_KEY",
        ),
    ] = None,
    max_entry_bytes: Annotated[
        int,
        typer.Option(
            "--max-entry-bytes", metavar="N", min=1, help="Larger entries are refused (413)."
        ),
    ] = 1024 * 1024,
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
    import ipaddress
    import os
    import uuid
    from pathlib import Path

    from hdev_memory.backends.base import Secret
    from hdev_memory.backends.ephemeral import EphemeralBackend
    from hdev_memory.backends.filesystem import FilesystemBackend
    from hdev_memory.cli import context, steps
    from hdev_memory.config import environ_key
    from hdev_memory.errors import StoreError, UsageError
    from hdev_memory.server.app import create_app
    from hdev_memory.server.run import listen, run
    from hdev_memory.server.store import store_identity

    if s3_bucket and not disable_s3_backup:
        context.warn("S3 backup is no part of this server; the S3 flags do nothing.")
    full, read_only = steps.from_argv(api_key, read_only_api_key)
    if full is None and (found := environ_key(os.environ, "HDEV_MEMORY_API_KEY")):
        full = Secret(found.value)
    if read_only is None and (found := environ_key(os.environ, "HDEV_MEMORY_READ_ONLY_API_KEY")):
        read_only = Secret(found.value)
    try:
        local = ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = host == "localhost"
    if not local and full is None:
        raise UsageError(
            "A server that other machines can reach needs a key.",
            why="The address is not loopback, and no key was given.",
            hint="Set HDEV_MEMORY_API_KEY, or leave --host out.",
        )
    if full is None and read_only is not None:
        raise UsageError("A read-only key needs a full key beside it.", hint="Give --api-key too.")
    shown = storage_path
    if backend == "ephemeral":
        store = EphemeralBackend()
        app = create_app(
            store,
            store_id=str(uuid.uuid4()),
            api_key=full,
            read_only_api_key=read_only,
            max_entry_bytes=max_entry_bytes,
        )
        shown = "this process, gone when it ends"
    else:
        root = Path(storage_path).expanduser().absolute()
        try:
            root.mkdir(parents=True, exist_ok=True)
            identity = store_identity(root)
        except OSError as error:
            raise StoreError(
                "The storage folder cannot be used.",
                why=f"{root}: {error.strerror}.",
                hint="Give a folder that this user may write to with --storage-path.",
            ) from None
        app = create_app(
            FilesystemBackend(str(root), must_exist=True),
            store_id=identity,
            api_key=full,
            read_only_api_key=read_only,
            max_entry_bytes=max_entry_bytes,
        )
    opened = listen(host, port)
    bound = opened.getsockname()[1]
    name = f"[{host}]" if ":" in host else host

    def ready() -> None:
        print(f"Memory server ready on http://{name}:{bound} (storage: {shown})", flush=True)

    run(app, opened, ready, log_level)
    return 0
