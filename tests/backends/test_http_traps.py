"""Each trap of the existing server, on its emulation, and what our tool does about it.

The numbers are those of the list of traps in `docs/existing-server.md`.
"""

import json
import os
import shutil
from pathlib import Path

import pytest
from tests.conftest import put_entry, tree_of
from tests.emulation.existing_server import BOILERPLATE, ExistingServer

from hdev_memory.backends.base import (
    EVERYTHING,
    Drifted,
    Failed,
    Put,
    Remove,
    Removed,
    Secret,
    Stored,
    Where,
)
from hdev_memory.backends.http import HttpBackend
from hdev_memory.core.diff import Blocked, Rules, Skip, diff
from hdev_memory.core.entry import Absent, Entry, Normalisation, Unreadable

KEY = "canary-key-of-the-server"
NORMAL = Normalisation(line_ends="lf")


@pytest.fixture(scope="module")
def process(tmp_path_factory):
    """One process for all: it takes a second to start."""
    with ExistingServer(tmp_path_factory.mktemp("running") / "served", KEY) as running:
        yield running


@pytest.fixture
def server(process):
    """The server, holding nothing but its placeholder."""
    shutil.rmtree(process.root)
    put_entry(process.root, "global", BOILERPLATE)
    return process


@pytest.fixture
def client(server):
    with HttpBackend(Where("http", server.url, Secret(KEY))) as backend:
        yield backend


def put(key, content=b"x", metadata=None, before=None):
    metadata = metadata or {}
    after = NORMAL.state(content, metadata)
    return Put(key=key, content=content, metadata=metadata, before=before, after=after)


def snapshot(backend):
    return {found.key: found for found in backend.snapshot(EVERYTHING, NORMAL)}


def actions(source_root, client):
    """What a plan from a folder to the server would do, by key."""
    from hdev_memory.backends.filesystem import FilesystemBackend

    with FilesystemBackend(str(source_root), must_exist=True) as source:
        found = diff(
            source.snapshot(EVERYTHING, NORMAL),
            client.snapshot(EVERYTHING, NORMAL),
            Rules(overwrite=False, delete=False, compare="all", capabilities=client.capabilities),
            client.obstacle,
        )
        return {outcome.key: outcome for outcome in found}


def to_server(hdev, server, *flags):
    return hdev(
        "migrate-memory", "--target", "http", "--target-url", server.url, "--api-key", KEY, *flags
    )


def test_1_dotted_names_are_blocked_and_the_rest_is_copied(hdev, home, server):
    store = home / ".hdev/memory"
    for name in ("v1.2", "v1.3", "plain"):
        put_entry(store, f"notes/{name}", name)

    result = to_server(hdev, server)

    assert result.status == 4
    assert "1 entries were copied, 0 skipped, 2 failed." in result.out
    assert "  notes/v1.2: " in result.out
    assert [name for name in tree_of(server.root) if name.startswith("notes/")] == [
        "notes/plain.md",
        "notes/plain.metadata.json",
    ]


def test_1_reading_a_dotted_name_does_not_read_the_entry_that_the_server_would_give(client, server):
    put_entry(server.root, "notes/v1", "another entry")

    assert list(client.read(["notes/v1.2"])) == [Absent(key="notes/v1.2")]


def test_2_an_entry_hidden_by_a_folder_of_its_name_is_found_and_reported(client, server):
    put_entry(server.root, "foo", "hidden")
    put_entry(server.root, "foo/inner", "seen")

    found = snapshot(client)

    assert isinstance(found["foo"], Unreadable)
    assert "folder of this name hides it" in found["foo"].reason
    assert found["foo/inner"].state == NORMAL.state(b"seen", {})


def test_2_what_reads_as_a_folder_is_never_deleted(client, server):
    put_entry(server.root, "foo", "hidden")
    put_entry(server.root, "foo/inner", "seen")
    before = tree_of(server.root)

    (receipt,) = client.write([Remove(key="foo", before=NORMAL.state(b"hidden", {}))], NORMAL)

    assert isinstance(receipt, Failed)
    assert tree_of(server.root) == before


def test_2_writes_that_would_hide_an_entry_are_blocked(client, server, tmp_path):
    put_entry(server.root, "taken", "an entry")
    put_entry(server.root, "folder/inner", "in a folder")
    put_entry(tmp_path / "source", "taken/below", "would hide `taken`")
    put_entry(tmp_path / "source", "folder", "would be hidden by `folder/`")
    put_entry(tmp_path / "source", "both", "and")
    put_entry(tmp_path / "source", "both/inner", "beside each other")

    found = actions(tmp_path / "source", client)

    assert isinstance(found["taken/below"], Blocked)
    assert isinstance(found["folder"], Blocked)
    assert sorted(type(found[key]).__name__ for key in ("both", "both/inner")) in (
        ["Blocked", "Blocked"],
        ["Blocked", "Create"],
    )


