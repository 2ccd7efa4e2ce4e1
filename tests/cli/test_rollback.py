"""Rolling a plan back: byte for byte, through the same gates, and what becomes of pre-images."""

import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from tests.conftest import put_entry, tree_of
from tests.emulation.existing_server import ExistingServer
from tests.processes import PROGRAM, MemoryServer

ENDS = ("filesystem:source", "filesystem:target")
ALL = ("--overwrite", "--delete")


@pytest.fixture
def work(home):
    """A source and a target that differ in every way; metadata in odd forms of the target."""
    work = home.parent / "work"
    for key, text in {"new": "n", "same": "s", "changed": "ours", "deep/er/v1.2": "d"}.items():
        put_entry(work / "source", key, text, {"k": 1})
    for key, text in {"same": "s", "changed": "theirs", "gone": "g", "kept/x": "o"}.items():
        put_entry(work / "target", key, text, {"k": 1})
    (work / "target/changed.metadata.json").write_bytes(b'{"version":7,"k": "old\\u00fc"}\n\n')
    (work / "target/gone.metadata.json").unlink()
    return work


def applied(hdev, name="p", *flags):
    assert hdev("plan", *ENDS, "-o", name, *(flags or ALL)).status == 0
    result = hdev("apply", name)
    assert result.status == 0, result.err


def rolled_back(hdev, name="p", into="back", *flags):
    made = hdev("rollback", name, "-o", into, *flags)
    assert made.status == 0, made.err
    result = hdev("apply", into)
    assert result.status == 0, result.err


def test_a_rollback_restores_every_file_byte_for_byte(hdev, work):
    before = tree_of(work / "target")
    applied(hdev)
    assert tree_of(work / "target") != before
    rolled_back(hdev)

    assert tree_of(work / "target") == before


def test_a_rollback_of_a_rollback_brings_the_plan_back(hdev, work):
    applied(hdev)
    after = tree_of(work / "target")
    rolled_back(hdev)
    rolled_back(hdev, "back", "forth")

    assert tree_of(work / "target") == after


def test_a_plan_that_only_created_is_rolled_back_by_deletes(hdev, work):
    before = tree_of(work / "target")
    applied(hdev, "p", "--include", "new")
    made = hdev("rollback", "p", "-o", "back")

    assert "0 to create, 0 to overwrite, 1 to delete" in made.out
    assert hdev("apply", "back").status == 0
    assert tree_of(work / "target") == before


def test_what_was_changed_since_is_named_and_survives(hdev, work):
    applied(hdev)
    put_entry(work / "target", "changed", "later")
    refused = hdev("rollback", "p", "-o", "back")

    assert refused.status == 3
    assert "Changed since: changed" in refused.err
    assert "--skip-changed" in refused.err
    assert not (work / "back").exists()
    rolled_back(hdev, "p", "back", "--skip-changed")
    assert (work / "target/changed.md").read_text() == "later"
    assert (work / "target/gone.md").read_text() == "g"
    assert not (work / "target/new.md").exists()


def test_what_is_changed_after_the_rollback_was_planned_is_drift(hdev, work):
    applied(hdev)
    assert hdev("rollback", "p", "-o", "back").status == 0
    put_entry(work / "target", "changed", "later")
    result = hdev("apply", "back")

    assert result.status == 3
    assert (work / "target/changed.md").read_text() == "later"
    assert (work / "target/new.md").exists()


def test_a_plan_that_was_never_applied_has_nothing_to_roll_back(hdev, work):
    hdev("plan", *ENDS, "-o", "p")
    result = hdev("rollback", "p", "-o", "back")

    assert result.status == 1
    assert "There are no pre-images of this plan." in result.err


def test_a_damaged_pre_image_is_never_written(hdev, work):
    applied(hdev)
    (work / "p/backup/changed.md").write_text("edited")
    result = hdev("rollback", "p", "-o", "back")

    assert result.status == 1
    assert "pre-image is missing or damaged" in result.err
    assert not (work / "back").exists()


