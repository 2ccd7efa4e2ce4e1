"""`hdev backend check`: against real stores and servers, and it leaves nothing behind."""

import json
import signal
import subprocess
import time
from pathlib import Path

import pytest
from tests.conftest import put_entry, tree_of
from tests.emulation.existing_server import ExistingServer
from tests.processes import PROGRAM, MemoryServer

from hdev_memory.conformance.checks import CHECKS

KEY = "full-key"
READER = "read-only-key"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    root = tmp_path_factory.mktemp("server") / "storage"
    with MemoryServer(root, KEY, "--read-only-api-key", READER) as running:
        put_entry(root, "theirs", "not to be touched")
        yield running


def test_a_folder_keeps_every_promise_and_is_as_before(hdev, home):
    put_entry(Path("store"), "theirs/a", "x", {"k": 1})
    before = tree_of(Path("store"))
    result = hdev("backend", "check", "filesystem:store")

    assert result.status == 0, result.out
    for check in CHECKS:
        assert f"  {check.name}" in result.out
    assert f"Checked: {len(CHECKS) - 3} ok, 0 failed, 3 not applicable." in result.out
    assert "cas                atomic " in result.out
    assert result.err == ""
    assert tree_of(Path("store")) == before
    assert [path.name for path in Path("store").iterdir()] == ["theirs"]


def test_an_ephemeral_store_keeps_every_promise(hdev):
    assert hdev("backend", "check", "ephemeral").status == 0


def test_a_path_that_is_mistyped_is_not_created(hdev, home):
    result = hdev("backend", "check", "filesystem:nowhere")

    assert result.status == 1
    assert not Path("nowhere").exists()


def test_our_server_keeps_every_promise(hdev, server):
    before = tree_of(server.root)
    result = hdev("backend", "check", server.url, "--api-key", KEY, "--prefix", "trial")

    assert result.status == 0, result.out
    assert "Working below trial-" in result.out
    assert "max_entry_bytes    1048576 bytes" in result.out
    after = tree_of(server.root)
    assert after.pop(".hdev-fence")  # its lock was taken, and what it gave out is remembered
    assert len(after.pop(".hdev-audit.jsonl")) > len(before.pop(".hdev-audit.jsonl"))
    assert after == before


def test_with_a_key_that_may_only_read_it_says_that_nothing_could_be_checked(hdev, server):
    before = tree_of(server.root)
    result = hdev("backend", "check", server.url, "--api-key", READER)

    assert result.status == 9
    assert "Error: Nothing could be checked for writing." in result.err
    assert "Permission denied on target" in result.err
    assert "FAILED" not in result.out
    assert tree_of(server.root) == before


def test_the_existing_server_keeps_what_is_declared_of_it(hdev, tmp_path):
    with ExistingServer(tmp_path / "existing", KEY) as existing:
        before = tree_of(tmp_path / "existing")
        result = hdev("backend", "check", existing.url, "--api-key", KEY)

        assert result.status == 0, result.out
        assert "cas                guarded" in result.out
        assert "one-winner: not applicable: cas is declared `guarded`" in result.out
        assert "empty folders are left" in result.err
        assert tree_of(tmp_path / "existing") == before


def test_broken_promises_are_told_and_exit_1(hdev, tmp_path):
    with ExistingServer(tmp_path / "existing", KEY, "--say-yes-write-nothing") as existing:
        result = hdev("backend", "check", existing.url, "--api-key", KEY, "--json")
    lines = [json.loads(line) for line in result.out.splitlines()]
    outcomes = {line["check"]: line["outcome"] for line in lines if line["type"] == "check"}

    assert result.status == 1
    assert list(outcomes) == [check.name for check in CHECKS]
    assert outcomes["new-entry"] == "failed"
    assert outcomes["outside"] == "ok"
    assert lines[-1]["failed"] == list(outcomes.values()).count("failed")


def test_json_begins_with_the_version_and_ends_with_the_summary(hdev, home):
    Path("store").mkdir()
    result = hdev("backend", "check", "filesystem:store", "--json")
    lines = [json.loads(line) for line in result.out.splitlines()]

    assert [line["type"] for line in lines] == [
        "version", "checking", *["check"] * len(CHECKS), "summary",
    ]  # fmt: skip
    assert lines[1]["prefix"].startswith("hdev-check-")
    assert lines[2]["promise"] == CHECKS[0].promise
    assert lines[-1]["ok"] + lines[-1]["not_applicable"] == len(CHECKS)
    assert {"name": "cas", "declared": "atomic"}.items() <= lines[-1]["card"][0].items()


def test_what_could_not_be_checked_ends_in_one_summary_with_the_exit_status(hdev, server):
    result = hdev("backend", "check", server.url, "--api-key", READER, "--json")

    assert (result.status, result.json["type"], result.json["exit"]) == (9, "summary", 9)
    assert result.json["unwritable"] == "Permission denied on target"
    assert result.lines("error") == []


def test_a_server_that_is_not_there_is_9(hdev):
    assert hdev("backend", "check", "http://127.0.0.1:9").status == 9


def test_a_prefix_that_is_no_name_is_a_usage_error(hdev, home):
    Path("store").mkdir()
    for name in ("", "a/b", "..", "a\x1b"):
        assert hdev("backend", "check", "filesystem:store", "--prefix", name).status == 64
    assert list(Path("store").iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_removes_what_it_wrote(home, number):
    put_entry(Path("store"), "theirs", "x")
    with subprocess.Popen(
        [*PROGRAM, "backend", "check", "filesystem:store"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        while not list(Path("store").glob("hdev-check-*/new-entry/a/b.md")):
            assert process.poll() is None
            time.sleep(0)
        process.send_signal(number)
        out, err = process.communicate(timeout=60)

    assert process.returncode == 130, err
    assert "Error: The check was interrupted." in err
    assert "outside" not in out
    assert sorted(tree_of(Path("store"))) == ["theirs.md", "theirs.metadata.json"]
    assert [path for path in Path("store").iterdir() if path.is_dir()] == []
