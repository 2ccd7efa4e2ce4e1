"""`hdev memory-server keys`: the API keys of a server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hdev_memory.cli import options as flags
from hdev_memory.cli.memory_server import DEFAULT_KEYS, KeysFile

Name = Annotated[str, typer.Argument(metavar="NAME", help="Who has the key, for the audit log.")]


def keys_add(
    name: Name,
    role: Annotated[
        list[str],
        typer.Option(
            "--role",
            metavar="ROLE",
            help="read, write (which may read), audit or metrics; repeatable.",
        ),
    ],
    expires: Annotated[
        str, typer.Option("--expires", metavar="SPAN", help="For example 90d, 12h or never.")
    ] = "never",
    keys_file: KeysFile = DEFAULT_KEYS,
) -> int:
    """Make an API key, and print it once.

    Only its digest is kept. A running server takes it up within a second.
    """
    import secrets

    from hdev_memory.cli import context, steps
    from hdev_memory.server import keysfile

    span = steps.parse_expiry(expires)
    made = context.now()
    text = "hdev_" + secrets.token_urlsafe(32)
    keysfile.add(
        _place(keys_file),
        name,
        keysfile.roles_of(role),
        text,
        context.instant(made),
        context.instant(made + span) if span is not None else None,
    )
    context.note(f"The key of {name}; it is shown only now, so put it where it belongs:")
    context.say(text)
    return 0


def keys_list(keys_file: KeysFile = DEFAULT_KEYS, json: flags.Json = False) -> int:
    """Tell the names and roles of the keys.

    With the first digits of their digests, and when they end.
    """
    from hdev_memory.cli import context
    from hdev_memory.server import keysfile

    path = _place(keys_file)
    keys = keysfile.read(path).keys.keys if keysfile.mark_of(path) is not None else ()
    now = context.instant(context.now())
    for key in keys:
        if key.revoked is not None:
            state = f"revoked {key.revoked}"
        elif key.expires is not None and key.expires <= now:
            state = f"expired {key.expires}"
        else:
            state = f"good until {key.expires}" if key.expires is not None else "good"
        if json:
            context.print_json(
                {
                    "type": "key",
                    "name": key.name,
                    "roles": list(key.roles),
                    "digest": key.digest[:12],
                    "created": key.created,
                    "expires": key.expires,
                    "revoked": key.revoked,
                }
            )
        else:
            roles = ",".join(key.roles)
            context.say(f"{key.name}  {roles}  {key.digest[:12]}  made {key.created}  {state}")
    if not keys and not json:
        context.say("There are no keys.")
    return 0


def keys_revoke(name: Name, keys_file: KeysFile = DEFAULT_KEYS) -> int:
    """Make an API key useless.

    A running server knows within a second.
    """
    from hdev_memory.cli import context
    from hdev_memory.server import keysfile

    changed = keysfile.revoke(_place(keys_file), name, context.instant(context.now()))
    context.say(f"Revoked {name}." if changed else f"{name} was revoked before.")
    return 0


def _place(keys_file: str) -> Path:
    return Path(keys_file).expanduser().absolute()
