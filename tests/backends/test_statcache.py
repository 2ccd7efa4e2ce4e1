"""What is kept beside stats says what reading says, or is not used."""

import contextlib
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.conftest import put_entry, tree_of

from hdev_memory.backends import filesystem, filesystem_stretch, statcache
from hdev_memory.backends.base import EVERYTHING, Scope, Tagged
from hdev_memory.backends.filesystem import FilesystemBackend
from hdev_memory.core.entry import Entry, Normalisation, tag_of
from hdev_memory.core.stretch import Stretch

NORMAL = Normalisation()
LONG_AGO = 1_600_000_000

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="stats are kept on Linux only")


@pytest.fixture
def store(tmp_path):
    root = tmp_path / "store"
    for number in range(12):
        put_entry(root, f"f{number % 3}/k{number:02}", f"text {number}", {"n": number})
    put_entry(root, "f1/odd", "ünï", {"a": [1.5, -0.0, {"b": None}], "created": "x"})
    put_entry(root, "f1/large", "x" * 40_000, {"text": "y" * 20_000})
    put_entry(root, 'f2/a "quoted" name', "x")
    return root


@pytest.fixture
def reads(monkeypatch):
    """The entries that were read, by name; every change counts as settled at once."""
    monkeypatch.setattr(filesystem_stretch, "GRAIN", -(10**15))
    seen = []
    taken = filesystem_stretch.StretchReader._taken

    def counted(self, folder, names, settled):
        seen.extend(names)
        return taken(self, folder, names, settled)

    monkeypatch.setattr(filesystem_stretch.StretchReader, "_taken", counted)
    return seen


def looked(root, index=None, scope=EVERYTHING, normalisation=NORMAL):
    """The states of a store, as planning sees them."""
    found = []
    with FilesystemBackend(str(root), must_exist=True, index=index and str(index)) as backend:
        for item in backend.stretches(scope, normalisation):
            found += item.entries() if isinstance(item, Stretch) else [item]
    return found


def kept(index):
    return sorted(path for path in index.iterdir() if path.name.startswith(statcache.PREFIX))


def test_what_has_not_changed_is_not_read_again(store, tmp_path, reads):
    first = looked(store, tmp_path / "cache")
    assert len(reads) == len(first) == 15
    (before,) = kept(tmp_path / "cache")
    content = before.read_bytes()
    reads.clear()

    assert looked(store, tmp_path / "cache") == first
    assert list(map(repr, first)) == list(map(repr, looked(store)))
    assert len(reads) == 15  # by the look without the cache alone
    assert before.read_bytes() == content


def test_only_what_has_changed_is_read_again(store, tmp_path, reads):
    looked(store, tmp_path / "cache")
    reads.clear()
    put_entry(store, "f1/k04", "edited", {"n": 4})
    put_entry(store, "f1/k07", "text 7", {"n": 8})
    put_entry(store, "f0/new", "new", {})
    (store / "f2/k05.md").unlink()
    again = looked(store, tmp_path / "cache")

    assert sorted(reads) == ["k04", "k07", "new"]
    reads.clear()
    assert again == looked(store)
    assert looked(store, tmp_path / "cache") == again


@pytest.mark.parametrize("file", ["f1/k04.md", "f1/k04.metadata.json"])
def test_an_edit_that_restores_size_and_time_of_change_is_seen(store, tmp_path, reads, file):
    looked(store, tmp_path / "cache")
    path = store / file
    status = path.stat()
    path.write_bytes(path.read_bytes().replace(b"4", b"5"))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    reads.clear()

    assert looked(store, tmp_path / "cache") == looked(store)
    assert reads[0] == "k04"


def test_files_that_trade_places_are_seen(store, tmp_path, reads):
    looked(store, tmp_path / "cache")
    one, other = store / "f0/k00.md", store / "f0/k03.md"
    one.rename(store / "aside")
    other.rename(one)
    (store / "aside").rename(other)

    assert looked(store, tmp_path / "cache") == looked(store)


