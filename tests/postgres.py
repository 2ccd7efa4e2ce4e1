"""A real PostgreSQL for tests: one for all processes of a run, a schema for each who asks."""

from __future__ import annotations

import contextlib
import fcntl
import glob
import json
import os
import pwd
import re
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

PASSWORD = "canary-of-the-database"
USER = "memory"


_STARTED: dict[int, subprocess.Popen[bytes]] = {}
"""What this process has started, until it is ended, here or by another process of the run."""


@dataclass(frozen=True)
class Server:
    """A PostgreSQL on loopback; its user may do everything there."""

    folder: Path
    port: int
    pid: int

    def url(self, schema: str = "", *, password: str = PASSWORD, user: str = USER) -> str:
        query = f"?schema={schema}" if schema else ""
        return f"postgres://{user}:{password}@127.0.0.1:{self.port}/postgres{query}"

    def kill(self) -> None:
        """End it and all its processes as a power cut would."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        process = _STARTED.pop(self.pid, None)
        if process is not None:
            process.wait()


def programs() -> Path | None:
    """The folder of the newest PostgreSQL of this machine."""
    found = glob.glob("/usr/lib/postgresql/*/bin/postgres")
    if found:
        return Path(max(found, key=lambda p: int(re.findall(r"\d+", p)[0]))).parent
    there = shutil.which("postgres")
    return Path(os.path.realpath(there)).parent if there else None


def needed() -> Path:
    """The same; the test is skipped without one, and fails in CI."""
    if not os.environ.get("CI"):
        pytest.importorskip("psycopg")
    found = programs()
    if found is not None:
        return found
    if os.environ.get("CI"):
        pytest.fail("no PostgreSQL here: apt-get install postgresql")
    pytest.skip("no PostgreSQL here: apt-get install postgresql")


def _owner() -> dict[str, Any]:
    """As whom to run it: PostgreSQL refuses root."""
    if os.geteuid() != 0:
        return {}
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            found = pwd.getpwnam(name)
            return {"user": found.pw_uid, "group": found.pw_gid, "extra_groups": []}
    raise AssertionError("nobody to run PostgreSQL as")


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def prepare(bin_folder: Path, folder: Path) -> None:
    """Make the files of a new database in a folder."""
    owner = _owner()
    folder.mkdir(parents=True)
    secret = folder / "password"
    secret.write_text(PASSWORD)
    if owner:
        os.chown(folder, owner["user"], owner["group"])
        os.chown(secret, owner["user"], owner["group"])
    subprocess.run(
        [
            bin_folder / "initdb", "--pgdata", folder / "data", "--username", USER,
            "--pwfile", secret, "--auth", "scram-sha-256", "--encoding", "UTF8",
            "--locale", "C", "--no-sync", "--no-instructions",
        ],
        check=True, stdout=subprocess.DEVNULL, cwd="/", **owner,
    )  # fmt: skip


def start(bin_folder: Path, folder: Path, port: int | None = None) -> Server:
    """Start it, in a process group of its own, and wait until it answers."""
    port = port or _free_port()
    settings = {
        "listen_addresses": "127.0.0.1",
        "unix_socket_directories": str(folder),
        "fsync": "on",
        "max_connections": "60",
        "shared_buffers": "32MB",
        "deadlock_timeout": "200ms",
        "log_min_messages": "fatal",
    }
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(
            [
                bin_folder / "postgres", "-D", folder / "data", "-p", str(port),
                *(f"--{name}={value}" for name, value in settings.items()),
            ],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/",
            start_new_session=True, **_owner(),
        )  # fmt: skip
    server = Server(folder, port, process.pid)
    _STARTED[process.pid] = process
    for _ in range(600):
        if process.poll() is not None:
            raise AssertionError((folder / "log").read_text()[-2000:])
        if subprocess.run(
            [bin_folder / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(port)]
        ).returncode == 0:  # fmt: skip
            return server
        time.sleep(0.05)
    server.kill()
    raise AssertionError("PostgreSQL did not start")


@contextlib.contextmanager
def own() -> Iterator[Server]:
    """A PostgreSQL that nobody else uses."""
    bin_folder = needed()
    with tempfile.TemporaryDirectory(prefix="hdev-pg-", ignore_cleanup_errors=True) as place:
        os.chmod(place, 0o711)  # noqa: S103 - the user that PostgreSQL runs as goes through it
        folder = Path(place) / "pg"
        prepare(bin_folder, folder)
        with contextlib.ExitStack() as stack:
            server = start(bin_folder, folder)
            stack.callback(server.kill)
            yield server


@contextlib.contextmanager
def shared(base: Path) -> Iterator[Server]:
    """One PostgreSQL for all processes of a run, which have this folder in common.

    Whoever needs it first starts it, and whoever is done with it last ends it.
    """
    bin_folder = needed()
    note = base / "postgres.json"
    with _locked(base):
        if note.exists():
            server, users = _noted(note)
        else:
            place = Path(tempfile.mkdtemp(prefix="hdev-pg-"))
            os.chmod(place, 0o711)  # noqa: S103 - as above
            prepare(bin_folder, place / "pg")
            server, users = start(bin_folder, place / "pg"), 0
        _note(note, server, users + 1)
    try:
        yield server
    finally:
        with _locked(base):
            server, users = _noted(note)
            if users == 1:
                note.unlink()
                server.kill()
                shutil.rmtree(server.folder.parent, ignore_errors=True)
            else:
                _note(note, server, users - 1)


@contextlib.contextmanager
def _locked(base: Path) -> Iterator[None]:
    with (base / "postgres.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _noted(note: Path) -> tuple[Server, int]:
    found = json.loads(note.read_text())
    return Server(Path(found["folder"]), found["port"], found["pid"]), found["users"]


def _note(note: Path, server: Server, users: int) -> None:
    told = {"folder": str(server.folder), "port": server.port, "pid": server.pid, "users": users}
    note.write_text(json.dumps(told))


def fresh_schema() -> str:
    """The name of a schema that nobody uses."""
    return f"t_{secrets.token_hex(8)}"
