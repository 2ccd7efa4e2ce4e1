"""A real nginx on loopback with the configuration that we ship, ended by its own id."""

from __future__ import annotations

import os
import shutil
import ssl
import subprocess
import time
from pathlib import Path
from typing import Self

import pytest
import trustme

CONFIGURATION = Path(__file__).parents[1] / "deploy/nginx.conf"


def program() -> str:
    """Where nginx is; the test is skipped without one, and fails in CI."""
    found = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    if found is None and os.environ.get("CI"):
        pytest.fail("no nginx here: apt-get install nginx")
    if found is None:
        pytest.skip("no nginx here: apt-get install nginx")
    return found


class Nginx:
    """nginx before two servers, while the context lasts.

    Of the configuration only the places are other ones: of the servers, of what it listens on, of
    the certificate, and of files.
    """

    def __init__(self, folder: Path, port: int, servers: tuple[str, str]) -> None:
        self._program = program()
        self.folder = folder
        self.url = f"https://localhost:{port}"
        self.authority = folder / "authority.pem"
        authority = trustme.CA()
        authority.cert_pem.write_to_path(str(self.authority))
        certificate = authority.issue_cert("localhost")
        certificate.private_key_and_cert_chain_pem.write_to_path(str(folder / "cert.pem"))
        text = CONFIGURATION.read_text()
        for shipped, here in {
            "server-1:8080": servers[0].removeprefix("http://"),
            "server-2:8080": servers[1].removeprefix("http://"),
            "listen 8443 ssl": f"listen 127.0.0.1:{port} ssl",
            "/run/secrets/tls_certificate": f"{folder}/cert.pem",
            "/run/secrets/tls_key": f"{folder}/cert.pem",
            "/dev/stdout": f"{folder}/access.log",
            "pid /tmp/": f"pid {folder}/",
            "_path /tmp/": f"_path {folder}/",
            "worker_processes auto": "worker_processes 1",
        }.items():
            assert shipped in text, shipped
            text = text.replace(shipped, here)
        (folder / "nginx.conf").write_text(text)

    def __enter__(self) -> Self:
        self._errors = (self.folder / "error.log").open("w")
        self.process = subprocess.Popen(
            [
                self._program, "-e", "stderr", "-p", self.folder,
                "-c", self.folder / "nginx.conf", "-g", "daemon off;",
            ],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=self._errors,
        )  # fmt: skip
        deadline = time.monotonic() + 30
        while not (self.folder / "nginx.pid").exists():
            assert self.process.poll() is None, self.errors
            assert time.monotonic() < deadline, self.errors
            time.sleep(0.01)
        return self

    def __exit__(self, *error: object) -> None:
        self.process.terminate()
        self.process.wait(timeout=30)
        self._errors.close()

    @property
    def errors(self) -> str:
        return (self.folder / "error.log").read_text()

    @property
    def access(self) -> list[list[str]]:
        """The lines of its log, in words: see the format in the configuration."""
        return [line.split(" ") for line in (self.folder / "access.log").read_text().splitlines()]

    @property
    def trust(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.authority))
