"""Programs of ours in processes of their own, without the time that it takes to import them.

Run as a program, this module is the one that has imported everything already: it forks a process
for each command line that it is sent, and says how that process has ended.
"""

from __future__ import annotations

import atexit
import functools
import gc
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import IO

ROOT = Path(__file__).parents[1]
PRELOADED = (
    "hdev_memory.backends.filesystem",
    "hdev_memory.backends.sqlite",
    "hdev_memory.cli.memory_server",
    "hdev_memory.cli.steps",
    "hdev_memory.server.app",
    "hdev_memory.server.run",
    "uvicorn.lifespan.off",
    "uvicorn.loops.asyncio",
    "uvicorn.protocols.http.h11_impl",
)
"""What a server imports when it starts."""

_MOST = 100_000
"""Bytes of a command line and its environment."""


class Forked:
    """`hdev` with these arguments, in a process that was forked; used as `subprocess.Popen` is.

    Its stdin is empty, its stdout a pipe of text, and its stderr goes into a file.
    """

    def __init__(self, words: Sequence[str], environ: Mapping[str, str], stderr: IO[str]) -> None:
        self.returncode: int | None = None
        ours, theirs = os.pipe()
        self._told, tells = os.pipe()
        self.stdout = open(ours)  # noqa: SIM115 - communicate() ends it
        message = json.dumps([list(words), dict(environ), os.getcwd()]).encode()
        assert len(message) < _MOST
        forks = _forks()
        socket.send_fds(forks, [message], [theirs, stderr.fileno(), tells])
        os.close(theirs)
        os.close(tells)
        self.pid = int(forks.recv(20))

    def poll(self) -> int | None:
        if self.returncode is None and select.select([self._told], [], [], 0)[0]:
            self.returncode = int(os.read(self._told, 20))
            os.close(self._told)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None and not select.select([self._told], [], [], timeout)[0]:
            raise subprocess.TimeoutExpired("hdev", timeout or 0)
        status = self.poll()
        assert status is not None
        return status

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: float | None = None) -> tuple[str, None]:
        with self.stdout:
            out = self.stdout.read()
        self.wait(timeout)
        return out, None


@functools.cache
def _forks() -> socket.socket:
    """The channel to the program below, which ends when this process does."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.forks", str(theirs.fileno())],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            cwd=ROOT,
            pass_fds=[theirs.fileno()],
        )

    @atexit.register
    def end() -> None:
        ours.close()
        process.wait(10)

    return ours


def main(channel: socket.socket) -> list[str] | None:
    """Fork until nobody is there any more; in each child, the words that it is to run."""
    running: dict[int, tuple[int, int]] = {}
    wait = select.poll()
    wait.register(channel, select.POLLIN)
    while True:
        for handle, _ in wait.poll():
            if handle != channel.fileno():
                pid, tells = running.pop(handle)
                wait.unregister(handle)
                os.close(handle)
                _, status = os.waitpid(pid, 0)
                os.write(tells, b"%d" % os.waitstatus_to_exitcode(status))
                os.close(tells)
                continue
            message, handles, _, _ = socket.recv_fds(channel, _MOST, 3)
            if not message:
                return None
            stdout, stderr, tells = handles
            if (pid := os.fork()) == 0:
                words, environ, folder = json.loads(message)
                os.dup2(stdout, 1)
                os.dup2(stderr, 2)
                sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115 - as long as it runs
                sys.stderr = open(2, "w", 1, errors="backslashreplace", closefd=False)  # noqa: SIM115
                channel.detach()
                os.closerange(3, 1024)
                os.environ.clear()
                os.environ.update(environ)
                os.chdir(folder)
                return words
            os.close(stdout)
            os.close(stderr)
            handle = os.pidfd_open(pid)
            running[handle] = pid, tells
            wait.register(handle, select.POLLIN)
            channel.send(b"%d" % pid)


if __name__ == "__main__":
    from hdev_memory.cli import main as hdev

    for name in PRELOADED:
        import_module(name)
    gc.freeze()
    words = main(socket.socket(fileno=int(sys.argv[1])))
    if words is not None:
        hdev(words)
