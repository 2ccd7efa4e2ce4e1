"""The JSON Schemas are those of what is really written, and they say no to anything else."""

import copy
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import get_args

import httpx
import pytest
from jsonschema import Draft202012Validator

from hdev_memory.backends.filesystem_write import staged_label
from hdev_memory.cli import eventlines
from hdev_memory.cli.schema import FORMS
from hdev_memory.core import audit, plan
from hdev_memory.core.schema import schema
from hdev_memory.review import json as review
from tests.conftest import put_entry
from tests.direct import DIRECT
from tests.emulation.existing_server import BOILERPLATE, ExistingServer
from tests.keys import Keys
from tests.processes import MemoryServer

FOLDER = Path(__file__).parents[1] / "docs/schemas"
SCHEMAS = {form: json.loads((FOLDER / f"{form}.schema.json").read_text()) for form in FORMS}
KEY = "a-key"
ENDS = ("filesystem:source", "filesystem:target")
ALL = ("--overwrite", "--delete")


def faults(form, value):
    """What the schema has against a value, in words."""
    return [error.message for error in Draft202012Validator(SCHEMAS[form]).iter_errors(value)]


def plan_of(place):
    return json.loads((Path(place) / "plan.json").read_text())


def lines_of(path):
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


@pytest.fixture
def work(home):
    """A source and a target that differ in every way."""
    work = home.parent / "work"
    for key, text in {"changed": "ours", "new": "n", "same": "s", "größe": "5"}.items():
        put_entry(work / "source", key, text, {"k": 1})
    put_entry(work / "source", "unreadable", b"\xff")
    for key, text in {"changed": "theirs", "gone": "g", "same": "s"}.items():
        put_entry(work / "target", key, text, {"k": 1})
    return work


@pytest.mark.parametrize("form", FORMS)
def test_the_file_of_a_schema_is_what_the_command_prints(hdev, form):
    """Where it is not: `hdev schema FORM > docs/schemas/FORM.schema.json`."""
    printed = hdev("schema", form)

    assert (printed.status, printed.err) == (0, "")
    assert printed.out == (FOLDER / f"{form}.schema.json").read_text()
    assert printed.out.isascii()


@pytest.mark.parametrize("form", FORMS)
def test_a_schema_is_a_schema(form):
    Draft202012Validator.check_schema(SCHEMAS[form])


@pytest.mark.parametrize("form", FORMS)
def test_patterns_are_those_of_every_language(form):
    text = json.dumps(SCHEMAS[form])

    assert '"pattern": "^[0-9a-f]{64}$"' in text
    assert "\\\\A" not in text
    assert "\\\\Z" not in text


def test_an_unknown_form_is_a_usage_error(hdev):
    assert hdev("schema", "receipt").status == 64


def test_the_schema_of_a_plan_names_its_members_in_their_order():
    members = SCHEMAS["plan"]["$defs"]["PlanFile"]["properties"]

    assert [*members] == ["format", *plan._HEAD, "actions", *plan._TAIL, "seal"]
    assert members["format"] == {"enum": [plan.FORMAT]}
    assert SCHEMAS["review"]["$defs"]["Review"]["properties"]["format"] == {"enum": [review.FORMAT]}


def test_two_structs_of_one_name_are_found():
    class Record(plan.Value, frozen=True):
        pass

    with pytest.raises(AssertionError, match="one name"):
        schema([audit.Record, Record], name="x/1", about="")


# What is really written


