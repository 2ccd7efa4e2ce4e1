"""Write a result where --out says: whole or not at all."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from hdev_memory import durable
from hdev_memory.errors import HdevError


def write(path: Path, parts: Iterable[str], *, what: str) -> None:
    """Replace a file whole; what is no file (a pipe, /dev/stdout) is written to as it stands.

    Raises HdevError, which begins with `what`, and whatever the parts raise.
    """
    encoded = (part.encode() for part in parts)
    path = path.absolute()
    try:
        if path.exists() and not path.is_file():
            with path.open("wb") as file:
                file.writelines(durable.buffered(encoded))
        else:
            durable.replace_stream(path, encoded)
    except OSError as error:
        raise HdevError(
            f"{what} cannot be written.",
            why=f"{path}: {error.strerror}.",
            hint="Give another file with --out.",
        ) from None