def test_a_run_that_was_killed_is_rolled_back_as_far_as_it_got(hdev, work):
    for count in range(1500):
        put_entry(work / "source", f"many/{count:04}", f"text {count}")
    before = tree_of(work / "target")
    assert hdev("plan", *ENDS, "-o", "p", *ALL).status == 0
    with subprocess.Popen([*PROGRAM, "apply", "p"], stderr=subprocess.DEVNULL) as process:
        while next(work.glob("target/many/*.md"), None) is None:
            assert process.poll() is None
            time.sleep(0.005)  # the processor is for the other one
        process.send_signal(signal.SIGKILL)
    made = hdev("rollback", "p", "-o", "back")
    if made.status == 3:  # an entry was cut between its two files: an apply finishes it first
        assert hdev("apply", "p").status == 0
        made = hdev("rollback", "p", "-o", "back")

    assert made.status == 0, made.err
    assert hdev("apply", "back").status == 0
    left = {
        name: text for name, text in tree_of(work / "target").items() if ".hdev-tmp" not in name
    }
    assert left == before


@pytest.mark.parametrize("kind", ["ours", "existing"])
def test_a_server_is_rolled_back_entry_for_entry(hdev, work, kind):
    served = work / "served"
    shutil.copytree(work / "target", served)
    put_entry(served, "gone", "g", {"k": 1})
    put_entry(served, "changed", "theirs", {"k": 2})
    (work / "source/deep/er/v1.2.md").unlink()
    (work / "source/deep/er/v1.2.metadata.json").unlink()
    server = MemoryServer(served, "key") if kind == "ours" else ExistingServer(served, "key")
    with server as running:
        key = ("--api-key", "key")
        made = hdev("plan", "filesystem:source", running.url, "-o", "p", *ALL, *key)
        assert made.status == 0, made.err
        assert hdev("apply", "p", *key).status == 0
        assert (served / "changed.md").read_text() == "ours"
        back = hdev("rollback", "p", "-o", "back", *key)
        assert back.status == 0, back.err
        assert hdev("apply", "back", *key).status == 0

    assert (served / "changed.md").read_text() == "theirs"
    assert (served / "gone.md").read_text() == "g"
    assert not (served / "new.md").exists()


def test_backups_are_listed_with_their_state(hdev, work):
    applied(hdev, "plans/one")
    listed = hdev("backups", "list")

    assert listed.status == 0
    assert "plans/one  3 pre-images" in listed.out
    assert "finished 20" in listed.out


def test_pruning_leaves_what_is_young_or_unfinished(hdev, work):
    applied(hdev, "plans/one")
    young = hdev("backups", "prune")
    log = work / "plans/one/audit.jsonl"
    whole = log.read_bytes()
    log.write_bytes(b"".join(whole.splitlines(keepends=True)[:-1]))  # the run never ended
    unfinished = hdev("backups", "prune", "--older-than", "1m")

    assert "0 pruned." in young.out
    assert "its run is not finished" in unfinished.out
    assert (work / "plans/one/backup/changed.md").exists()


def test_pruned_pre_images_are_gone_and_the_log_says_so(hdev, work, monkeypatch):
    from datetime import UTC, datetime, timedelta

    applied(hdev, "plans/one")
    monkeypatch.setattr(
        "hdev_memory.cli.context.now", lambda: datetime.now(UTC) + timedelta(days=31)
    )
    dry = hdev("backups", "prune", "--dry-run")
    assert (work / "plans/one/backup").exists()
    done = hdev("backups", "prune")

    assert "1 would be pruned." in dry.out
    assert "1 pruned." in done.out
    assert not (work / "plans/one/backup").exists()
    assert "pruned" in hdev("audit", "show", "plans/one").out
    assert hdev("rollback", "plans/one", "-o", "back").status == 1


def test_a_plan_folder_inside_a_memory_is_refused(hdev, work):
    for place in ("source/p", "target/p"):
        result = hdev("plan", *ENDS, "-o", place)
        assert result.status == 64
        assert "inside a memory" in result.err
        assert not Path(place).exists()