def test_real_plans_with_every_kind_of_action_are_valid(hdev, work):
    hdev("plan", *ENDS, "-o", "some")
    hdev("plan", *ENDS, *ALL, "-o", "all", "--expires", "never", "--max-delete", "90%",
         "--exclude", "x")  # fmt: skip
    put_entry(work / "target", "zz", b"\xff")
    hdev("plan", *ENDS, *ALL, "-o", "blocked")
    with ExistingServer(work / "served", KEY) as server:
        put_entry(server.root, "global", BOILERPLATE, {"theirs": 1})
        put_entry(server.root, "changed", "theirs", {"theirs": 1})
        put_entry(work / "source", "global", "ours")
        hdev("plan", ENDS[0], server.url, "--api-key", KEY, "--overwrite", "-o", "merged")
    made = {name: plan_of(name) for name in ("some", "all", "blocked", "merged")}
    actions = [action for document in made.values() for action in document["actions"]]
    members = {(action["action"], name) for action in actions for name in action}

    assert {name: faults("plan", document) for name, document in made.items()} == {
        name: [] for name in made
    }
    assert {action["action"] for action in actions} == set(get_args(review.Kind))
    assert {("create", "before"), ("overwrite", "source"), ("blocked", "side")} <= members


POLICY = "[rules]\nmax_overwrite = { limit = 0, level = 'soft' }\n"


def trusting(tmp_path):
    """A trust root with ann in it, and her key; she may approve without a terminal."""
    keys = Keys(tmp_path)
    (tmp_path / "allowed").write_text(f"ann {keys.public('ann')}\n")
    Path("hdev.toml").write_text(
        f"[approvals]\nallowed_signers = '{tmp_path}/allowed'\nunattended = ['ann']\n"
    )
    return "--yes", "--key", str(keys.private("ann")), "--principal", "ann"


def test_every_record_of_real_logs_is_valid(hdev, work, tmp_path, monkeypatch):
    """Of runs that were refused, failed, stopped, resumed and finished, and of what came after."""
    put_entry(work / "source", "large", "x" * 5000)
    (work / "source/unreadable.md").unlink()
    (work / "source/unreadable.metadata.json").unlink()
    with MemoryServer(work / "served", KEY) as server:
        hdev("plan", ENDS[0], server.url, "--api-key", KEY, "-o", "p")
    with MemoryServer(work / "served", KEY, "--max-entry-bytes", "1000") as server:
        end = ("--target-url", server.url, "--target-api-key", KEY)
        assert hdev("apply", "p", *end).status == 4
    with Path("p/audit.jsonl").open("ab") as log:
        log.write(b'{"seq":')
    with MemoryServer(work / "served", KEY) as server:
        end = ("--target-url", server.url, "--target-api-key", KEY)
        assert hdev("apply", "p", *end).status == 0
        assert hdev("rollback", "p", *end, "-o", "back").status == 0
        assert hdev("apply", "back", *end).status == 0
    hdev("plan", *ENDS, *ALL, "-o", "drifted")
    flags = trusting(tmp_path)
    assert hdev("approve", "drifted", *flags).status == 0
    hdev("plan", *ENDS, *ALL, "-o", "rejected")
    assert hdev("approve", "rejected", *flags, "--reject", "--comment", "no").status == 0
    Path("hdev-policy.toml").write_text(POLICY)
    (finding,) = hdev("plan", *ENDS, *ALL, "-o", "lifted", "--json").lines("finding")
    words = ("--finding", finding["digest"], "--reason", "agreed")
    assert hdev("policy", "override", "lifted", *words, *flags).status == 0
    Path("hdev-policy.toml").unlink()
    Path("hdev.toml").unlink()
    put_entry(work / "source", "new", "drift")
    assert hdev("apply", "drifted").status == 3
    monkeypatch.setattr("hdev_memory.cli.context.now", later)
    hdev("backups", "prune", "p")
    records = [record for path in work.glob("*/audit.jsonl") for record in lines_of(path)]

    assert [
        (record, faults("audit", record)) for record in records if faults("audit", record)
    ] == []
    assert set(get_args(audit.Event)) == {record["event"] for record in records}


def later():
    return datetime.now(UTC) + timedelta(days=31)


