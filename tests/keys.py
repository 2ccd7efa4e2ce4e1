"""Real keys, signatures and agents for tests, all made by OpenSSH."""

from __future__ import annotations

import os
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec

from hdev_memory import plandir, signing
from hdev_memory.core import approval

NOW = datetime(2026, 6, 1, 12, 0, 0, tzinfo=UTC)


class Keys:
    """Key pairs by name, each made when it is first asked for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def private(self, name: str, *, kind: str = "ed25519", passphrase: str = "") -> Path:
        path = self._folder / name
        if not path.exists():
            subprocess.run(
                ["ssh-keygen", "-q", "-t", kind, "-N", passphrase, "-C", name, "-f", str(path)],
                check=True,
                timeout=50,
            )
        return path

    def public(self, name: str) -> str:
        """TYPE and KEY, as a line of allowed_signers ends."""
        kind, key, *_ = self.private(name).with_name(f"{name}.pub").read_text().split()
        return f"{kind} {key}"

    def sign(self, name: str, message: bytes, namespace: str = signing.NAMESPACE) -> bytes:
        done = subprocess.run(
            ["ssh-keygen", "-Y", "sign", "-n", namespace, "-f", str(self.private(name))],
            input=message,
            capture_output=True,
            check=True,
            timeout=50,
        )
        return done.stdout


class Agent:
    """A real ssh-agent, while the context lasts; ended by its own id."""

    def __init__(self, folder: Path) -> None:
        self._socket = folder / "agent"

    def __enter__(self) -> dict[str, str]:
        """The environment of who uses it."""
        self._process = subprocess.Popen(
            ["ssh-agent", "-D", "-a", str(self._socket)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline()  # it says where it listens once it does
        return {"PATH": os.environ["PATH"], "SSH_AUTH_SOCK": str(self._socket)}

    def __exit__(self, *error: object) -> None:
        self._process.terminate()
        self._process.communicate(timeout=50)


def instant(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def statement(about: approval.Subject, principal: str, **changed: object) -> approval.Statement:
    """An approval of a plan, good for an hour from now; its nonce tells it from others."""
    now = datetime.now(UTC)
    made = approval.Statement(
        format=approval.FORMAT,
        decision="approve",
        plan=about.plan,
        effect=about.effect,
        target=about.target,
        principal=principal,
        role="person",
        comment="",
        created=instant(now),
        expires=instant(now + timedelta(hours=1)),
        nonce=os.urandom(16).hex(),
    )
    return msgspec.structs.replace(made, **changed)


def put(
    folder: Path, keys: Keys, key: str, said: approval.Statement, *, name: str | None = None
) -> str:
    """Sign a statement and put it among the approvals of a plan; the name of its file."""
    raw = approval.encode(said)
    name = name if name is not None else said.name
    plandir.write_approval(folder, plandir.Signed(name, raw, keys.sign(key, raw)))
    return name