def test_3_an_empty_folder_is_no_entry(client, server):
    (server.root / "empty/deeper").mkdir(parents=True)

    assert list(snapshot(client)) == ["global"]


def test_4_the_placeholder_counts_as_absent_and_is_replaced_without_overwrite(hdev, home, server):
    put_entry(home / ".hdev/memory", "global", "what we know")

    result = to_server(hdev, server)

    assert result.status == 0
    assert "1 entries were copied, 0 skipped, 0 failed." in result.out
    assert tree_of(server.root)["global.md"] == b"what we know"


def test_4_a_global_that_somebody_wrote_is_skipped(client, server, tmp_path):
    put_entry(server.root, "global", "theirs")
    put_entry(tmp_path / "source", "global", "ours")

    assert isinstance(actions(tmp_path / "source", client)["global"], Skip)


@pytest.mark.parametrize("damage", ["metadata missing", "metadata broken", "content not UTF-8"])
def test_5_an_unreadable_target_entry_is_blocked_and_survives(hdev, home, server, damage):
    put_entry(home / ".hdev/memory", "a", "ours")
    put_entry(server.root, "a", b"\xff" if "UTF-8" in damage else "theirs")
    sidecar = server.root / "a.metadata.json"
    if damage == "metadata missing":
        sidecar.unlink()
    elif damage == "metadata broken":
        sidecar.write_text("{")
    before = tree_of(server.root)

    result = to_server(hdev, server, "--overwrite")

    assert result.status == 4
    assert "0 entries were copied, 0 skipped, 1 failed." in result.out
    assert tree_of(server.root) == before


def test_6_line_ends_are_compared_as_the_server_returns_them_and_the_plan_says_so(
    hdev, home, server
):
    put_entry(home / ".hdev/memory", "a", "one\r\ntwo\rthree\n")

    assert to_server(hdev, server).status == 0
    again = hdev("plan", "filesystem", f"http:{server.url}", "--api-key", KEY, "--overwrite")

    assert "Nothing to do." in again.out
    assert "exact bytes cannot be verified" in again.out
    # Its Python wrote what we sent; only its reading loses the line ends.
    assert b"two" in tree_of(server.root)["a.md"]


@pytest.mark.parametrize(
    "key", ["c#", "c?x", "100%41", "a b", "ä/日本", "+", "semi;colon", "x&y=z"]
)
def test_7_unusual_names_reach_their_own_entry(client, server, key):
    (receipt,) = client.write([put(key, key.encode())], NORMAL)

    assert isinstance(receipt, Stored)
    assert tree_of(server.root)[f"{key}.md"] == key.encode()


def test_8_what_would_poison_an_entry_is_not_sent(client, server):
    good = put("a", b"good")
    client.write([good], NORMAL)
    before = tree_of(server.root)
    for bad in (
        put_raw("a", b"x", {"k": float("nan")}, good.after),
        put_raw("a", b"x", {"k": "\ud800"}, good.after),
        put_raw("a", b"\xed\xa0\x80", {}, good.after),
    ):
        (receipt,) = client.write([bad], NORMAL)
        assert isinstance(receipt, Failed)
        assert receipt.intact

    assert tree_of(server.root) == before


def put_raw(key, content, metadata, before):
    return Put(key=key, content=content, metadata=metadata, before=before, after=before)


def test_8_an_entry_whose_version_is_no_number_fails_without_being_touched(client, server):
    put_entry(server.root, "a", "old", {"version": "two"})
    before = tree_of(server.root)

    (receipt,) = client.write([put("a", b"new", before=NORMAL.state(b"old", {}))], NORMAL)

    assert isinstance(receipt, Failed)
    assert receipt.intact
    assert tree_of(server.root) == before


@pytest.mark.parametrize("metadata", ["[]", '{"k": "\\ud800"}', '{"k": NaN}'])
def test_8_poisoned_metadata_is_unknown_or_read_as_the_server_gives_it(client, server, metadata):
    put_entry(server.root, "a", "x", ...)
    (server.root / "a.metadata.json").write_text(metadata)

    (found,) = client.read(["a"])

    if "NaN" in metadata:  # the server returns null for it, and nothing tells them apart
        assert found == Entry(key="a", content=b"x", metadata={"k": None})
    else:
        assert isinstance(found, Unreadable)


