"""What tests share: hypothesis made deterministic, and the command line in this process."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from hdev_memory import cli
from tests import postgres as real_postgres
from tests.keys import Keys

pytest.register_assert_rewrite("tests.backends.contract")

# Whoever starts the tests in the background may have them ignore SIGINT, and every program that
# they start would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def examples(usual: int) -> int:
    """How many examples Hypothesis makes up: as many as usual, or as a thorough run asks for."""
    return int(os.environ.get("HDEV_TEST_EXAMPLES", usual))


settings.register_profile("steady", derandomize=True, deadline=None, max_examples=examples(60))
settings.load_profile("steady")


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """Two processes for each processor: tests wait for disks, servers and browsers."""
    if "PYTEST_XDIST_AUTO_NUM_WORKERS" in os.environ:
        return None
    return 2 * len(os.sched_getaffinity(0)) if sys.platform == "linux" else None


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest tests first, so that no process is left alone with one at the end."""
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


@dataclass(frozen=True)
class Result:
    """What a command did: its exit status and its two streams."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The last line of stdout as JSON."""
        return json.loads(self.out.splitlines()[-1])

    def lines(self, kind: str) -> list[Any]:
        """The event lines on stdout of this type."""
        found = [json.loads(line) for line in self.out.splitlines()]
        return [line for line in found if line["type"] == kind]


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty home and an empty working folder, and no setting of the machine's."""
    for name in list(os.environ):
        if name.startswith(("HDEV_", "GITHUB_")) or name in ("PORT", "NO_COLOR", "COLUMNS"):
            monkeypatch.delenv(name)
    home = tmp_path / "home"
    work = tmp_path / "work"
    home.mkdir()
    work.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(work)
    return home


@pytest.fixture
def hdev(home):
    """Run a command line as the `hdev` program does, in a home and a folder of its own."""

    def run(*words: object, stdin: str = "") -> Result:
        out, err = io.StringIO(), io.StringIO()
        with (
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            pytest.MonkeyPatch.context() as patch,
        ):
            patch.setattr("sys.stdin", io.StringIO(stdin))
            status = cli.run([str(word) for word in words])
        return Result(status, out.getvalue(), err.getvalue())

    return run


def put_entry(root: Path, key: str, content: str | bytes, metadata: Any = None) -> None:
    """Write an entry's two files as the existing tool does; no metadata file for `...`."""
    file = root / f"{key}.md"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    if metadata is not ...:
        (root / f"{key}.metadata.json").write_text(json.dumps(metadata or {}, indent=2))


def tree_of(root: Path) -> dict[str, bytes]:
    """Every file below a folder, with its bytes; {} when the folder is missing.

    Without the index that a server keeps there: it follows from the rest whenever somebody looks.
    """
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and not path.name.startswith(".hdev-index-")
    }


@pytest.fixture(scope="session")
def keys(tmp_path_factory):
    """Real keys, the same for all tests of a process."""
    return Keys(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="session")
def postgres(tmp_path_factory):
    """A real PostgreSQL, the same for all processes of a run."""
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent
    with real_postgres.shared(base) as server:
        yield server
