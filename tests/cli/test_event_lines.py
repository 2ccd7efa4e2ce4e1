"""`--json` and `--json-into`: a version first, a summary or an error last, and never a lost run."""

import io
import json
import subprocess
from pathlib import Path

import pytest
from tests.conftest import put_entry
from tests.processes import PROGRAM

from hdev_memory.cli import eventlines
from hdev_memory.cli.eventlines import Outside, told

ENDS = ("filesystem:source", "filesystem:target")
ALL = ("--overwrite", "--delete")


@pytest.fixture
def work(home):
    work = home.parent / "work"
    put_entry(work / "source", "new", "n")
    put_entry(work / "source", "changed", "ours", {"owner": "sre"})
    put_entry(work / "target", "changed", "theirs", {"owner": "ops"})
    return work


COMMANDS = {
    "plan": (("plan", *ENDS, *ALL, "-o", "q"), 0),
    "plan, with changes": (("plan", *ENDS, *ALL, "-o", "q", "--detailed-exitcode"), 2),
    "plan, refused": (("plan", ENDS[0], ENDS[0], "-o", "q"), 1),
    "plan, wrong": (("plan", *ENDS, "-o", "q", "--expires", "soon"), 64),
    "apply": (("apply", "p"), 0),
    "apply, another": (("apply", "p", "--expect", "sha256:" + "0" * 64), 8),
    "verify": (("verify", "p"), 3),
    "migrate-memory": (("migrate-memory", *ALL, "--source-path=source", "--target-path=t"), 0),
    "dry run": (("migrate-memory", "--source-path=source", "--target-path=t", "--dry-run"), 0),
    "migrate-memory, refused": (("migrate-memory", "--target=http:http://127.0.0.1:9"), 1),
    "rollback": (("rollback", "done", "-o", "q"), 0),
    "rollback, never applied": (("rollback", "p", "-o", "q"), 1),
    "rollback, without a plan": (("rollback", "nowhere"), 8),
    "backups list": (("backups", "list", "."), 0),
    "backups prune": (("backups", "prune", "."), 0),
    "backups prune, wrong": (("backups", "prune", "--older-than", "never"), 64),
    "lock status": (("lock", "status", ENDS[0]), 0),
    "lock status, out of reach": (("lock", "status", "http://127.0.0.1:9"), 9),
    "lock release": (("lock", "release", ENDS[0]), 0),
    "config show": (("config", "show"), 0),
    "config check": (("config", "check"), 0),
    "backend check": (("backend", "check", "ephemeral"), 0),
    "backend check, out of reach": (("backend", "check", "http://127.0.0.1:9"), 9),
    "backend check, mistyped": (("backend", "check", "filesystem:nowhere"), 1),
    "audit verify": (("audit", "verify", "p"), 10),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_the_first_line_is_the_version_and_the_last_tells_the_exit_status(hdev, work, name):
    words, status = COMMANDS[name]
    hdev("plan", *ENDS, *ALL, "-o", "p")
    if "done" in words:
        hdev("plan", *ENDS, *ALL, "-o", "done")
        hdev("apply", "done")
    result = hdev(*words, "--json")
    lines = [json.loads(line) for line in result.out.splitlines()]

    assert result.status == status, result.err
    assert lines[0]["format"] == "hdev-events/1"
    assert lines[0]["tool"].startswith("hdev-memory ")
    assert lines[-1]["type"] in ("summary", "error")
    assert lines[-1]["exit"] == status
    assert [line["type"] for line in lines[:-1] if line["type"] in ("summary", "error")] == []
    assert result.out.isascii()


def test_a_refusal_is_told_with_what_why_and_what_next(hdev, work):
    result = hdev("apply", "nowhere", "--json")

    assert result.json["type"] == "error"
    assert result.json["exit"] == result.status == 8
    for part in ("what", "why", "hint"):
        assert result.json[part] in result.err


SUCCEEDING = [name for name, (_, status) in COMMANDS.items() if status == 0 and name != "dry run"]


@pytest.mark.parametrize("command", [*SUCCEEDING, "verify", "audit verify"])
def test_json_into_writes_the_same_lines_beside_the_usual_output(hdev, work, command):
    hdev("plan", *ENDS, *ALL, "-o", "p")
    words, _ = COMMANDS[command]
    if "done" in words:
        hdev("plan", *ENDS, *ALL, "-o", "done")
        hdev("apply", "done")
    usual = hdev(*words, "--json-into", "lines.jsonl")
    lines = [json.loads(line) for line in Path("lines.jsonl").read_text().splitlines()]

    assert "{" not in usual.out
    assert len(usual.out.splitlines()) >= 1
    assert lines[0]["type"] == "version"
    assert (lines[-1]["type"], lines[-1]["command"]) == ("summary", command)


def test_a_file_for_lines_that_cannot_be_written_is_refused_before_any_work(hdev, work):
    result = hdev("plan", *ENDS, "-o", "q", "--json-into", "nowhere/lines.jsonl")

    assert result.status == 1
    assert "nowhere/lines.jsonl" in result.err
    assert not Path("q").exists()


class Closed(io.StringIO):
    """A reader that goes away after so many lines."""

    def __init__(self, lines):
        super().__init__()
        self.left = lines

    def write(self, text):
        if not self.left:
            raise BrokenPipeError(32, "Broken pipe")
        self.left -= 1
        return super().write(text)


def test_a_reader_that_goes_away_stops_the_lines_and_not_the_work(monkeypatch):
    gone = Closed(2)
    monkeypatch.setattr("sys.stdout", gone)
    done = []

    def work():
        with told(json=True) as lines:
            for number in range(3):
                lines.emit(Outside(side="source", entries=number))
                done.append(number)

    with pytest.raises(BrokenPipeError):
        work()

    assert done == [0, 1, 2]
    assert len(gone.getvalue().splitlines()) == 2


def test_an_apply_whose_reader_has_gone_is_carried_out(hdev, work):
    hdev("plan", *ENDS, *ALL, "-o", "p")
    with subprocess.Popen(
        [*PROGRAM, "apply", "p", "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        process.stdout.close()
        process.stderr.read()

    assert process.returncode == 141
    assert (work / "target/new.md").read_text() == "n"
    assert json.loads(Path("p/audit.jsonl").read_text().splitlines()[-1])["event"] == "finished"


def test_a_full_disk_below_the_lines_is_told_and_stops_nothing(capsys):
    with told(json=False, into=Path("/dev/full")) as lines:
        lines.emit(Outside(side="source", entries=1))

    assert capsys.readouterr().err.count("No space left on device") == 1


def test_nothing_follows_the_last_line(capsys):
    with told(json=True) as lines:
        lines.emit(eventlines.ConfigEnding(exit=0, environments=0, unreachable=0, trust_digest=""))
        lines.emit(Outside(side="source", entries=1))

    assert json.loads(capsys.readouterr().out.splitlines()[-1])["type"] == "summary"


def test_a_bug_is_told_without_its_text(capsys):
    with pytest.raises(ZeroDivisionError), told(json=True):
        raise ZeroDivisionError("canary")

    (line,) = capsys.readouterr().out.splitlines()[1:]
    assert json.loads(line)["exit"] == 1
    assert "canary" not in line


def test_drift_tells_how_the_metadata_of_both_ends_differs(hdev, work):
    hdev("plan", *ENDS, *ALL, "-o", "p")
    put_entry(work / "target", "changed", "theirs", {"owner": "security", "n": 1})
    result = hdev("apply", "p", "--json")

    (drift,) = result.lines("drift")
    assert result.status == 3
    assert drift["metadata"] == ["n: removed 1", 'owner: "security" -> "sre"']
    assert '  metadata, target -> source: owner: "security" -> "sre"' in result.err


def test_verify_tells_how_metadata_differs_where_the_source_can_be_read(hdev, work):
    hdev("plan", *ENDS, *ALL, "-o", "p")
    hdev("apply", "p")
    put_entry(work / "target", "changed", "ours", {"owner": "nobody"})
    near = hdev("verify", "p", "--json")
    (work / "source").rename(work / "elsewhere")
    far = hdev("verify", "p", "--json")

    assert near.lines("drift")[0]["metadata"] == ['owner: "nobody" -> "sre"']
    assert far.lines("drift")[0]["metadata"] == []
    assert "out of reach" in far.err
    assert (near.status, far.status) == (3, 3)


def test_a_refused_rollback_tells_what_was_changed_since(hdev, work):
    hdev("plan", *ENDS, *ALL, "-o", "p")
    hdev("apply", "p")
    put_entry(work / "target", "new", "later")
    result = hdev("rollback", "p", "-o", "q", "--json")

    assert [(line["side"], line["key"]) for line in result.lines("drift")] == [("target", "new")]
    assert (result.status, result.json["exit"]) == (3, 3)


def test_a_rollback_names_the_plan_that_it_undoes(hdev, work):
    made = hdev("plan", *ENDS, *ALL, "-o", "p", "--json").json
    hdev("apply", "p")
    result = hdev("rollback", "p", "-o", "q", "--json")

    assert (result.json["command"], result.json["undoes"]) == ("rollback", made["plan_id"])
    assert result.json["summary"]["delete"] == 1


def test_backups_are_told_with_their_state(hdev, work):
    hdev("plan", *ENDS, *ALL, "-o", "p")
    hdev("apply", "p")
    finished = hdev("backups", "list", "p", "--json")
    log = Path("p/audit.jsonl")
    log.write_bytes(b"".join(log.read_bytes().splitlines(keepends=True)[:-1]))
    unfinished = hdev("backups", "list", "p", "--json")
    spared = hdev("backups", "prune", "p", "--json")

    (line,) = finished.lines("backup")
    assert (line["plan"], line["entries"], line["bytes"]) == ("p", 1, len("theirs"))
    assert line["finished"].startswith("20")
    assert unfinished.lines("backup")[0]["finished"] is None
    assert spared.lines("spared") == [
        {"type": "spared", "plan": "p", "why": "its run is not finished"}
    ]
    assert spared.json["pruned"] == 0


def test_config_show_tells_where_settings_come_from_and_never_a_key(hdev, monkeypatch):
    monkeypatch.setenv("HDEV_MEMORY_HTTP_API_KEY", "canary")
    monkeypatch.setenv("CANARY", "canary")
    Path("hdev.toml").write_text(
        "[environments.far]\nendpoint = 'https://far.example'\napi_key_env = 'CANARY'\n"
        "[environments.here]\nendpoint = 'filesystem:here'\n"
    )
    result = hdev("config", "show", "--json")
    settings = {line["name"]: line for line in result.lines("setting")}

    assert settings["http.api_key"]["value"] is None
    assert settings["http.timeout"]["origin"] == "default"
    assert {line["name"]: line["key"] for line in result.lines("environment")} == {
        "far": True,
        "here": False,
    }
    assert "canary" not in result.out + result.err


def test_config_check_tells_each_environment(hdev, home):
    Path("hdev.toml").write_text(
        "[environments.here]\nendpoint = 'filesystem:here'\n"
        "[environments.gone]\nendpoint = 'http:http://127.0.0.1:9'\n"
    )
    Path("here").mkdir()
    result = hdev("config", "check", "--online", "--json")

    assert {line["name"]: line["reachable"] for line in result.lines("endpoint")} == {
        "here": True,
        "gone": False,
    }
    assert (result.status, result.json["unreachable"]) == (9, 1)


def test_an_anchored_log_is_told_so(hdev, work):
    hdev("plan", *ENDS, *ALL, "-o", "p")
    head = hdev("apply", "p", "--json").json["head"]
    result = hdev("audit", "verify", "p", "--head", head, "--json")

    assert (result.status, result.json["anchored"], result.json["head"]) == (0, True, head)