@pytest.mark.long
def test_every_kind_of_event_line_is_written_and_valid(hdev, work, tmp_path, monkeypatch):
    said = []

    def run(*words, status=0):
        result = hdev(*words, "--json")
        assert result.status == status, result.err
        said.extend(json.loads(line) for line in result.out.splitlines())

    run("plan", *ENDS, *ALL, "-o", "p")
    run("apply", "nowhere", status=8)
    put_entry(work / "source", "late", "x")
    run("apply", "p")
    head = said[-1]["head"]
    run("apply", "p")
    run("audit", "verify", "p", "--head", head)
    run("verify", "p")
    run("rollback", "p", "-o", "back")
    put_entry(work / "target", "changed", "again")
    run("verify", "p", status=3)
    run("rollback", "p", "-o", "q", status=3)
    put_entry(work / "target", "changed", "ours", {"k": 1})
    leave_a_displaced_file(Path("p"), work / "target")
    run("backups", "prune", "p")
    run("apply", "p")
    run("backups", "list", "p")
    run("audit", "sign", "p", "--key", Keys(tmp_path).private("ann"))
    flags = trusting(tmp_path)
    run("approve", "back", *flags)
    run("approvals", "back")
    Path("hdev-policy.toml").write_text(POLICY)
    put_entry(work / "target", "changed", "theirs")
    run("plan", *ENDS, *ALL, "-o", "lifted")
    put_entry(work / "target", "changed", "ours", {"k": 1})
    (finding,) = [line for line in said if line["type"] == "finding"]
    words = ("--finding", finding["digest"], "--reason", "agreed")
    run("policy", "override", "lifted", *words, *flags)
    Path("hdev-policy.toml").unlink()
    Path("hdev.toml").write_text("[environments.here]\nendpoint = 'filesystem:source'\n")
    monkeypatch.setattr("hdev_memory.cli.context.now", later)
    run("backups", "prune", "p", "--dry-run")
    run("migrate-memory", "--source-path", "source", "--target-path", "t", status=4)
    run("config", "show")
    run("config", "check", "--online")
    run("lock", "status", ENDS[0])
    with MemoryServer(work / "served", KEY) as server:
        run("lock", "status", server.url, "--api-key", KEY)
        run("lock", "release", server.url, "--api-key", KEY)
        end = (server.url, "--api-key", KEY)
        put_entry(work / "few", "a", "ours")
        run("plan", "filesystem:few", *end, "-o", "few-plan")
        run("apply", "few-plan", "--target-url", *end)
        headers = {"Authorization": f"Bearer {KEY}"}
        url = f"{server.url}/api/memory/entry/a"
        httpx.put(url, json={"content": "theirs"}, headers=headers, **DIRECT, timeout=50)
        run("audit", "compare", "few-plan", *end)
        log = Path("few-plan/audit.jsonl")
        log.write_bytes(log.read_bytes().splitlines(keepends=True)[0])
        run("audit", "compare", "few-plan", *end, status=8)
    with ExistingServer(work / "old", KEY, "--say-yes-write-nothing") as server:
        run("backend", "check", server.url, "--api-key", KEY, status=1)
    with ExistingServer(work / "older", KEY) as server:
        run("backend", "check", server.url, "--api-key", KEY)

    assert [(line, faults("events", line)) for line in said if faults("events", line)] == []
    assert {(line["type"], line.get("command")) for line in said} == {
        (kind.__struct_config__.tag, command_of(kind)) for kind in eventlines.kinds()
    }


def command_of(kind):
    return kind.__struct_defaults__[-1] if "command" in kind.__struct_fields__ else None


def leave_a_displaced_file(place, target):
    """As a machine leaves it that dies just behind an exchange which met somebody else's bytes."""
    lines = (place / "audit.jsonl").read_bytes().splitlines(keepends=True)
    events = [json.loads(line) for line in lines]
    (at,) = [n for n, e in enumerate(events) if e["event"] == "intent" and e["key"] == "changed"]
    (place / "audit.jsonl").write_bytes(b"".join(lines[: at + 1]))
    (target / f".hdev-tmp-{events[at]['run']}-{staged_label('changed')}c-0").write_bytes(b"late")


