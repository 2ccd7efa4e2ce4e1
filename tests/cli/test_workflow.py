"""Plan, show, apply, verify, audit: what each does, and the exit status of each ending."""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from tests.conftest import put_entry, tree_of
from tests.emulation.existing_server import ExistingServer
from tests.processes import PROGRAM, MemoryServer

from hdev_memory.backends.filesystem import FilesystemBackend

KEY = "canary-of-the-workflow"
TEXT = "canary text of an entry"


@pytest.fixture
def work(home):
    """A folder with a source and a target; commands run in it."""
    work = home.parent / "work"
    for key, text in {"new": TEXT, "same": "s", "changed": "ours", "deep/er/v1.2": "d"}.items():
        put_entry(work / "source", key, text, {"k": 1})
    for key, text in {"same": "s", "changed": "theirs", "gone": "g", "other": "o"}.items():
        put_entry(work / "target", key, text, {"k": 1})
    return work


ENDS = ("filesystem:source", "filesystem:target")
ALL = ("--overwrite", "--delete")


def plan(hdev, *flags):
    result = hdev("plan", *ENDS, "-o", "p", *flags)
    assert result.status == 0, result.err
    return json.loads(hdev("show", "p", "--format", "json").out)


def test_from_plan_to_audit(hdev, work):
    made = plan(hdev, *ALL)
    applied = hdev("apply", "p", "--expect", made["plan_id"])
    verified = hdev("verify", "p")
    head = applied.out.split("Audit head ")[1].strip()
    audited = hdev("audit", "verify", "p", "--head", head)

    assert (applied.status, verified.status, audited.status) == (0, 0, 0), applied.err
    assert "Applied: 2 created, 1 overwritten, 2 deleted." in applied.out
    assert "Verified: 5 as planned, 0 differ." in verified.out
    source, target = tree_of(work / "source"), tree_of(work / "target")
    assert {name: text for name, text in source.items() if name.endswith(".md")} == {
        name: text for name, text in target.items() if name.endswith(".md")
    }


def test_planning_touches_neither_end(hdev, work):
    before = tree_of(work)
    plan(hdev, *ALL)
    after = tree_of(work)

    assert {name: text for name, text in after.items() if not name.startswith("p/")} == before


def test_without_flags_nothing_of_the_target_changes(hdev, work):
    before = tree_of(work / "target")
    made = plan(hdev)
    hdev("apply", "p")
    after = tree_of(work / "target")

    assert made["summary"]["create"] == 2
    assert (made["summary"]["skip"], made["summary"]["unchanged"]) == (1, 1)
    assert {name: after[name] for name in before} == before


def test_patterns_say_what_takes_part(hdev, work):
    made = plan(
        hdev,
        *ALL,
        "--include",
        "deep/",
        "--include",
        "gone",
        "--exclude",
        "*.3",
        "--max-delete",
        "1",
    )
    assert [(a["action"], a["key"]) for a in made["actions"]] == [
        ("create", "deep/er/v1.2"),
        ("delete", "gone"),
    ]


def test_compare_content_leaves_metadata_alone(hdev, work):
    put_entry(work / "target", "same", "s", {"k": 2})

    assert "same" in [a["key"] for a in plan(hdev, "--overwrite")["actions"]]
    shutil.rmtree("p")
    assert "same" not in [
        a["key"] for a in plan(hdev, "--overwrite", "--compare", "content")["actions"]
    ]


@pytest.mark.parametrize(
    ("command", "status"),
    [
        (("plan", *ENDS, "-o", "q", "--detailed-exitcode"), 2),
        (("plan", ENDS[0], ENDS[0] + "-copy", "-o", "q", "--detailed-exitcode"), 0),
        (("show", "p", "--detailed-exitcode"), 2),
        (("show", "p"), 0),
    ],
)
def test_detailed_exit_codes_tell_that_there_is_something_to_do(hdev, work, command, status):
    shutil.copytree(work / "source", work / "source-copy")
    plan(hdev)

    assert hdev(*command).status == status