def test_what_changed_just_before_it_was_read_is_read_again(store, tmp_path, reads, monkeypatch):
    """An edit within the clock's grain may leave every stat as it was."""
    looked(store, tmp_path / "cache")
    reads.clear()
    monkeypatch.setattr(filesystem_stretch, "GRAIN", 10**15)
    put_entry(store, "f1/k04", "edited", {"n": 4})
    looked(store, tmp_path / "cache")
    assert reads == ["k04"]
    looked(store, tmp_path / "cache")

    assert reads == ["k04", "k04"]
    monkeypatch.setattr(filesystem_stretch, "GRAIN", 0)
    looked(store, tmp_path / "cache")
    looked(store, tmp_path / "cache")
    assert reads == ["k04", "k04", "k04"]


def test_with_the_real_grain_a_fresh_file_is_not_kept(tmp_path):
    """The very edit that git calls racy: same size, and the same times by force."""
    put_entry(tmp_path / "store", "k", "one", {})
    file = tmp_path / "store/k.md"
    assert [s.state.bytes for s in looked(tmp_path / "store", tmp_path / "cache")] == [3]
    frozen = os.stat(file)
    file.write_text("two")
    os.utime(file, ns=(frozen.st_atime_ns, frozen.st_mtime_ns))

    assert looked(tmp_path / "store", tmp_path / "cache") == looked(tmp_path / "store")


def test_a_file_from_the_future_is_not_kept(store, tmp_path, reads, monkeypatch):
    """Where the clock was set back no time of change can be told from an earlier one."""
    monkeypatch.setattr(filesystem_stretch, "GRAIN", 2_000_000_000)
    for path in store.rglob("*.md"):
        os.utime(path, (4_000_000_000, 4_000_000_000))
    looked(store, tmp_path / "cache")
    reads.clear()
    looked(store, tmp_path / "cache")

    assert len(reads) == 15


def damaged_in(place):
    def damage(raw):
        at = int(len(raw) * place)
        return raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :]

    return damage