def test_9_a_failed_write_that_damaged_the_entry_is_reported_as_damaged(tmp_path):
    root = tmp_path / "served"
    put_entry(root, "a", "old")
    with (
        ExistingServer(root, KEY, "--break-writes-after", "2") as server,
        HttpBackend(Where("http", server.url, Secret(KEY))) as client,
    ):
        (receipt,) = client.write([put("a", b"new", before=NORMAL.state(b"old", {}))], NORMAL)

    assert isinstance(receipt, Failed)
    assert not receipt.intact
    assert "No space left on device" in receipt.reason


def test_9_the_place_of_the_pre_image_of_a_damaged_entry_is_told(hdev, home, tmp_path):
    root = tmp_path / "served"
    put_entry(root, "a", "old")
    put_entry(home / "source", "a", "new")
    with ExistingServer(root, KEY, "--break-writes-after", "2") as server:
        planned = hdev(
            "plan", f"filesystem:{home}/source", server.url, "--overwrite", "--api-key", KEY,
            "-o", "p",
        )  # fmt: skip
        applied = hdev("apply", "p", "--api-key", KEY)

    assert (planned.status, applied.status) == (0, 4), planned.err
    assert (root / "a.md").read_text() == ""
    assert "p/backup/a.md" in applied.err
    assert Path("p/backup/a.md").read_text() == "old"


def test_10_what_was_read_in_the_middle_of_a_write_is_never_copied(hdev, home, server):
    """One read cannot tell half a text from a whole one; the digests of two reads can."""
    put_entry(server.root, "busy", "first half")
    planned = hdev(
        "plan", f"http:{server.url}", f"filesystem:{home}/copy", "--api-key", KEY, "-o", "p"
    )
    put_entry(server.root, "busy", "first half, second half")

    applied = hdev("apply", "p", "--source-api-key", KEY)

    assert planned.status == 0, planned.err
    assert applied.status == 3, applied.err
    assert not (home / "copy/busy.md").exists()


@pytest.mark.parametrize("key", ["..", "../outside", "", "/etc/passwd", "a/../../b"])
def test_11_paths_that_lead_outside_are_never_sent(client, server, key):
    put_entry(server.root.parent, "outside", "not yours")
    before = tree_of(server.root.parent)
    state = NORMAL.state(b"not yours", {})

    receipts = client.write([put(key), Remove(key=key, before=state)], NORMAL)

    assert [type(receipt) for receipt in receipts] == [Failed, Failed]
    assert not isinstance(next(iter(client.read([key]))), Entry)
    assert tree_of(server.root.parent) == before


def test_12_a_wrong_key_and_a_dead_server_are_exit_9_with_the_cause(hdev, home, server):
    put_entry(home / ".hdev/memory", "a", "x")
    place = ("migrate-memory", "--target", "http", "--target-url")

    wrong = hdev(*place, server.url, "--api-key", "wrong", "--dry-run")
    missing = hdev(*place, server.url, "--dry-run")
    dead = hdev(*place, "http://127.0.0.1:9", "--dry-run")

    assert (wrong.status, missing.status, dead.status) == (9, 9, 9)
    assert "HTTP request failed: " in wrong.err
    assert "401 Invalid API key" in wrong.err
    assert "401 API key required" in missing.err
    assert "HTTP request failed: " in dead.err
    assert not list(home.parent.glob("work/plans/*"))


def test_13_planning_writes_nothing_at_either_end(hdev, home, server):
    put_entry(home / ".hdev/memory", "a", "x")
    before = tree_of(server.root), tree_of(home)

    assert to_server(hdev, server, "--dry-run").status == 0
    back = hdev(
        "migrate-memory", "--source", "http", "--source-url", server.url, "--api-key", KEY,
        "--target", "filesystem", "--target-path", home / "not-there", "--dry-run",
    )  # fmt: skip
    typo = hdev("plan", f"filesystem:{home}/typo", f"http:{server.url}", "--api-key", KEY)

    assert back.status == 0
    assert typo.status == 1
    assert str(home / "typo") in typo.err
    assert (tree_of(server.root), tree_of(home)) == before
    assert not (home / "not-there").exists()


def test_14_one_server_under_two_names_is_the_same_memory(hdev, server):
    other = server.url.replace("127.0.0.1", "localhost")

    result = hdev("plan", f"http:{server.url}", f"http:{other}", "--api-key", KEY)

    assert result.status == 1
    assert "same memory" in result.err