DRIFTS = {
    "source changed": lambda work: put_entry(work / "source", "new", "drift"),
    "source vanished": lambda work: (work / "source/new.md").unlink(),
    "source unreadable": lambda work: (work / "source/new.md").write_bytes(b"\xff"),
    "source metadata changed": lambda work: put_entry(work / "source", "new", TEXT, {"k": 2}),
    "target changed": lambda work: put_entry(work / "target", "changed", "drift", {"k": 1}),
    "target vanished": lambda work: (work / "target/changed.md").unlink(),
    "target unreadable": lambda work: (work / "target/changed.metadata.json").write_text("{"),
    "target appeared": lambda work: put_entry(work / "target", "new", "drift"),
    "a folder in the way": lambda work: (work / "target/new.md").mkdir(),
    "to be deleted, changed": lambda work: put_entry(work / "target", "gone", "drift", {"k": 1}),
}


@pytest.mark.parametrize("kind", DRIFTS)
def test_any_drift_refuses_before_the_first_write(hdev, work, kind):
    plan(hdev, *ALL)
    DRIFTS[kind](work)
    before = tree_of(work / "target")

    result = hdev("apply", "p", "--keep-going")

    assert result.status == 3
    assert "nothing was written" in result.err
    assert "Drift: " in result.err
    assert tree_of(work / "target") == before
    assert [record["event"] for record in records()][-1] == "refused"