REVIEWS = {
    "whole": (),
    "one kind": ("--only", "create"),
    "some keys": ("--key", "*e*"),
    "no actions": ("--stat",),
    "nothing": ("--only", "skip", "--key", "nowhere"),
}


@pytest.mark.parametrize("name", REVIEWS)
def test_real_reviews_as_json_are_valid(hdev, work, name):
    hdev("plan", *ENDS, *ALL, "-o", "p")
    shown = hdev("show", "p", "--format", "json", *REVIEWS[name])

    assert shown.status == 0
    assert faults("review", json.loads(shown.out)) == []


# What is not


def examples(hdev):
    """A real value of each form, with a digest in it."""
    hdev("plan", *ENDS, *ALL, "-o", "p")
    applied = hdev("apply", "p", "--json")
    shown = hdev("show", "p", "--format", "json")
    intent = next(r for r in lines_of("p/audit.jsonl") if r["event"] == "intent")
    return {
        "plan": plan_of("p"), "audit": intent, "events": applied.json,
        "review": json.loads(shown.out),
    }  # fmt: skip


def put(*path_and_value):
    *path, last, value = path_and_value

    def change(document):
        for step in path:
            document = document[step]
        document[last] = value

    return change


def drop(*path):
    *above, last = path

    def change(document):
        for step in above:
            document = document[step]
        del document[last]

    return change


CUT = "sha256:" + "0" * 63
WRONG = {
    "an unknown member": ("plan", put("x", 1)),
    "an unknown member inside": ("plan", put("actions", 0, "x", 1)),
    "a wrong type": ("plan", put("summary", "create", "1")),
    "a negative count": ("plan", put("summary", "create", -1)),
    "a cut digest": ("plan", put("seal", "0" * 63)),
    "a digest in capitals": ("plan", put("actions", 0, "before", "content", "A" * 64)),
    "no seal": ("plan", drop("seal")),
    "no reason": ("plan", drop("actions", 0, "reason")),
    "a default that is never written": ("plan", put("actions", 0, "source", None)),
    "no default that is always written": ("plan", drop("normalisation", "line_ends")),
    "another action": ("plan", put("actions", 0, "action", "rename")),
    "another format": ("plan", put("format", "hdev-plan/2")),
    "a local time": ("plan", put("provenance", "created", "2026-01-02T03:04:05+01:00")),
    "a record with an unknown member": ("audit", put("x", 1)),
    "a record with a wrong type": ("audit", put("seq", "1")),
    "a record with a cut digest": ("audit", put("prev", "0" * 63)),
    "a record of no plan": ("audit", put("plan", CUT)),
    "a record without an actor": ("audit", drop("actor")),
    "an unknown event": ("audit", put("event", "approximated")),
    "a line with an unknown member": ("events", put("x", 1)),
    "a line with a wrong type": ("events", put("exit", True)),
    "a line with a cut digest": ("events", put("plan_id", CUT)),
    "a line with no head": ("events", put("head", "3")),
    "a line without its command": ("events", drop("command")),
    "a line of another command": ("events", put("command", "verify")),
    "an unknown line": ("events", put("type", "end")),
    "a review with an unknown member": ("review", put("x", 1)),
    "a review with a wrong type": ("review", put("actions", {})),
    "a review with a cut digest": ("review", put("plan_id", CUT)),
    "a review without its last member": ("review", drop("shown")),
    "a review without its filter": ("review", drop("filter")),
}


def test_what_is_not_as_it_is_written_is_refused(hdev, work):
    values = examples(hdev)
    assert [form for form in FORMS if faults(form, values[form])] == []
    accepted = []
    for name, (form, change) in WRONG.items():
        value = copy.deepcopy(values[form])
        change(value)
        if not faults(form, value):
            accepted.append(name)

    assert accepted == []