def test_15_two_servers_with_two_keys(hdev, server, tmp_path):
    put_entry(server.root, "a", "x")
    with ExistingServer(tmp_path / "production", "other-key") as production:
        words = (
            "migrate-memory", "--source", "http", "--source-url", server.url,
            "--target", "http", "--target-url", production.url,
        )  # fmt: skip
        one_key = hdev(*words, "--api-key", KEY, "--dry-run")
        two_keys = hdev(*words, "--source-api-key", KEY, "--target-api-key", "other-key")
        copied = tree_of(production.root)

    assert one_key.status == 9
    assert "sent to both servers" in one_key.err
    assert two_keys.status == 0
    assert copied["a.md"] == b"x"


def test_16_overwrite_false_does_not_overwrite_and_a_mistyped_value_is_refused(
    hdev, home, server, monkeypatch
):
    monkeypatch.setenv("HDEV_MEMORY_HTTP_API_KEY", KEY)
    put_entry(home / ".hdev/memory", "a", "ours")
    put_entry(server.root, "a", "theirs")
    line = f'!migrate_memory target_config="http:{server.url}" overwrite='

    kept = hdev("session", stdin=line + "false\n")
    typo = hdev("session", stdin=line + "flase\n")

    assert "0 entries were copied, 1 skipped, 0 failed." in kept.out
    assert typo.status == 64
    assert tree_of(server.root)["a.md"] == b"theirs"


def test_17_links_in_a_folder_are_not_followed_and_are_named(hdev, home, server):
    store = home / ".hdev/memory"
    put_entry(store, "a", "x")
    put_entry(home, "secret", "elsewhere")
    (store / "link.md").symlink_to(home / "secret.md")
    (store / "loop").symlink_to(store)
    os.mkfifo(store / "pipe.md")
    store.joinpath(os.fsdecode(b"caf\xe9.md")).write_text("x")

    result = to_server(hdev, server)

    assert result.status == 4
    assert "1 entries were copied, 0 skipped, " in result.out
    for name in ("link", "loop", "pipe", "caf\\\\xe9"):
        assert f"  {name}" in result.out, name
    assert "elsewhere" not in str(tree_of(server.root))


def test_18_a_tree_that_is_too_deep_for_one_answer_is_listed_folder_by_folder(client, server):
    deep = "/".join(["d"] * 300)
    put_entry(server.root, f"{deep}/leaf", "x")
    put_entry(server.root, "flat", "y")

    found = snapshot(client)

    assert sorted(found) == [f"{deep}/leaf", "flat", "global"]


def test_a_write_whose_answer_was_lost_is_settled_by_reading(tmp_path):
    with (
        ExistingServer(tmp_path / "served", KEY, "--lose-answer-of-write", "2") as server,
        HttpBackend(Where("http", server.url, Secret(KEY))) as client,
    ):
        (receipt,) = client.write([put("a", b"new")], NORMAL)
        versions = json.loads(tree_of(server.root)["a.metadata.json"])["version"]

    assert isinstance(receipt, Stored)
    assert versions == 1  # and it was sent once


def test_a_server_that_confirms_and_writes_nothing_is_not_believed(tmp_path):
    with (
        ExistingServer(tmp_path / "served", KEY, "--say-yes-write-nothing") as server,
        HttpBackend(Where("http", server.url, Secret(KEY))) as client,
    ):
        (receipt,) = client.write([put("a")], NORMAL)

    assert isinstance(receipt, Failed)


def test_metadata_that_only_the_target_has_stays_and_the_plan_says_so(hdev, home, server):
    put_entry(home / ".hdev/memory", "a", "new", {"k": 1})
    put_entry(server.root, "a", "old", {"theirs": 2})

    result = hdev(
        "plan", "filesystem", f"http:{server.url}", "--api-key", KEY, "--overwrite", "-o", "p"
    )
    applied = hdev("apply", "p", "--target-api-key", KEY)

    assert "merges metadata" in result.out
    assert applied.status == 0, applied.err
    stored = json.loads(tree_of(server.root)["a.metadata.json"])
    assert (stored["k"], stored["theirs"]) == (1, 2)


def test_creates_overwrites_and_deletes_arrive_with_their_bookkeeping(client, server):
    metadata = {"created": "2020", "updated": "2021", "version": 7, "k": "v"}
    first = put("a", b"one", metadata)
    (created,) = client.write([first], NORMAL)
    stored = json.loads(tree_of(server.root)["a.metadata.json"])
    (overwritten,) = client.write([put("a", b"two", metadata, before=first.after)], NORMAL)
    stale = client.write([Remove(key="a", before=first.after)], NORMAL)
    gone = client.write([Remove(key="a", before=NORMAL.state(b"two", metadata))], NORMAL)

    assert stored == metadata
    assert isinstance(created, Stored)
    assert isinstance(overwritten, Stored)
    assert isinstance(stale[0], Drifted)
    assert isinstance(gone[0], Removed)
    assert "a.md" not in tree_of(server.root)
