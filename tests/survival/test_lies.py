"""A disk that says that it has done what it has not is found out before anything rests on it."""

from __future__ import annotations

import pytest
from tests.survival.power import QuietDisk
from tests.survival.world import apply, below, build, check_end, read_tree

from hdev_memory import durable
from hdev_memory.errors import HdevError


class LyingDisk(QuietDisk):
    """Says of some writes that they were done: those for which `lies` says so."""

    def __init__(self, lies) -> None:
        self._lies = lies
        self.lied = 0

    def write(self, descriptor: int, content: bytes | memoryview) -> int:
        if self._lies(bytes(content)):
            self.lied += 1
            return len(content)
        return super().write(descriptor, content)


def run(tmp_path, monkeypatch, lies):
    """Apply on a disk that lies, then on one that does not."""
    world = build(tmp_path / "world")
    before = below(read_tree(world.place), "t")
    disk = LyingDisk(lies)
    with monkeypatch.context() as patch:
        patch.setattr(durable, "disk", disk)
        try:
            outcome = apply(world.place, world.place / "source")
        except HdevError:
            outcome = None
    during = below(read_tree(world.place), "t")
    apply(world.place, world.place / "source")
    check_end(world, read_tree(world.place))
    return disk.lied, outcome, before == during


@pytest.mark.parametrize("event", ["started", "intent"])
def test_a_log_that_did_not_take_a_record_stops_the_run(tmp_path, monkeypatch, event):
    mark = f'"event":"{event}"'.encode()
    lied, outcome, untouched = run(tmp_path, monkeypatch, lambda content: mark in content)

    assert lied == 1
    assert outcome is None or not outcome.complete
    assert untouched


def test_a_staged_file_that_is_not_what_was_written_gets_no_name(tmp_path, monkeypatch):
    lied, outcome, _ = run(tmp_path, monkeypatch, lambda content: content == b"a new one\n")

    assert lied == 1
    assert outcome is not None
    assert not outcome.complete


def test_a_pre_image_that_was_not_written_leaves_the_entry_alone(tmp_path, monkeypatch):
    lied, outcome, untouched = run(tmp_path, monkeypatch, lambda content: content == b"their text")

    assert lied == 1
    assert outcome is not None
    assert not outcome.complete
    assert untouched
