"""The file with the API keys of a server: their names, roles and digests, never the keys."""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from hdev_memory import durable
from hdev_memory.core.digest import Digest, sha256
from hdev_memory.core.entry import Value
from hdev_memory.errors import ConfigError, LockedError, UsageError

MAX_BYTES = 1024 * 1024
MAX_KEYS = 1000

Role = Literal["read", "write", "audit", "metrics"]

ROLES: tuple[Role, ...] = ("read", "write", "audit", "metrics")

RESERVED = ("anonymous", "default", "read-only", "unknown")
"""Names that the log of a server gives to clients without a key in the file."""

NAME = r"^[a-z0-9][a-z0-9._-]{0,63}$"

Instant = Annotated[str, msgspec.Meta(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")]


class Key(Value, frozen=True, omit_defaults=True):
    """One key. `digest` is the SHA-256 of the key itself. A name is never given again, also when
    its key was revoked: the log of the server tells clients apart by it."""

    name: Annotated[str, msgspec.Meta(pattern=NAME)]
    roles: Annotated[tuple[Role, ...], msgspec.Meta(min_length=1, max_length=4)]
    digest: Digest
    created: Instant
    expires: Instant | None = None
    revoked: Instant | None = None


class Keys(Value, frozen=True):
    """What the file holds."""

    format: Literal["hdev-server-keys/1"]
    keys: Annotated[tuple[Key, ...], msgspec.Meta(max_length=MAX_KEYS)] = ()


EMPTY = Keys(format="hdev-server-keys/1")


@dataclass(frozen=True)
class Found:
    """The keys of a file, and `mark`, which changes when the file does.

    `readable` says that other users of the machine can read it.
    """

    keys: Keys
    mark: tuple[int, ...]
    readable: bool


def mark_of(path: Path) -> tuple[int, ...] | None:
    """What tells one state of the file from another; None where there is none. Raises OSError."""
    try:
        return _mark(os.stat(path, follow_symlinks=False))
    except FileNotFoundError:
        return None


def _mark(found: os.stat_result) -> tuple[int, ...]:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def read(path: Path) -> Found:
    """The keys in a file that nobody else can have written. Raises ConfigError."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        why = "it is a link" if path.is_symlink() else f"{error.strerror}"
        raise _unusable(path, why) from None
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise _unusable(path, "it is no regular file")
        if found.st_mode & 0o022 or found.st_uid not in (0, os.geteuid()):
            raise _unusable(path, "other users can write to it")
        if found.st_size > MAX_BYTES:
            raise _unusable(path, f"it is larger than {MAX_BYTES} bytes")
        text = os.read(descriptor, MAX_BYTES)
    except OSError as error:
        raise _unusable(path, f"{error.strerror}") from None
    finally:
        os.close(descriptor)
    return Found(keys=_decoded(path, text), mark=_mark(found), readable=bool(found.st_mode & 0o044))


def _decoded(path: Path, text: bytes) -> Keys:
    try:
        keys = msgspec.json.decode(text, type=Keys)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise _unusable(path, f"it is no list of keys: {error}") from None
    names = {key.name for key in keys.keys}
    digests = {key.digest for key in keys.keys}
    if len(names) != len(keys.keys) or len(digests) != len(keys.keys):
        raise _unusable(path, "it holds a name or a key twice")
    if names & set(RESERVED):
        raise _unusable(path, f"it uses a name that is reserved: {', '.join(RESERVED)}")
    return keys


def _unusable(path: Path, why: str) -> ConfigError:
    return ConfigError(
        "The keys of the server cannot be used.",
        why=f"{path}: {why}.",
        hint="It must be a file of the server's own user, as `hdev memory-server keys add` "
        "writes it: chmod 600, no link.",
    )


def roles_of(names: Iterable[str]) -> tuple[Role, ...]:
    """Each role that is named, once. Raises UsageError."""
    wanted = set(names)
    if wanted - set(ROLES):
        raise UsageError(
            "This is not a role.",
            why=f"--role was {', '.join(sorted(wanted - set(ROLES)))}.",
            hint=f"Give one of {', '.join(ROLES)}; several by repeating --role.",
        )
    return tuple(role for role in ROLES if role in wanted)


def add(
    path: Path, name: str, roles: tuple[Role, ...], text: str, created: str, expires: str | None
) -> None:
    """Add the key `text` to the file, which is made where it is missing. Raises HdevError."""
    if not re.fullmatch(NAME, name) or name in RESERVED:
        raise UsageError(
            "A key cannot have this name.",
            why=f"It was {name!r}.",
            hint="Give a name of small letters, digits, dots, dashes and underscores; not one of "
            f"{', '.join(RESERVED)}.",
        )
    key = Key(
        name=name, roles=roles, digest=sha256(text.encode()), created=created, expires=expires
    )

    def added(keys: Keys) -> Keys:
        if any(other.name == name for other in keys.keys):
            raise UsageError(
                "There is a key of this name.",
                why=f"{path} has {name}, and a name is never given to a second key.",
                hint="Choose another name, such as one with a number.",
            )
        if len(keys.keys) >= MAX_KEYS:
            raise ConfigError(
                "There are too many keys.", why=f"{path} holds {MAX_KEYS}, which is the limit."
            )
        return msgspec.structs.replace(keys, keys=(*keys.keys, key))

    _change(path, added)


def revoke(path: Path, name: str, revoked: str) -> bool:
    """Say that the key of this name is no longer good; False when that was said before.

    Raises HdevError.
    """
    before: list[Key] = []

    def without(keys: Keys) -> Keys:
        before.extend(key for key in keys.keys if key.name == name)
        if not before:
            raise UsageError(
                "There is no key of this name.",
                why=f"{path} has no {name}.",
                hint="`hdev memory-server keys list` tells the names.",
            )
        return msgspec.structs.replace(
            keys,
            keys=tuple(
                msgspec.structs.replace(key, revoked=revoked)
                if key.name == name and key.revoked is None
                else key
                for key in keys.keys
            ),
        )

    _change(path, without)
    return before[0].revoked is None


def _change(path: Path, change: Callable[[Keys], Keys]) -> None:
    """Replace the file by what becomes of it, while nobody else does. Raises HdevError."""
    try:
        durable.make_folders(path.parent)
        with _alone(path.parent):
            found = read(path).keys if mark_of(path) is not None else EMPTY
            text = msgspec.json.format(msgspec.json.encode(change(found)), indent=2)
            durable.write_whole(path, text + b"\n", mode=0o600)
    except OSError as error:
        raise ConfigError(
            "The keys of the server cannot be written.",
            why=f"{path}: {error.strerror}.",
            hint="Give another file with --keys-file, or run it as the server's user.",
        ) from None


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    with durable.opened_folder(folder) as descriptor:
        if not durable.try_lock(descriptor):
            raise LockedError(
                "Another command is changing the keys.",
                why=f"It holds {folder}.",
                hint="Run the command again.",
            )
        yield
