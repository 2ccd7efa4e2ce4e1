"""Sign what a command has written: which key, and what happens where that fails."""

from __future__ import annotations

import os.path
import sys
from pathlib import Path

from hdev_memory import plandir, signing
from hdev_memory.cli.context import note, say
from hdev_memory.config import Settings
from hdev_memory.errors import ApprovalError, HdevError, UsageError


def key_file(settings: Settings, given: Path | None) -> Path:
    """The key to sign with: given, else configured. Raises UsageError."""
    place = str(given) if given is not None else settings.get("signing_key")
    if place is None:
        raise UsageError(
            "It was not said which key to sign with.",
            hint="Give --key FILE, or set HDEV_MEMORY_SIGNING_KEY.",
        )
    if place.startswith("~/"):
        place = str(settings.home / place[2:])
    path = settings.cwd / place
    if not os.path.isfile(path):
        raise UsageError(
            "There is no such key.", why=f"{place!r} is no file.", hint="Give another key."
        )
    return path


def sign_beside(path: Path, raw: bytes, key: Path, namespace: str, settings: Settings) -> str:
    """Put a signature of `raw`, the bytes of the file at `path`, beside it; the fingerprint of the
    key. Raises HdevError; the file itself stands as it was."""
    try:
        signature = signing.sign(
            key, raw, settings.environ, interactive=sys.stdin.isatty(), namespace=namespace
        )
        fingerprint = signing.fingerprint(signing.signing_key(signature, namespace))
        plandir.write_signature(path, signature)
    except ApprovalError as error:
        raise _unsigned(path, error.why, error.hint) from None
    except signing.Unproven as error:
        raise _unsigned(path, f"Of what ssh-keygen made, {error}.", "Try another key.") from None
    except OSError as error:
        raise _unsigned(
            path, f"{error.filename or path}: {error.strerror}.", "Make room or give access."
        ) from None
    except KeyboardInterrupt:
        raise _unsigned(path, "It was stopped by a signal.", "") from None
    return fingerprint


def _unsigned(path: Path, why: str, hint: str) -> HdevError:
    return HdevError(f"{path.name} was written, but it is not signed.", why=why, hint=hint)


def try_receipt(folder: Path, key: Path | None, settings: Settings) -> str | HdevError | None:
    """Sign a plan's receipt after a run, which stands whatever comes of this.

    The fingerprint of the key, why there is no signature, or None where none was asked for.
    """
    if key is None:
        return None
    try:
        found = plandir.read_receipt(folder / plandir.RECEIPT)
        return sign_beside(folder / plandir.RECEIPT, found.raw, key, signing.RECEIPTS, settings)
    except HdevError as error:
        return error


def tell(folder: Path, signed: str | HdevError | None, *, aloud: bool) -> None:
    """What became of the signature: on stdout where that is for people, a failure on stderr."""
    if isinstance(signed, HdevError):
        note(f"Not signed: {signed}")
        note(f"  Next: hdev audit sign {folder} --key KEY   (the run itself stands)")
    elif signed is not None and aloud:
        say(f"Receipt signed with {signed}")
