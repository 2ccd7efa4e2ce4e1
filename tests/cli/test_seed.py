"""Every command line of `docs/memory_migration_examples.md`, word for word, on real sockets.

Only hosts, ports and absolute paths are pointed at this machine. What each line must have done is
computed from its words by a model of a migration, in `expected`.
"""

import contextlib
import itertools
import os
import re
import shlex
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from tests.conftest import put_entry, tree_of
from tests.emulation import existing_server
from tests.processes import MemoryServer

from hdev_memory.backends.base import Secret
from hdev_memory.backends.filesystem import FilesystemBackend
from hdev_memory.server.app import create_app
from hdev_memory.server.run import serve_in_thread

DOCUMENT = Path(__file__).parents[2] / "docs" / "memory_migration_examples.md"
LOCAL = {"ours": "only here", "both": "what we have", "deep/er": "also here"}
SERVED = {"theirs": "only there", "both": "what they have"}
CONFIGURED_KEY = "your-secret-key"


def blocks(language):
    """(heading, lines) of every fenced block of a language."""
    found, heading, inside = [], "", None
    for line in DOCUMENT.read_text().splitlines():
        if inside is not None:
            if line.startswith("```"):
                found.append((heading, inside))
                inside = None
            else:
                inside.append(line)
        elif line.startswith("#"):
            heading = line.strip("# ")
        elif line == "```" + language:
            inside = []
    return found


def lines(start):
    return [
        (heading, line.strip())
        for heading, block in blocks("bash")
        for line in block
        if line.startswith(start)
    ]


MIGRATIONS = lines("hdev migrate-memory")
SESSION = lines("!migrate_memory")


def test_the_document_has_what_these_tests_take_from_it():
    others = {
        line.split()[0]
        for _, block in blocks("bash")
        for line in block
        if line.strip() and not line.startswith(("#", "hdev migrate-memory", "!migrate_memory"))
    }

    assert (len(MIGRATIONS), len(SESSION)) == (16, 3)
    assert others == {"hdev", "export"}  # the server's start and two settings, tested below


def ours(root, key):
    backend = FilesystemBackend(str(root), must_exist=True)
    return create_app(backend, store_id=f"store of {root}", api_key=Secret(key))


def theirs(root, key):
    return existing_server.create_app(root, key, existing_server.Faults())


@pytest.fixture(params=[ours, theirs], ids=["our server", "the existing server"])
def world(request, home, monkeypatch):
    """A place for a line to run in: points its words at servers and folders of this machine."""
    store = home / ".hdev/memory"
    fill(store, LOCAL)
    fill(home / "old/memory", LOCAL)
    with contextlib.ExitStack() as stack:
        served = {}

        def point(line):
            key = re.search(r"--api-key (\S+)", line)
            for url in re.findall(r"https?://[\w.:-]+", line):
                root = home / urlsplit(url).hostname
                fill(root, {**SERVED, urlsplit(url).hostname.replace(".", "-"): "its own"})
                app = request.param(root, key.group(1) if key else CONFIGURED_KEY)
                served[root] = stack.enter_context(serve_in_thread(app))
                line = line.replace(url, served[root])
            return line.replace("/old/memory", f"{home}/old/memory").replace(
                "/new/memory", f"{home}/new/memory"
            )

        yield point, served


def fill(root, entries):
    root.mkdir(parents=True, exist_ok=True)
    for key, text in entries.items():
        put_entry(root, key, text)


def held(root):
    return {
        name.removesuffix(".md"): text.decode()
        for name, text in tree_of(root).items()
        if name.endswith(".md")
    }


def expected(source, target, overwrite):
    """The model: (copied, skipped, the target afterwards)."""
    placeholder = target.get("global") == existing_server.BOILERPLATE
    copied = {
        key: text
        for key, text in source.items()
        if key not in target
        or (text != target[key] and (overwrite or (key == "global" and placeholder)))
    }
    return len(copied), len(source) - len(copied), target | copied


