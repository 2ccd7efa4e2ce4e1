"""What is particular to a folder: links, broken files, strange names, and leaving no trace."""

import itertools
import json
import os
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.conftest import put_entry

from hdev_memory.backends.base import EVERYTHING, Failed, Put
from hdev_memory.backends.filesystem import FilesystemBackend
from hdev_memory.backends.filesystem_files import encode_metadata, state_read
from hdev_memory.core.entry import Normalisation, Unreadable
from hdev_memory.errors import StoreError

NORMAL = Normalisation()


def look(root):
    with FilesystemBackend(str(root), must_exist=True) as backend:
        found = list(backend.snapshot(EVERYTHING, NORMAL))
    return {s.key: getattr(s, "reason", "") for s in found}


def test_a_missing_source_is_an_error_and_a_missing_target_is_empty_and_stays_missing(tmp_path):
    place = tmp_path / "none"

    with pytest.raises(StoreError):
        FilesystemBackend(str(place), must_exist=True)
    with FilesystemBackend(str(place), must_exist=False) as backend:
        assert list(backend.snapshot(EVERYTHING, NORMAL)) == []
    assert not place.exists()


def test_what_cannot_be_read_is_reported_by_name(tmp_path):
    (tmp_path / "latin.md").write_bytes(b"\xff")
    (tmp_path / "broken.md").write_text("x")
    (tmp_path / "broken.metadata.json").write_text("[1]")
    (tmp_path / "twice.md").write_text("x")
    (tmp_path / "twice.metadata.json").write_text('{"a":1,"a":2}')
    (tmp_path / "orphan.metadata.json").write_text("{}")
    (tmp_path / "old.json").write_text('{"content":"x","metadata":{}}')
    (tmp_path / "link.md").symlink_to("/etc/hostname")
    (tmp_path / "loop").symlink_to(".")
    (tmp_path / "folder.md").mkdir()
    (tmp_path / "folder.metadata.json").write_text("{}")
    os.mkfifo(tmp_path / "pipe.md")
    with open(os.fsencode(tmp_path) + b"/caf\xe9.md", "wb"):
        pass

    found = look(tmp_path)

    assert set(found) == {
        "latin",
        "broken",
        "twice",
        "orphan",
        "old",
        "link",
        "loop/",
        "folder",
        "pipe",
        "caf\\xe9.md",
    }
    assert all(found.values())


def test_a_snapshot_says_what_reading_each_entry_says(tmp_path):
    texts = ["", "x", "ä\r\n", *("y" * (16 * 1024 + more) for more in (-1, 0, 1))]
    sidecars = [
        "{}",
        '{"k": "a:b", "version": 3}',
        '{"n": {"f": 1.5}}',
        '{"k": 1, "k": 2}',
        "",
        "é",
    ]
    for number, (text, sidecar) in enumerate(itertools.product(texts, sidecars)):
        put_entry(tmp_path, f"f{number % 3}/k{number:02}", text)
        (tmp_path / f"f{number % 3}/k{number:02}.metadata.json").write_text(sidecar)
    put_entry(tmp_path, "bare", "x", ...)
    (tmp_path / "latin.md").write_bytes(b"x" * 20_000 + b"\xff")
    (tmp_path / "latin.metadata.json").write_bytes(b"\xff")

    with FilesystemBackend(str(tmp_path), must_exist=True) as backend:
        for normalisation in (NORMAL, Normalisation(line_ends="lf")):
            snapshot = list(backend.snapshot(EVERYTHING, normalisation))
            read = [state_read(entry, normalisation) for entry in backend.read(backend.keys())]
            assert snapshot == read
            assert len(snapshot) == 38


def test_a_pipe_under_an_entrys_name_is_refused_and_keeps_what_is_in_it(tmp_path):
    put_entry(tmp_path, "a", "x", ...)
    put_entry(tmp_path, "b", "x", ...)
    (tmp_path / "b.md").unlink()
    os.mkfifo(tmp_path / "a.metadata.json")
    os.mkfifo(tmp_path / "b.md")
    (tmp_path / "b.metadata.json").write_text("{}")
    pipes = [os.open(tmp_path / name, os.O_RDWR) for name in ("a.metadata.json", "b.md")]
    try:
        for pipe in pipes:
            os.write(pipe, b"{}")

        found = look(tmp_path)

        assert found == {
            "a": "its metadata is not a regular file",
            "b": "its content is not a regular file",
        }
        assert [os.read(pipe, 9) for pipe in pipes] == [b"{}", b"{}"]
    finally:
        for pipe in pipes:
            os.close(pipe)


