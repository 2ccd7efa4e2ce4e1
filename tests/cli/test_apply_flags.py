"""`--lock-timeout` waits and no longer, `--durability none` is told wherever a run is told."""

import fcntl
import json
import os
from pathlib import Path

import pytest
from tests.conftest import put_entry
from tests.processes import MemoryServer

from hdev_memory import plandir
from hdev_memory.cli import steps
from hdev_memory.errors import LockedError, UsageError


@pytest.fixture
def planned(hdev, home):
    """The folder of a plan that creates one entry."""
    work = home.parent / "work"
    put_entry(work / "source", "a", "x")
    assert hdev("plan", "filesystem:source", "filesystem:target", "-o", "p").status == 0
    return work / "p"


class Clock:
    """Time that passes only in `sleep`, which may do something at the first nap."""

    def __init__(self, at_first=lambda: None):
        self.now = 100.0
        self.naps = []
        self._at_first = at_first

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        if not self.naps:
            self._at_first()
        self.naps.append(seconds)
        self.now += seconds


def taken(folder):
    lock = (folder / plandir.LOCK).open("w")
    fcntl.flock(lock, fcntl.LOCK_EX)
    return lock


def test_the_lock_is_waited_for_until_it_is_free(planned):
    clock = Clock(at_first=taken(planned).close)

    with steps.locked(planned, steps.Patience(30, clock, clock.sleep)):
        assert len(clock.naps) == 1


@pytest.mark.parametrize(("seconds", "waited"), [(0, 0), (0.25, 0.25), (3, 3)])
def test_the_lock_is_waited_for_as_long_as_was_said(planned, seconds, waited):
    clock = Clock()

    with taken(planned), pytest.raises(LockedError):
        steps.locked(planned, steps.Patience(seconds, clock, clock.sleep))
    assert sum(clock.naps) == pytest.approx(waited)


def test_an_apply_gives_up_with_its_own_status(hdev, planned):
    with taken(planned):
        result = hdev("apply", "p", "--lock-timeout", "0s", "--json")

    assert (result.status, result.json["exit"]) == (7, 7)


@pytest.mark.parametrize(("text", "seconds"), [("0", 0), ("30s", 30), ("2m", 120), ("0s", 0)])
def test_spans(text, seconds):
    assert steps.parse_wait(text) == seconds


@pytest.mark.parametrize("text", ["", "30", "-1s", "1h", "1.5s", "s", "٣s"])
def test_what_is_no_span(text):
    with pytest.raises(UsageError):
        steps.parse_wait(text)


def started():
    lines = Path("p/audit.jsonl").read_text().splitlines()
    return [r for r in map(json.loads, lines) if r["event"] in ("started", "resumed")]


def test_durability_none_is_in_the_log_the_receipt_and_both_outputs(hdev, planned):
    result = hdev("apply", "p", "--durability", "none", "--json-into", "lines")
    (record,) = started()
    receipt = json.loads(Path("p/receipt.json").read_text())

    assert result.status == 0, result.err
    assert "Not synced (durability none" in result.out
    assert record["evidence"].startswith("durability none")
    assert receipt["durability"] == "none"
    assert json.loads(Path("lines").read_text().splitlines()[-1])["durability"] == "none"
    assert hdev("audit", "verify", "p").status == 10


def test_full_durability_is_the_default_and_syncs_what_none_does_not(hdev, planned, monkeypatch):
    real, synced = os.fsync, []

    def counted(number):
        synced.append(number)
        real(number)

    hdev("plan", "filesystem:source", "filesystem:other", "-o", "q")
    monkeypatch.setattr(os, "fsync", counted)
    hdev("apply", "p", "--durability", "none")
    without = len(synced)
    result = hdev("apply", "q")

    assert "Not synced" not in result.out
    assert json.loads(Path("q/receipt.json").read_text())["durability"] == "full"
    assert len(synced) - without > without


def test_a_server_decides_its_durability_itself(hdev, planned, tmp_path):
    with MemoryServer(tmp_path / "served") as server:
        hdev("plan", "filesystem:source", server.url, "-o", "q")
        result = hdev("apply", "q", "--durability", "none", "--parallelism", "2")
        done = hdev("apply", "q", "--parallelism", "2")

    assert result.status == 64
    assert "--durability none" in result.err
    assert done.status == 0


@pytest.mark.parametrize(
    "flag",
    [
        "--sign-receipt=k", "--parallelism=0", "--parallelism=many",
        "--durability=some",
    ],
)  # fmt: skip
def test_a_value_that_a_flag_cannot_have_is_refused_and_never_ignored(hdev, planned, flag):
    assert hdev("apply", "p", flag).status == 64
    assert not Path("target").exists()


@pytest.mark.parametrize("name", [".lock", "audit.jsonl"])
def test_a_plan_folder_that_cannot_be_written_is_told_before_any_write(hdev, planned, name):
    (planned / name).unlink(missing_ok=True)
    (planned / name).mkdir()
    result = hdev("apply", "p")

    assert result.status == 1
    assert f"p/{name}: Is a directory." in result.err
    assert "bug" not in result.err
    assert not Path("target").exists()
