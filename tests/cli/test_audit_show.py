"""`hdev audit show`: the whole log and nothing but an intact one, in four forms."""

import csv
import io
import json
import shutil
from pathlib import Path

import pytest
from tests.conftest import put_entry, tree_of

FORMS = ["terminal", "json", "html", "csv"]


@pytest.fixture
def plan(hdev, home):
    """A plan that was refused for drift, then carried out."""
    work = home.parent / "work"
    for key in ("notes/a", "notes/b", "other"):
        put_entry(work / "source", key, "new")
    put_entry(work / "target", "other", "old")
    put_entry(work / "target", "gone", "g")
    flags = ("--overwrite", "--delete", "-o", "p")
    assert hdev("plan", "filesystem:source", "filesystem:target", *flags).status == 0
    put_entry(work / "source", "other", "changed")
    assert hdev("apply", "p").status == 3
    put_entry(work / "source", "other", "new")
    assert hdev("apply", "p").status == 0
    return work / "p"


def test_a_person_reads_who_did_what_when_and_what_was_refused(hdev, plan):
    text = hdev("audit", "show", "p").out
    _, planned, refused, applied = text.split("\n\n")

    assert " plan by " in planned
    assert " apply by " in refused
    assert "drift     other  (source: content " in refused
    assert "refused   (DriftFound; The memory has changed since the plan was made" in refused
    assert "refused, nothing written" in refused
    assert "apply, resumed by " in applied
    for key in ("create notes/a  absent -> ", "overwrite other  ", "delete gone  "):
        assert key in applied
    assert applied.rstrip().endswith(": 2 created, 1 overwritten, 1 deleted")
    assert "intent" not in text


@pytest.mark.parametrize("form", FORMS)
def test_of_a_log_that_was_tampered_with_nothing_is_shown(hdev, plan, form):
    log = plan / "audit.jsonl"
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join(lines[:-2] + lines[-1:]))
    Path("kept").write_text("as it was")
    shown = hdev("audit", "show", "p", "--format", form)
    written = hdev("audit", "show", "p", "--format", form, "--out", "kept")

    assert shown.status == written.status == 8
    assert shown.out == written.out == ""
    assert Path("kept").read_text() == "as it was"


@pytest.mark.parametrize("form", FORMS)
def test_a_file_holds_what_stdout_would(hdev, plan, form):
    before = tree_of(plan)
    shown = hdev("audit", "show", "p", "--format", form)
    written = hdev("audit", "show", "p", "--format", form, "--out", "log.out")

    assert (shown.status, written.status, written.out) == (0, 0, "")
    assert Path("log.out").read_bytes() == shown.out.encode()
    assert tree_of(plan) == before


def test_json_and_csv_have_every_record(hdev, plan):
    lines = [json.loads(line) for line in (plan / "audit.jsonl").read_text().splitlines()]
    document = json.loads(hdev("audit", "show", "p", "--json").out)
    table = csv.DictReader(io.StringIO(hdev("audit", "show", "p", "--format", "csv").out))

    assert document["records"] == lines
    assert [int(row["seq"]) for row in table] == [line["seq"] for line in lines]


def test_records_are_picked_by_key_event_and_run(hdev, plan):
    def events(*words):
        document = json.loads(hdev("audit", "show", "p", "--json", *words).out)
        return [(one["event"], one.get("key", "")) for one in document["records"]]

    run = json.loads((plan / "audit.jsonl").read_text().splitlines()[-1])["run"]

    assert events("--key", "notes/*", "--event", "done") == [
        ("done", "notes/a"),
        ("done", "notes/b"),
    ]
    assert events("--event", "drift") == [("drift", "other")]
    assert events("--run", run[:6])[0] == ("resumed", "")
    assert events("--run", "none") == []


def test_a_filter_that_matches_nothing_says_so(hdev, plan):
    nothing = hdev("audit", "show", "p", "--run", "no-such-run")
    something = hdev("audit", "show", "p", "--event", "refused")

    assert nothing.status == something.status == 0
    assert "none of the" in nothing.err
    assert "matches" not in something.err


def test_a_name_that_is_no_event_is_a_wrong_command_line(hdev, plan):
    result = hdev("audit", "show", "p", "--event", "vanished")

    assert result.status == 64
    assert "Give one of planned, " in result.err


def test_a_file_that_cannot_be_written_is_an_error_without_a_traceback(hdev, plan):
    result = hdev("audit", "show", "p", "--out", "no/such/folder")

    assert result.status == 1
    assert "The timeline cannot be written." in result.err


def test_a_log_that_is_missing_is_an_error(hdev, plan):
    shutil.move(plan / "audit.jsonl", "elsewhere")

    assert hdev("audit", "show", "p").status == 8