def test_what_stands_in_the_way_is_looked_at_anew_after_a_snapshot_and_after_a_write(tmp_path):
    change = Put(key="b/x", content=b"x", metadata={}, before=None, after=NORMAL.state(b"x", {}))
    with FilesystemBackend(str(tmp_path), must_exist=True) as backend:
        assert backend.obstacle("a/x") is None
        (tmp_path / "a").write_text("in the way")
        list(backend.snapshot(EVERYTHING, NORMAL))
        assert "not a folder" in backend.obstacle("a/y")

        assert backend.obstacle("b/x") is None
        backend.write([change], NORMAL)
        (tmp_path / "b/y.md").mkdir()
        assert "not a regular file" in backend.obstacle("b/y")


def test_missing_metadata_is_empty_metadata_and_reported(tmp_path):
    (tmp_path / "a.md").write_text("x")

    with FilesystemBackend(str(tmp_path), must_exist=True) as backend:
        (state,) = backend.snapshot(EVERYTHING, NORMAL)

    assert state.state == NORMAL.state(b"x", {})
    assert "metadata file is missing" in state.note


def test_other_files_are_counted_and_left_alone(tmp_path):
    (tmp_path / "a.txt").write_text("x")
    (tmp_path / "data.json").write_text("[]")

    with FilesystemBackend(str(tmp_path), must_exist=True) as backend:
        assert list(backend.snapshot(EVERYTHING, NORMAL)) == []
        assert backend.ignored == 2


def test_a_write_never_follows_a_link_on_its_way(tmp_path):
    store, outside = tmp_path / "store", tmp_path / "outside"
    store.mkdir()
    outside.mkdir()
    (store / "a").symlink_to(outside)
    change = Put(key="a/b", content=b"x", metadata={}, before=None, after=NORMAL.state(b"x", {}))

    with FilesystemBackend(str(store), must_exist=True) as backend:
        (receipt,) = backend.write([change], NORMAL)
        (seen,) = backend.read(["a/b"])

    assert isinstance(receipt, Failed)
    assert isinstance(seen, Unreadable)
    assert list(outside.iterdir()) == []


def test_a_write_leaves_only_the_two_files_of_its_entry(tmp_path):
    change = Put(
        key="a",
        content=b"x",
        metadata={"k": "ü"},
        before=None,
        after=NORMAL.state(b"x", {"k": "ü"}),
    )

    with FilesystemBackend(str(tmp_path), must_exist=True) as backend:
        backend.write([change], NORMAL)

    assert {path.name for path in tmp_path.iterdir()} == {"a.md", "a.metadata.json"}
    assert (tmp_path / "a.metadata.json").read_bytes() == b'{\n  "k": "\\u00fc"\n}'


def test_threads_that_list_one_store_each_see_all_of_it(tmp_path):
    for number in range(2000):
        (tmp_path / f"k{number:04}.md").write_text("x")

    with (
        FilesystemBackend(str(tmp_path), must_exist=True) as backend,
        ThreadPoolExecutor(4) as pool,
    ):
        counts = list(pool.map(lambda _: len(list(backend.keys())), range(40)))

    assert counts == [2000] * 40


def test_a_walk_guesses_how_much_is_to_come_from_what_lies_behind(tmp_path):
    """Folders of one size in folders of one size, and at the end an empty one."""
    for number in range(320):
        put_entry(tmp_path, f"t{number // 80}/f{number // 4:02}/k{number:03}", "x")
    (tmp_path / "t9").mkdir()
    with FilesystemBackend(str(tmp_path), must_exist=True) as backend:
        guesses = [backend.expected for _ in backend.snapshot(EVERYTHING, NORMAL)]
        next(backend.snapshot(EVERYTHING, NORMAL))
        first = backend.expected

    assert first is None  # too little lies behind
    assert len(guesses) == 320
    assert set(guesses[100:]) == {400}  # as if the last one were like the others


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


@given(st.dictionaries(st.text(), values, max_size=4))
def test_a_sidecar_is_spelled_as_python_indents_it(metadata):
    assert encode_metadata(metadata) == json.dumps(metadata, indent=2).encode()


@pytest.mark.parametrize(
    ("metadata", "why"), [({"a": float("nan")}, "JSON"), ({"a": "\ud800"}, "surrogate")]
)
def test_a_sidecar_holds_nothing_that_is_no_json(metadata, why):
    with pytest.raises(ValueError, match=why):
        encode_metadata(metadata)
