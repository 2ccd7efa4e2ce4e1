"""Files are as they were or as they shall be, and nothing half-written is left."""

import errno
import os

import pytest

from hdev_memory import durable


@pytest.fixture
def folder(tmp_path):
    with durable.opened_folder(tmp_path) as descriptor:
        yield descriptor


def test_a_file_is_replaced_whole(tmp_path):
    durable.write_whole(tmp_path / "a", b"one")
    durable.write_whole(tmp_path / "a", b"two")

    assert (tmp_path / "a").read_bytes() == b"two"
    assert os.listdir(tmp_path) == ["a"]


def test_what_cannot_take_its_place_leaves_nothing_behind(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(IsADirectoryError):
        durable.write_whole(tmp_path / "a", b"x")

    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("failing", ["write", "fsync"])
def test_a_failed_write_or_sync_leaves_nothing_behind(tmp_path, folder, monkeypatch, failing):
    fired = []

    def fail(*words):
        fired.append(words)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, failing, fail)
    with pytest.raises(OSError, match="No space"):
        durable.stage(folder, b"x")
    monkeypatch.undo()

    assert fired
    assert os.listdir(tmp_path) == []


def test_a_short_write_is_gone_on_with(tmp_path, folder, monkeypatch):
    real, calls = os.write, []

    def short(descriptor, view):
        calls.append(len(view))
        return real(descriptor, bytes(view)[:3])

    monkeypatch.setattr(os, "write", short)
    name = durable.stage(folder, b"0123456789")
    monkeypatch.undo()

    assert calls == [10, 7, 4, 1]
    assert (tmp_path / name).read_bytes() == b"0123456789"


def test_a_new_name_is_never_taken_from_somebody(tmp_path, folder):
    (tmp_path / "a").write_bytes(b"theirs")
    staged = durable.stage(folder, b"ours")
    with pytest.raises(FileExistsError):
        durable.disk.rename_new(folder, staged, "a")

    assert (tmp_path / "a").read_bytes() == b"theirs"


def test_discarding_what_is_gone_is_no_error(folder):
    durable.discard(folder, "nothing")


def test_a_link_in_the_place_of_a_file_is_replaced_and_not_followed(tmp_path):
    (tmp_path / "outside").write_bytes(b"safe")
    (tmp_path / "a").symlink_to("outside")
    durable.write_whole(tmp_path / "a", b"new")

    assert (tmp_path / "outside").read_bytes() == b"safe"
    assert not (tmp_path / "a").is_symlink()


def test_a_file_is_replaced_by_a_stream_whole_or_not_at_all(tmp_path):
    def broken():
        yield b"new"
        raise ValueError("cut off")

    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(ValueError, match="cut off"):
        durable.replace_stream(path, broken())
    before = path.read_bytes()
    durable.replace_stream(path, iter([b"n", b"ew"]))

    assert (before, path.read_bytes()) == (b"old", b"new")
    assert [found.name for found in tmp_path.iterdir()] == ["file"]
