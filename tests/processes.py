"""Our own commands as processes of their own, ended by their own id."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from tests.forks import ROOT, Forked

PROGRAM = (sys.executable, "-m", "hdev_memory")


def pytest_alone(
    base: Path, *words: str | Path, environ: Mapping[str, str] = os.environ
) -> subprocess.CompletedProcess[str]:
    """Tests in a process of their own, with their folders in `base`.

    In the folder that all runs share, pytest would stay at its end to remove what former runs left
    there, for minutes after a whole suite.
    """
    return subprocess.run(
        [
            sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:randomly",
            "-p", "no:cacheprovider", "--basetemp", base, *words,
        ],
        cwd=ROOT,
        env=environ,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )  # fmt: skip


class MemoryServer:
    """`hdev memory-server` on a free loopback port, while the context lasts; ended by SIGTERM."""

    def __init__(self, root: Path, api_key: str | None = None, *flags: str) -> None:
        self.root = root
        self.api_key = api_key
        self.url = ""
        self._command = [
            *PROGRAM, "memory-server", "--port", "0", "--storage-path", str(root), *flags
        ]  # fmt: skip
        self._environ = {
            name: text for name, text in os.environ.items() if not name.startswith("HDEV_")
        }
        self._environ["HOME"] = str(root.parent)  # whose keys file is none of the tests' business
        if api_key is not None:
            self._environ["HDEV_MEMORY_API_KEY"] = api_key

    def __enter__(self) -> Self:
        # A file and no pipe: one that nobody reads is full some day, and the server waits for ever.
        self._stderr = tempfile.TemporaryFile("w+")
        self.process = self._start()
        assert self.process.stdout is not None
        ready = self.process.stdout.readline()
        if not ready.startswith("Memory server ready on "):
            self._end()
            raise AssertionError(f"the server did not start: {ready}{self.out}{self.err}")
        self.url = ready.split()[4]
        return self

    def _start(self) -> subprocess.Popen[str] | Forked:
        # Where several workers count together is looked at while the library for that is imported.
        plain = self._command[: len(PROGRAM)] == list(PROGRAM) and "--workers" not in self._command
        if plain and sys.platform == "linux":
            return Forked(self._command[len(PROGRAM) :], self._environ, self._stderr)
        return subprocess.Popen(
            self._command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            text=True,
            env=self._environ,
        )

    def __exit__(self, *error: object) -> None:
        self._end()

    def _end(self) -> None:
        self.process.terminate()
        self.out, _ = self.process.communicate(timeout=30)
        self._stderr.seek(0)
        self.err = self._stderr.read()
        self._stderr.close()