def records(folder="p"):
    lines = Path(folder, "audit.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_all_drift_is_reported_at_once(hdev, work):
    plan(hdev, *ALL)
    for kind in ("source changed", "target changed", "to be deleted, changed"):
        DRIFTS[kind](work)
    result = hdev("apply", "p", "--json")

    assert {(d["side"], d["key"]) for d in result.lines("drift")} == {
        ("source", "new"),
        ("target", "changed"),
        ("target", "gone"),
    }


def test_what_is_outside_the_plan_is_told_and_does_not_block(hdev, work):
    plan(hdev)
    put_entry(work / "source", "later", "x")
    result = hdev("apply", "p")

    assert result.status == 0
    assert "1 new entry outside this plan" in result.err
    assert not (work / "target/later.md").exists()


def test_applying_again_does_nothing_and_after_a_change_is_refused(hdev, work):
    plan(hdev, *ALL)
    hdev("apply", "p")
    again = hdev("apply", "p")
    put_entry(work / "target", "changed", "later work", {"k": 1})
    replayed = hdev("apply", "p")
    verified = hdev("verify", "p")

    assert (again.status, replayed.status, verified.status) == (0, 8, 3)
    assert "Nothing to do" in again.out
    assert "Differs: changed" in verified.err
    assert (work / "target/changed.md").read_text() == "later work"


def test_again_executes_a_finished_plan_once_more(hdev, work):
    plan(hdev)
    hdev("apply", "p")
    for suffix in (".md", ".metadata.json"):
        (work / f"target/new{suffix}").unlink()

    assert hdev("apply", "p").status == 8
    assert hdev("apply", "p", "--again").status == 0
    assert (work / "target/new.md").read_text() == TEXT


def test_the_plan_of_one_machine_applies_on_another(hdev, work, tmp_path, monkeypatch):
    plan(hdev, *ALL)
    other = tmp_path / "another machine"
    for name in ("p", "source", "target"):
        shutil.move(work / name, other / ("moved " + name))
    monkeypatch.setenv("HOME", str(other / "home"))
    monkeypatch.chdir(other)
    lost = hdev("apply", "moved p")
    found = hdev(
        "apply", "moved p/plan.json", "--source-path", "moved source",
        "--target-path", "moved target",
    )  # fmt: skip

    assert lost.status == 1
    assert found.status == 0, found.err
    assert "new.md" in tree_of(other / "moved target")


def test_home_is_written_as_a_tilde_and_found_in_the_home_of_another(hdev, work, home, monkeypatch):
    shutil.move(work / "source", home / "source")
    result = hdev("plan", "filesystem:~/source", ENDS[1], "-o", "p")
    assert result.status == 0
    assert str(home) not in (work / "p/plan.json").read_text()
    other = home.with_name("other-home")
    shutil.move(home, other)
    monkeypatch.setenv("HOME", str(other))

    assert hdev("apply", "p").status == 0


def test_an_apply_that_is_running_locks_the_plan(hdev, work):
    plan(hdev)
    with (work / "p/.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        locked = hdev("apply", "p")

    assert locked.status == 7
    assert hdev("apply", "p").status == 0


def test_deletes_have_a_limit(hdev, work):
    for name in ("changed", "same"):
        (work / f"source/{name}.md").unlink()
        (work / f"source/{name}.metadata.json").unlink()

    def deleting(*flags):
        shutil.rmtree("q", ignore_errors=True)
        return hdev("plan", *ENDS, "-o", "q", "--delete", *flags).status

    assert deleting() == 5  # all four, and half is the limit
    assert deleting("--max-delete", "3") == 5
    assert deleting("--max-delete", "75%") == 5
    assert deleting("--max-delete", "4") == 0
    assert deleting("--max-delete", "100%") == 0
    shutil.rmtree(work / "source")
    (work / "source").mkdir()
    assert deleting("--max-delete", "100%") == 5  # an empty source never deletes


def test_an_apply_that_failed_for_an_entry_goes_on_when_told_to(hdev, work, tmp_path):
    """The server refuses what is too large since its limit was lowered after planning."""
    root = tmp_path / "served"
    put_entry(work / "source", "large", "x" * 5000)
    for key in ("a", "z"):
        put_entry(work / "source", key, "x")
    with MemoryServer(root, KEY) as server:
        url = server.url
        hdev("plan", ENDS[0], url, "--api-key", KEY, "-o", "p")
    with MemoryServer(root, KEY, "--max-entry-bytes", "1000") as server:
        words = ("apply", "p", "--target-url", server.url, "--target-api-key", KEY)
        stopped = hdev(*words)
        going = hdev(*words, "--keep-going", "--json")
    assert url != server.url
    with MemoryServer(root, KEY) as server:
        done = hdev("apply", "p", "--target-url", server.url, "--target-api-key", KEY)

    assert (stopped.status, going.status, done.status) == (4, 4, 0), done.err
    assert "Failed: large: Content too large for target backend" in stopped.err
    assert "hdev apply p" in stopped.out
    assert [failed["key"] for failed in going.lines("failed")] == ["large"]
    assert "1 created" in done.out
    assert "already done" in done.out


def test_migrate_memory_reports_failures_in_the_promised_words(hdev, work, tmp_path):
    put_entry(work / "source", "projects/large-file", "x" * 5000)
    with MemoryServer(tmp_path / "served", KEY, "--max-entry-bytes", "1000") as server:
        result = hdev(
            "migrate-memory", "--source-path", "source", "--target-url", server.url,
            "--api-key", KEY,
        )  # fmt: skip

    assert result.status == 4
    assert "Migration completed with errors. 4 entries were copied, 0 skipped, 1 failed." in (
        result.out
    )
    assert "\nErrors:\n  projects/large-file: Content too large for target backend" in result.out


def test_migrate_memory_with_a_read_only_key_says_permission_denied(hdev, work, tmp_path):
    with MemoryServer(tmp_path / "served", KEY, "--read-only-api-key", "looks") as server:
        result = hdev(
            "migrate-memory", "--source-path", "source", "--target-url", server.url,
            "--api-key", "looks",
        )  # fmt: skip

    assert result.status == 4
    assert "0 entries were copied" in result.out
    assert "\n  new: Permission denied on target" in result.out


@pytest.mark.parametrize("kind", [ExistingServer, MemoryServer])
def test_no_key_and_without_a_review_no_content_in_any_output_plan_or_log(
    hdev, work, tmp_path, kind
):
    put_entry(work / "source", "z-bad", b"\xff" + TEXT.encode())
    said = []
    with kind(tmp_path / "served", KEY) as server:
        for words in (
            ("plan", ENDS[0], server.url, "--api-key", KEY, "-o", "p", "--no-content"),
            ("show", "p", "--no-content"),
            ("show", "p", "--format", "json"),
            ("apply", "p", "--target-api-key", KEY),
            ("apply", "p", "--target-api-key", KEY + "-wrong"),
            ("verify", "p", "--target-api-key", KEY),
            ("verify", "p", "--target-api-key", KEY, "--json"),
            ("audit", "show", "p"),
            ("migrate-memory", "--target", server.url, "--api-key", KEY),
            ("plan", server.url, "filesystem:copy", "--api-key", KEY, "-o", "q", "--no-content"),
            ("config", "show"),
        ):
            result = hdev(*words)
            said.append(result.out + result.err)
    written = [text.decode() for name, text in tree_of(work).items() if name[:2] in ("p/", "q/")]

    assert len(written) >= 8
    assert KEY not in "".join(said + written)
    assert TEXT not in "".join(said + written)
    assert (tmp_path / "served/new.md").read_text() == TEXT  # it was there to be leaked


def test_the_journal_names_each_write_before_and_after_it(hdev, work):
    made = plan(hdev, *ALL)
    hdev("apply", "p")
    log = records()

    assert [record["event"] for record in log] == (
        ["planned", "started"]
        + ["intent"] * 3
        + ["done"] * 3
        + ["intent"] * 2
        + ["done"] * 2
        + ["finished"]
    )
    assert {record["plan"] for record in log} == {made["plan_id"]}
    planned = {action["key"]: action for action in made["actions"]}
    for record in log:
        if record["event"] == "done":
            action = planned[record["key"]]
            assert (record["action"], record.get("after")) == (
                action["action"], action.get("after")
            )  # fmt: skip
            assert record.get("observed") == record.get("after")


def damaged_log(number, how):
    path = Path("p/audit.jsonl")
    lines = path.read_bytes().splitlines(keepends=True)
    if how == "flip":
        lines[number] = lines[number].replace(b'"run":"', b'"run":"0', 1)
    elif how == "drop":
        del lines[number]
    elif how == "double":
        lines.insert(number, lines[number])
    elif how == "swap":
        lines[number], lines[number - 1] = lines[number - 1], lines[number]
    elif how == "cut":
        del lines[number:]
    path.write_bytes(b"".join(lines))


@pytest.mark.parametrize("how", ["flip", "drop", "double", "swap", "cut"])
def test_a_tampered_log_is_told_from_an_intact_one(hdev, work, tmp_path, how):
    plan(hdev, *ALL)
    head = hdev("apply", "p").out.split("Audit head ")[1].strip()
    shutil.copy("p/receipt.json", tmp_path / "receipt.json")
    count = len(records())
    whole = Path("p/audit.jsonl").read_bytes()
    for number in range(1, count):
        damaged_log(number, how)
        assert hdev("audit", "verify", "p", "--head", head).status == 8, number
        assert hdev("audit", "verify", "p", "--receipt", tmp_path / "receipt.json").status == 8
        Path("p/audit.jsonl").write_bytes(whole)

    assert hdev("audit", "verify", "p", "--head", head).status == 0
    assert hdev("audit", "verify", "p", "--receipt", tmp_path / "receipt.json").status == 0
    assert hdev("audit", "verify", "p").status == 10


@pytest.mark.parametrize("how", ["flip", "drop", "double", "swap"])
def test_apply_refuses_a_damaged_log(hdev, work, how):
    plan(hdev)
    hdev("plan", *ENDS, "-o", "q")
    hdev("apply", "p")
    damaged_log(2, how)

    assert hdev("apply", "p", "--again").status == 8


def test_the_log_of_another_plan_is_refused(hdev, work):
    plan(hdev)
    hdev("plan", *ENDS, "--overwrite", "-o", "q")
    shutil.copy("p/audit.jsonl", "q/audit.jsonl")

    assert hdev("audit", "verify", "q").status == 8


def test_a_torn_last_line_is_cut_kept_and_recorded(hdev, work):
    plan(hdev)
    torn = b'{"seq":2,"prev":"'
    with Path("p/audit.jsonl").open("ab") as log:
        log.write(torn)

    assert hdev("apply", "p").status == 0
    assert Path("p/audit.jsonl.torn-1").read_bytes() == torn
    assert "repaired" in [record["event"] for record in records()]


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_apply_that_was_stopped_goes_on_when_it_is_run_again(hdev, work, number):
    total = FilesystemBackend.batch + 150
    for count in range(total):
        put_entry(work / "source", f"many/{count:04}", f"text {count}")
    plan(hdev)
    with subprocess.Popen(
        [*PROGRAM, "apply", "p"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        # The first batch is on its way.
        while next(work.glob("target/many/*.md"), None) is None:
            assert process.poll() is None
            time.sleep(0.005)  # the processor is for the other one
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    written = len(list(work.glob("target/many/*.md")))
    resumed = hdev("apply", "p")

    assert process.returncode == (-9 if number == signal.SIGKILL else 4), err
    assert 0 < written < total
    if number != signal.SIGKILL:
        assert "Next: hdev apply p" in out
        assert "stopped" in [record["event"] for record in records()]
    assert resumed.status == 0, resumed.err
    assert "already done" in resumed.out
    assert len(list(work.glob("target/many/*.md"))) == total
    assert hdev("verify", "p").status == 0


def test_a_second_signal_stops_at_once_though_the_server_hangs_and_the_run_can_be_resumed(
    hdev, work
):
    for count in range(300):
        put_entry(work / "source", f"many/{count:04}", f"text {count}")
    served = work / "served"
    key = ("--api-key", KEY)
    environ = {**os.environ, "HDEV_MEMORY_HTTP_API_KEY": KEY, "HDEV_MEMORY_HTTP_TIMEOUT": "100"}
    with MemoryServer(served, KEY) as server:
        assert hdev("plan", "filesystem:source", server.url, "-o", "p", *key).status == 0
        with subprocess.Popen(
            [*PROGRAM, "apply", "p"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environ,
        ) as process:
            while next(served.glob("many/*.md"), None) is None:
                assert process.poll() is None
                time.sleep(0.005)
            server.process.send_signal(signal.SIGSTOP)
            try:
                process.send_signal(signal.SIGINT)
                process.send_signal(signal.SIGTERM)
                out, err = process.communicate(timeout=50)
            finally:
                server.process.send_signal(signal.SIGCONT)
                process.kill()
        resumed = hdev("apply", "p", "--lock-timeout", "60s", *key)

    assert process.returncode == 4, err
    assert "Next: hdev apply p" in out
    assert resumed.status == 0, resumed.err
    assert len(list(served.glob("many/*.md"))) == 300


def test_interrupted_before_any_write_is_130(work):
    os.mkfifo(work / "plan.json")
    with subprocess.Popen(
        [*PROGRAM, "apply", "plan.json"], stderr=subprocess.PIPE, text=True
    ) as process:
        writer = os.open(work / "plan.json", os.O_WRONLY)
        try:
            # A signal that comes a moment before the read is not seen while that waits.
            while "pipe_read" not in Path(f"/proc/{process.pid}/wchan").read_text():
                assert process.poll() is None
                time.sleep(0.005)
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=50)
        finally:
            os.close(writer)

    assert process.returncode == 130
    assert err == "Interrupted; nothing was written.\n"


def test_output_into_a_closed_pipe_is_no_error_message(work):
    done = subprocess.run(
        ["bash", "-c", '"$@" | true; echo ${PIPESTATUS[0]}', "-", *PROGRAM, "--help"],
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout.strip() == "141"
    assert done.stderr == ""


def test_json_of_plan_apply_and_verify(hdev, work):
    planned = hdev("plan", *ENDS, *ALL, "-o", "p", "--json").json
    applied = hdev("apply", "p", "--json").json
    verified = hdev("verify", "p", "--json").json

    assert planned["plan_id"] == applied["plan_id"]
    assert planned["summary"]["create"] == applied["counts"]["created"] == 2
    assert applied["result"] == "finished"
    assert (verified["as_planned"], verified["differ"]) == (5, 0)


def test_plans_without_a_name_get_one_each(hdev, work):
    for _ in range(2):
        hdev("plan", *ENDS)
    names = sorted(path.name for path in Path("plans").iterdir())

    assert len(names) == 2
    assert names[0].endswith("-source-to-target")
    assert names[1] == names[0] + "-2"


def test_the_same_inputs_have_the_same_effect_at_another_time_and_place(hdev, work, tmp_path):
    first = plan(hdev, *ALL)
    for name in ("source", "target"):
        shutil.copytree(work / name, tmp_path / f"elsewhere/{name}")
    second = hdev(
        "plan", "--source-path", tmp_path / "elsewhere/source",
        "--target-path", tmp_path / "elsewhere/target", *ALL, "-o", "q", "--json",
    ).json  # fmt: skip

    assert first["effect"] == second["effect"]
    assert first["plan_id"] != second["plan_id"]