@pytest.mark.parametrize(
    "damage",
    [
        *(pytest.param(damaged_in(place / 40), id=f"flipped-{place}") for place in range(40)),
        *(
            pytest.param(lambda raw, n=n: raw[: len(raw) * n // 10], id=f"cut-{n}")
            for n in range(10)
        ),
        pytest.param(lambda raw: raw[::-1], id="reversed"),
        pytest.param(lambda raw: raw + b"\xff" * 100, id="longer"),
        pytest.param(lambda raw: raw.replace(b"hdev-index/1 ", b"hdev-index/0 "), id="older"),
    ],
)
def test_a_damaged_file_is_never_believed(store, tmp_path, reads, damage):
    states = looked(store, tmp_path / "cache")
    (file,) = kept(tmp_path / "cache")
    file.write_bytes(damage(file.read_bytes()))

    assert looked(store, tmp_path / "cache") == states
    reads.clear()
    assert looked(store, tmp_path / "cache") == states
    assert reads == [] or damage(b"") == b"\xff" * 100


def test_a_file_that_others_may_write_is_not_believed(store, tmp_path, reads):
    looked(store, tmp_path / "cache")
    (file,) = kept(tmp_path / "cache")
    file.chmod(0o620)
    reads.clear()
    looked(store, tmp_path / "cache")

    assert len(reads) == 15
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_file_of_somebody_else_is_not_believed(store, tmp_path, reads, monkeypatch):
    looked(store, tmp_path / "cache")
    reads.clear()
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    looked(store, tmp_path / "cache")

    assert len(reads) == 15


@pytest.mark.parametrize("stand_in", ["link", "fifo", "folder"])
def test_what_is_no_file_is_not_believed_and_hinders_nothing(store, tmp_path, reads, stand_in):
    states = looked(store, tmp_path / "cache")
    (file,) = kept(tmp_path / "cache")
    moved = file.rename(tmp_path / "moved")
    match stand_in:
        case "link":
            file.symlink_to(moved)
        case "fifo":
            os.mkfifo(file)
        case "folder":
            file.mkdir()
    reads.clear()

    assert looked(store, tmp_path / "cache") == states
    assert len(reads) == 15


def test_the_file_of_another_store_or_scope_is_not_believed(store, tmp_path, reads):
    shutil.copytree(store, tmp_path / "other", copy_function=shutil.copy2)
    looked(store, tmp_path / "cache")
    (file,) = kept(tmp_path / "cache")
    looked(tmp_path / "other", tmp_path / "cache")
    (other,) = set(kept(tmp_path / "cache")) - {file}
    shutil.copyfile(file, other)
    reads.clear()
    looked(tmp_path / "other", tmp_path / "cache")

    assert len(reads) == 15
    assert looked(store, tmp_path / "cache", Scope(exclude=["k1*"])) == looked(
        store, scope=Scope(exclude=["k1*"])
    )
    assert looked(store, tmp_path / "cache") == looked(store)


def test_what_was_kept_under_another_normalisation_is_not_believed(store, tmp_path, reads):
    (store / "f1/k04.md").write_bytes(b"text\r\n")
    lf = Normalisation(line_ends="lf")
    exact = looked(store, tmp_path / "cache")

    assert looked(store, tmp_path / "cache", normalisation=lf) == looked(store, normalisation=lf)
    assert looked(store, tmp_path / "cache") == exact != looked(store, normalisation=lf)


def test_a_place_that_cannot_be_written_hinders_nothing(store, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    assert looked(store, tmp_path / "file/cache") == looked(store)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    assert looked(store, tmp_path / "cache") == looked(store)
    assert kept(tmp_path / "cache") == []


def test_an_incomplete_snapshot_replaces_nothing(store, tmp_path, reads):
    looked(store, tmp_path / "cache")
    (file,) = kept(tmp_path / "cache")
    before = file.read_bytes()
    put_entry(store, "f0/k00", "edited")
    with FilesystemBackend(str(store), must_exist=True, index=str(tmp_path / "cache")) as backend:
        states = backend.stretches(EVERYTHING, NORMAL)
        next(states)
        states.close()

    assert kept(tmp_path / "cache") == [file]
    assert file.read_bytes() == before


def test_snapshots_at_once_leave_a_true_file(store, tmp_path, reads):
    states = looked(store)
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(looked(store, tmp_path / "cache")))
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    reads.clear()

    assert found == [states] * 6
    assert looked(store, tmp_path / "cache") == states
    assert reads == []
    assert len(kept(tmp_path / "cache")) == 1


def test_files_that_were_not_used_for_long_are_removed(store, tmp_path):
    (tmp_path / "cache").mkdir()
    old, fresh = (tmp_path / "cache" / (statcache.PREFIX + name) for name in ("old", "fresh"))
    other = tmp_path / "cache/other"
    for path in (old, fresh, other):
        path.write_text("")
    os.utime(old, (LONG_AGO, LONG_AGO))
    os.utime(other, (LONG_AGO, LONG_AGO))
    looked(store, tmp_path / "cache")

    assert not old.exists()
    assert fresh.exists()
    assert other.exists()
    assert len(kept(tmp_path / "cache")) == 2


def test_a_filesystem_of_other_machines_is_always_read(store, tmp_path, monkeypatch):
    monkeypatch.setattr(filesystem, "_filesystem", lambda path: "nfs4")
    looked(store, tmp_path / "cache")

    assert not (tmp_path / "cache").exists()


def test_the_folder_and_the_file_are_private(store, tmp_path):
    looked(store, tmp_path / "a/cache")
    (file,) = kept(tmp_path / "a/cache")

    assert (tmp_path / "a/cache").stat().st_mode & 0o777 == 0o700
    assert file.stat().st_mode & 0o777 == 0o600


def test_tags_are_those_of_whole_entries_and_come_from_the_index(store, reads):
    def tags():
        with FilesystemBackend(str(store), must_exist=True, index=str(store)) as backend:
            assert isinstance(backend, Tagged)
            return list(backend.tagged(EVERYTHING, NORMAL))

    first = tags()
    with FilesystemBackend(str(store), must_exist=True) as backend:
        entries = list(backend.read(backend.keys()))
    assert [state for state, _ in first] == looked(store)
    assert all(isinstance(entry, Entry) for entry in entries)
    assert [tag for _, tag in first] == [tag_of(e.content, e.metadata) for e in entries]
    put_entry(store, "f1/k04", "text 4", {"n": 4, "created": "now"})
    reads.clear()
    second = tags()

    assert reads == ["k04"]
    assert [pair for pair in second if pair not in first] == [
        (state, tag) for state, tag in second if state.key == "f1/k04"
    ]


def test_an_index_in_the_store_is_no_entry_and_no_foreign_file(store, tmp_path):
    with FilesystemBackend(str(store), must_exist=True, index=str(store)) as backend:
        list(backend.stretches(EVERYTHING, NORMAL))
        states = list(backend.snapshot(EVERYTHING, NORMAL))

        assert backend.ignored == 0
    assert len(states) == 15
    assert len(kept(store)) == 1


NAMES = st.sampled_from(["a", "b", "f/a", "f/b", "f/b.md/c", "g/x", "g/y", "f.x/z"])
TEXTS = st.sampled_from(["one", "two", "longer text"])
EDITS = st.lists(
    st.one_of(
        st.tuples(st.just("content"), NAMES, TEXTS),
        st.tuples(st.just("restored"), NAMES, TEXTS),
        st.tuples(st.just("metadata"), NAMES, TEXTS),
        st.tuples(st.just("rename"), NAMES, NAMES),
        st.tuples(st.just("swap"), NAMES, NAMES),
        st.tuples(st.just("delete"), NAMES),
        st.tuples(st.just("bare"), NAMES),
        st.tuples(st.just("look")),
    ),
    max_size=12,
)


def edit(root, what, *args):
    files = [root / f"{name}.md" for name in args[:2]]
    with contextlib.suppress(OSError):
        match what, args:
            case "content", (name, text):
                put_entry(root, name, text)
            case "restored", (_, text):
                status = files[0].stat()
                files[0].write_text(text)
                os.utime(files[0], ns=(status.st_atime_ns, status.st_mtime_ns))
            case "metadata", (name, text):
                (root / f"{name}.metadata.json").write_text(f'{{"text": "{text}"}}')
            case "rename", _:
                files[0].rename(files[1])
            case "swap", _:
                files[0].rename(root / "aside")
                files[1].rename(files[0])
                (root / "aside").rename(files[1])
            case "delete", _:
                files[0].unlink()
            case "bare", (name,):
                (root / f"{name}.metadata.json").unlink()


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(EDITS)
def test_whatever_is_edited_a_look_with_the_cache_equals_one_without(tmp_path_factory, edits):
    place = tmp_path_factory.mktemp("edited")
    root = place / "store"
    for name in ("a", "f/a", "g/x", "g/y"):
        put_entry(root, name, name)
    for words in [("look",), *edits, ("look",)]:
        if words[0] != "look":
            edit(root, *words)
        with pytest.MonkeyPatch.context() as patch:
            # Timestamps of this machine are finer than the edits are close to one another.
            patch.setattr(filesystem_stretch, "GRAIN", -(10**15) if words[0] == "look" else 0)
            found = looked(root, place / "cache")

        assert list(map(repr, found)) == list(map(repr, looked(root)))


def poison(file):
    """Make the file say that every entry has this content, and say so soundly."""
    raw = file.read_bytes()
    at = raw.index(b"\n") + 1
    out = [raw[:at]]
    while at < len(raw):
        size, _ = statcache._FRAME.unpack_from(raw, at)
        part = statcache._part.decode(raw[at + 20 : at + 20 + size])
        at += 20 + size
        lines = b"".join(
            line.replace(line[line.index(b'"content":"') + 11 :][:64], b"0" * 64)
            for line in part.stretch.lines.splitlines(keepends=True)
        )
        part = msgspec.structs.replace(
            part, stretch=msgspec.structs.replace(part.stretch, lines=lines)
        )
        packed = statcache._pack(part)
        out.append(statcache._FRAME.pack(len(packed), statcache._sum(packed)) + packed)
    file.write_bytes(b"".join(out))


@pytest.mark.parametrize("which", [0, 1])
def test_a_plan_believes_what_is_kept_and_an_apply_never_does(hdev, home, monkeypatch, which):
    """Whichever end was lied about, and though the two differ."""
    monkeypatch.setattr(filesystem_stretch, "GRAIN", -(10**15))
    source, target = home / "source", home / "target"
    for name in ("a", "b"):
        put_entry(source, name, "text")
        put_entry(target, name, "other")
    ends = (f"filesystem:{source}", f"filesystem:{target}", "--overwrite")
    hdev("plan", *ends, "-o", "first")
    poison(kept(home / ".cache/hdev-memory")[which])
    tree = tree_of(target)
    assert hdev("plan", *ends, "-o", "second").status == 0
    assert hdev("plan", *ends, "-o", "third", "--no-cache").status == 0

    assert "0" * 64 in Path("second/plan.json").read_text()
    assert "0" * 64 not in Path("third/plan.json").read_text()
    assert hdev("apply", "second").status == 3
    assert hdev("verify", "second").status != 0
    assert tree_of(target) == tree


def test_no_cache_reads_everything_and_writes_nothing(hdev, home):
    put_entry(home / "source", "a", "text")
    ends = (f"filesystem:{home / 'source'}", f"filesystem:{home / 'target'}")
    assert hdev("plan", *ends, "-o", "plan", "--no-cache").status == 0

    assert not (home / ".cache").exists()
    assert hdev("plan", *ends, "-o", "again").status == 0
    assert len(kept(home / ".cache/hdev-memory")) == 1


def test_memory_stays_flat_however_large_the_store(tmp_path):
    """Nine times as many folders, and the peak is the same: the second look, over a warm file."""
    script = (
        "import resource, sys\n"
        "from hdev_memory.backends.base import EVERYTHING\n"
        "from hdev_memory.backends.filesystem import FilesystemBackend\n"
        "from hdev_memory.core.entry import Normalisation\n"
        "root, index = sys.argv[1:]\n"
        "for _ in range(2):\n"
        "    with FilesystemBackend(root, must_exist=True, index=index) as backend:\n"
        "        for _ in backend.stretches(EVERYTHING, Normalisation()):\n"
        "            pass\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n"
    )
    peaks = []
    for count in (10, 90):
        root = tmp_path / f"store{count}"
        seed = tmp_path / f"seed{count}"
        put_entry(seed, "k", "x", {"text": "y" * 3000})
        for folder in range(count):
            (root / f"f{folder}").mkdir(parents=True)
            for number in range(25):
                for suffix in (".md", ".metadata.json"):
                    os.link(seed / f"k{suffix}", root / f"f{folder}/k{number}{suffix}")
        done = subprocess.run(
            [sys.executable, "-c", script, str(root), str(tmp_path / "cache")],
            capture_output=True,
            text=True,
            check=True,
        )
        peaks.append(int(done.stdout))
    size = sum(path.stat().st_size for path in kept(tmp_path / "cache"))

    assert size > 6_000_000
    assert peaks[1] - peaks[0] < 4_000


@pytest.mark.parametrize("cold", [True, False])
def test_files_on_a_disk_are_read_ahead_and_those_in_memory_are_not(tmp_path, monkeypatch, cold):
    for number in range(120):
        put_entry(tmp_path / "store", f"f{number // 40}/k{number:03}", f"text {number}")
    expected = looked(tmp_path / "store")
    blocks, fetched = [0], []

    def read():
        blocks[0] += 1000 if cold else 0
        return blocks[0]

    ahead = filesystem_stretch._read_ahead

    def counted(folder, names):
        fetched.extend(names)
        ahead(folder, names)

    monkeypatch.setattr(filesystem_stretch, "_blocks_read", read)
    monkeypatch.setattr(filesystem_stretch, "_read_ahead", counted)

    assert looked(tmp_path / "store") == expected
    assert len(fetched) == (80 if cold else 0)  # of the first folder it is not known yet


def test_where_the_cache_lies(home, monkeypatch):
    from hdev_memory.cli import context

    assert context.cache_folder() == home / ".cache/hdev-memory"
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "own"))
    assert context.cache_folder() == home / "own/hdev-memory"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert context.cache_folder() == Path(home) / ".cache/hdev-memory"