def check(result, source, target, before, *, dry_run, overwrite, place):
    copied, skipped, after = expected(source, target, overwrite)
    verb = "would be copied" if dry_run else "were copied"
    done = "Dry run" if dry_run else "Migration"
    assert result.status == 0, result.err
    assert f"{done} completed. {copied} entries {verb}, {skipped} skipped, 0 failed." in result.out
    assert "Migration Statistics:\n" in result.out
    assert f"\n  Total entries found: {len(source)}\n" in result.out
    if not dry_run:
        assert f"\n  Entries copied: {copied}\n" in result.out
        assert f"\n  Entries skipped: {skipped}\n" in result.out
        assert result.out.endswith("\n  Entries failed: 0\n")
    assert copied  # the line had something to do
    assert held(place) == (before if dry_run else after)
    (plan,) = Path("plans").iterdir()
    assert {"plan.json", "review.md", "audit.jsonl"} <= {path.name for path in plan.iterdir()}


@pytest.mark.parametrize(("heading", "line"), MIGRATIONS)
def test_a_migrate_memory_line(hdev, home, world, monkeypatch, heading, line):
    point, served = world
    pointed = point(line.replace("$HDEV_MEMORY_HTTP_URL", "https://memory.example.com"))
    if "--api-key" not in line and served:
        url = next(iter(served.values()))
        if heading == "Using Configuration Files":
            ((_, text),) = blocks("yaml")
            config = "\n".join(text).replace("https://memory.example.com", url)
            (home / ".hdev/config.yaml").write_text(config)
        else:
            assert heading == "Using Environment Variables"
            monkeypatch.setenv("HDEV_MEMORY_HTTP_API_KEY", CONFIGURED_KEY)
            monkeypatch.setenv("HDEV_MEMORY_HTTP_URL", url)
    words = shlex.split(pointed)
    source, target = end(words, "--source", served, home), end(words, "--target", served, home)
    before = held(source), held(target)

    result = hdev(*words[1:])

    check(
        result,
        *before,
        before[1],
        dry_run="--dry-run" in words,
        overwrite="--overwrite" in words,
        place=target,
    )
    assert held(source) == before[0]


def end(words, flag, served, home):
    """The folder behind an end of a command line."""
    given = dict(itertools.pairwise(words))
    if f"{flag}-url" in given:
        return next(root for root, url in served.items() if url == given[f"{flag}-url"])
    return Path(given.get(f"{flag}-path", home / ".hdev/memory"))


@pytest.mark.parametrize(("heading", "line"), SESSION)
def test_a_session_line(hdev, home, world, monkeypatch, heading, line):
    point, served = world
    pointed = point(line)
    ((server, _),) = served.items()
    monkeypatch.setenv("HDEV_MEMORY_HTTP_API_KEY", CONFIGURED_KEY)
    local = home / ".hdev/memory"
    source, target = (server, local) if "source_config" in line else (local, server)
    before = held(source), held(target)

    result = hdev("session", stdin=pointed + "\n")

    check(
        result,
        *before,
        before[1],
        dry_run="dry_run=true" in line,
        overwrite="overwrite=true" in line,
        place=target,
    )


def test_the_server_line_starts_a_server_that_a_client_with_its_key_can_use(hdev, home, tmp_path):
    (line,) = [line for _, line in lines("hdev memory-server")]
    port, key = line.split()[3], line.split()[5]
    put_entry(home / ".hdev/memory", "a", "x")
    assert line == f"hdev memory-server --port {port} --api-key {key}"
    # Another folder than the local default store: a store is not migrated into itself.
    with MemoryServer(tmp_path / "served", None, "--api-key", key) as server:
        result = hdev(
            "migrate-memory", "--target", "http", "--target-url", server.url, "--api-key", key
        )

    assert result.status == 0, result.err
    assert held(tmp_path / "served") == {"a": "x"}


def test_the_settings_lines_are_settings_that_we_read(hdev, home, monkeypatch):
    for _, line in lines("export "):
        name, _, value = line.removeprefix("export ").partition("=")
        monkeypatch.setenv(name, value)
    shown = hdev("config", "show")

    assert "http.url = https://memory.example.com   (environment HDEV_MEMORY_HTTP_URL)" in shown.out
    assert "http.api_key = (set)   (environment HDEV_MEMORY_HTTP_API_KEY)" in shown.out
    assert os.environ["HDEV_MEMORY_HTTP_API_KEY"] not in shown.out


def test_an_empty_source_is_said_in_the_promised_words(hdev, home):
    (home / ".hdev/memory").mkdir(parents=True)
    result = hdev("migrate-memory", "--target", "filesystem", "--target-path", "elsewhere")

    assert (result.status, result.out) == (0, "No entries found to migrate\n")
