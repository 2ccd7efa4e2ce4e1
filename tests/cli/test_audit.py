"""Check, sign and export an audit log: every kind of tampering against every kind of anchor."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import google.protobuf.json_format
import msgspec
import pytest
from in_toto_attestation.v1 import statement, statement_pb2
from tests.conftest import put_entry, tree_of
from tests.processes import PROGRAM
from tests.survival.world import apply, build, copy

from hdev_memory import attestation, plandir, signing
from hdev_memory.core import audit
from hdev_memory.core.digest import sha256

INTACT, FAILED, TAMPERED, UNANCHORED, USAGE = 0, 1, 8, 10, 64


class Logs:
    """The logs of one plan that was carried out twice, in two places, and of another plan."""

    def __init__(self, place):
        self.world = build(place / "one")
        second = copy(self.world, place / "two")
        other = build(place / "other", extra=3)
        for world in (self.world, second, other):
            apply(world.place, world.place / "source")
        self.folder = self.world.place / "p"
        self.lines, self.again, self.foreign = (
            (world.place / "p/audit.jsonl").read_bytes().splitlines(keepends=True)
            for world in (self.world, second, other)
        )
        self.second, self.other = second.place / "p", other.place / "p"


@pytest.fixture(scope="module")
def logs(tmp_path_factory):
    return Logs(tmp_path_factory.mktemp("logs"))


@pytest.fixture
def plan(logs, home):
    """A copy of the finished plan in the working folder."""
    return shutil.copytree(logs.folder, home.parent / "work/p")


def sign(keys, path, name="ann", namespace=signing.RECEIPTS):
    """Sign a file with a key of ours, by ssh-keygen itself."""
    signature = keys.sign(name, path.read_bytes(), namespace)
    path.with_name(path.name + ".sig").write_bytes(signature)


def signers(keys, *lines):
    """Write allowed signers, each `PRINCIPAL [OPTIONS] NAME`, where NAME is a key of ours."""
    words = (line.rpartition(" ") for line in lines)
    path = Path("signers")
    path.write_text("".join(f"{head} {keys.public(key)}\n" for head, _, key in words))
    return path


MIDDLE = 9
"""The index of a record in the midst of the log."""


def relinked(lines, change):
    """The log as somebody would write it who can write all of it: changed, and a whole chain."""
    records = [change(msgspec.json.decode(line, type=audit.Record)) for line in lines]
    made, _ = audit.chain(records, audit.EMPTY)
    return made


def flipped(line):
    old = b'"actor":"'
    assert line.count(old) == 1
    at = line.index(old) + len(old)
    return line[:at] + bytes([line[at] ^ 1]) + line[at + 1 :]


TAMPERING = {
    "a flipped byte": lambda o: [*o.lines[:MIDDLE], flipped(o.lines[MIDDLE]), *o.lines[10:]],
    "a respelled line": lambda o: [
        *o.lines[:MIDDLE], o.lines[MIDDLE].replace(b'":"', b'": "', 1), *o.lines[10:]
    ],
    "no record": lambda o: [*o.lines[:MIDDLE], b"{}\n", *o.lines[10:]],
    "another seq": lambda o: [
        *o.lines[:MIDDLE], o.lines[MIDDLE].replace(b'"seq":10,', b'"seq":11,'), *o.lines[10:]
    ],
    "a dropped record": lambda o: o.lines[:MIDDLE] + o.lines[10:],
    "three dropped records": lambda o: o.lines[:MIDDLE] + o.lines[12:],
    "no first record": lambda o: o.lines[1:],
    "a repeated record": lambda o: o.lines[:10] + o.lines[MIDDLE:],
    "an earlier record": lambda o: [*o.lines[:MIDDLE], o.lines[3], *o.lines[MIDDLE:]],
    "two swapped records": lambda o: [
        *o.lines[:MIDDLE], o.lines[10], o.lines[MIDDLE], *o.lines[11:]
    ],
    "a torn end": lambda o: [*o.lines[:-1], o.lines[-1][:50]],
    "the tail of another plan": lambda o: o.lines[:MIDDLE] + o.foreign[MIDDLE:],
    "the log of another plan": lambda o: o.foreign,
    "the tail of another run": lambda o: o.lines[:MIDDLE] + o.again[MIDDLE:],
    "a changed first record": lambda o: [flipped(o.lines[0]), *o.lines[1:]],
}  # fmt: skip
"""What a chain shows by itself."""

WORDS = {
    "a flipped byte": ("was edited or spliced", "Line 11 does not follow from line 10"),
    "a respelled line": ("was edited or damaged", "Line 10: it is not in canonical form"),
    "no record": ("was edited or damaged", "Line 10: it is no record"),
    "another seq": ("was edited or damaged", "Line 10: it has seq 11 where 10 must stand"),
    "a dropped record": ("were cut out", "Record 10 is missing before line 10"),
    "three dropped records": ("were cut out", "Records 10 to 12 are missing before line 10"),
    "no first record": ("were cut out", "Record 1 is missing before line 1"),
    "a repeated record": ("is repeated", "Line 11 is line 10"),
    "an earlier record": ("are out of order", "Record 4 stands at line 10"),
    "two swapped records": ("are out of order", "Record 10 stands at line 11"),
    "a torn end": ("is torn", "its write was cut off, or is still going on"),
    "the tail of another plan": ("was spliced together", "Line 10 is about another plan"),
    "the log of another plan": ("belongs to another plan", "Its first record is about"),
    "the tail of another run": ("was edited or spliced", "Line 10 does not follow"),
    "a changed first record": ("was edited or spliced", "Line 2 does not follow from line 1"),
}

WHOLE_CHAINS = {
    "a cut end": (lambda o: o.lines[:-1], "The end of the audit log was cut off."),
    "an empty log": (lambda o: [], "The end of the audit log was cut off."),
    "a changed last record": (
        lambda o: [*o.lines[:-1], flipped(o.lines[-1])],
        "The audit log does not lead to the head that was noted.",
    ),
    "the log of another run": (
        lambda o: o.again,
        "The audit log does not lead to the head that was noted.",
    ),
    "a log written anew": (
        lambda o: relinked(o.lines, lambda r: msgspec.structs.replace(r, actor="somebody")),
        "The audit log does not lead to the head that was noted.",
    ),
}
"""What a chain cannot show; an anchor does."""

ANCHORS = ["none", "the receipt beside it", "--head", "--receipt", "--allowed-signers"]


def verified(hdev, logs, plan, keys, anchor):
    """`audit verify` with one anchor of the true log, none of which is left in its folder."""
    receipt = plan / "receipt.json"
    kept = shutil.copy(receipt, plan.parent / "kept.json")
    words = ()
    match anchor:
        case "--head":
            words = ("--head", str(plandir.read_receipt(receipt).receipt.head))
        case "--receipt":
            words = ("--receipt", kept)
        case "--allowed-signers":
            sign(keys, receipt)
            words = ("--allowed-signers", signers(keys, "ann@x ann"))
    if anchor in ("none", "--head", "--receipt"):
        receipt.unlink()
    before = tree_of(plan)
    result = hdev("audit", "verify", plan, *words)
    assert tree_of(plan) == before
    return result


@pytest.mark.parametrize("anchor", ANCHORS)
@pytest.mark.parametrize("way", TAMPERING)
def test_a_broken_chain_is_refused_with_words_of_its_own(hdev, logs, plan, keys, way, anchor):
    (plan / "audit.jsonl").write_bytes(b"".join(TAMPERING[way](logs)))
    result = verified(hdev, logs, plan, keys, anchor)
    what, why = WORDS[way]

    assert result.status == TAMPERED
    assert what in result.err.splitlines()[0]
    assert why in result.err.splitlines()[1]
    assert result.out == ""


@pytest.mark.parametrize("anchor", ANCHORS)
@pytest.mark.parametrize("way", WHOLE_CHAINS)
def test_a_whole_chain_that_is_not_the_noted_one_is_refused(hdev, logs, plan, keys, way, anchor):
    change, what = WHOLE_CHAINS[way]
    (plan / "audit.jsonl").write_bytes(b"".join(change(logs)))
    result = verified(hdev, logs, plan, keys, anchor)

    if anchor == "none":
        assert result.status == UNANCHORED
        assert "nothing outside of its folder vouches for its end" in result.err
    else:
        assert result.status == TAMPERED
        assert what in result.err.splitlines()[0]
        assert result.out == ""


@pytest.mark.parametrize("anchor", ANCHORS)
def test_an_intact_log_is_as_anchored_as_what_vouches_for_it(hdev, logs, plan, keys, anchor):
    result = verified(hdev, logs, plan, keys, anchor)

    assert f"Audit log intact: {len(logs.lines)} records" in result.out
    if anchor in ("none", "the receipt beside it"):
        assert result.status == UNANCHORED
    else:
        assert result.status == INTACT, result.err
        assert f"Anchored up to record {len(logs.lines)} by the " in result.out


def test_records_behind_the_anchor_are_said_to_have_none(hdev, logs, plan):
    early = plandir.read_receipt(plan / "receipt.json").receipt.head.seq - 2
    digest = sha256(logs.lines[early - 1][:-1])
    words = ("audit", "verify", plan, "--head", f"{early}:sha256:{digest}")
    result = hdev(*words)

    assert result.status == INTACT
    assert f"Anchored up to record {early} by" in result.out
    assert "nothing vouches for the 2 records behind that" in result.err
    assert hdev(*words, "--json").json["anchored_to"] == early


@pytest.mark.parametrize("head", ["5", "5:abc", "x:sha256:" + "0" * 64, "", "5:" + "0" * 64])
def test_what_is_no_head_is_a_wrong_command_line(hdev, plan, head):
    assert hdev("audit", "verify", plan, "--head", head).status == USAGE


EXPIRED = 'ann@x valid-before="20200101Z" ann'
UNSIGNED = {
    "another key": (["bob@x bob"], "is not among the allowed signers"),
    "an expired key": ([EXPIRED], "is not valid now"),
    "a key for plans only": (['ann@x namespaces="hdev-plan" ann'], "may not sign receipts"),
}


@pytest.mark.parametrize("case", UNSIGNED)
def test_a_signature_of_nobody_who_counts_does_not_anchor(hdev, plan, keys, case):
    lines, why = UNSIGNED[case]
    sign(keys, plan / "receipt.json")
    result = hdev("audit", "verify", plan, "--allowed-signers", signers(keys, *lines))

    assert result.status == UNANCHORED
    assert why in result.err


@pytest.mark.parametrize("namespace", [signing.NAMESPACE, signing.ATTESTATIONS])
def test_a_signature_that_was_made_for_something_else_is_none_of_a_receipt(
    hdev, plan, keys, namespace
):
    sign(keys, plan / "receipt.json", namespace=namespace)
    result = hdev("audit", "verify", plan, "--allowed-signers", signers(keys, "ann@x ann"))

    assert result.status == UNANCHORED
    assert "made for another purpose than receipts" in result.err


@pytest.mark.parametrize("way", ["given", "configured"])
def test_a_revoked_key_does_not_anchor(hdev, plan, keys, way):
    sign(keys, plan / "receipt.json")
    Path("revoked").write_text(keys.public("ann") + "\n")
    words = ["--allowed-signers", signers(keys, "ann@x ann")]
    if way == "given":
        words += ["--revoked", "revoked"]
    else:
        Path("hdev.toml").write_text('[approvals]\nallowed_signers = "s"\nrevoked = "revoked"\n')
    result = hdev("audit", "verify", plan, *words)

    assert result.status == UNANCHORED
    assert "is revoked" in result.err


def test_a_receipt_that_nobody_signed_does_not_anchor_though_a_head_does(hdev, plan, keys):
    head = str(plandir.read_receipt(plan / "receipt.json").receipt.head)
    words = ("--allowed-signers", signers(keys, "ann@x ann"))
    alone = hdev("audit", "verify", plan, *words)
    with_head = hdev("audit", "verify", plan, *words, "--head", head)

    assert alone.status == with_head.status == UNANCHORED
    assert "it is not signed" in alone.err
    assert "not all that was asked for vouches" in with_head.err


@pytest.mark.parametrize("name", ["receipt.json", "receipt.json.sig"])
def test_a_signed_receipt_that_was_changed_is_tampering(hdev, plan, keys, name):
    sign(keys, plan / "receipt.json")
    path = plan / name
    raw = path.read_bytes()
    # A count in the one, and in the other a character of the signature proper, which ends it.
    at = raw.index(b'"failed": 0') + 10 if name == "receipt.json" else raw.index(b"\n-----END") - 9
    path.write_bytes(raw[:at] + (b"1" if raw[at : at + 1] != b"1" else b"2") + raw[at + 1 :])
    result = hdev("audit", "verify", plan, "--allowed-signers", signers(keys, "ann@x ann"))

    assert result.status == TAMPERED
    assert "The receipt does not fit its signature." in result.err


def test_a_signed_receipt_of_another_run_or_plan_is_refused(hdev, logs, plan, keys):
    trusted = ("--allowed-signers", signers(keys, "ann@x ann"))
    for folder, what in (
        (logs.second, "does not lead to the head"),
        (logs.other, "The receipt belongs to another plan."),
    ):
        theirs = Path(shutil.copy(folder / "receipt.json", plan.parent / "theirs.json"))
        sign(keys, theirs)
        result = hdev("audit", "verify", plan, "--receipt", theirs, *trusted)
        assert result.status == TAMPERED
        assert what in result.err


def test_a_signature_lies_beside_the_receipt_that_is_given(hdev, plan, keys):
    kept = Path(shutil.copy(plan / "receipt.json", plan.parent / "kept.json"))
    sign(keys, kept)
    words = ("audit", "verify", plan, "--allowed-signers", signers(keys, "bob@x bob", "ann@x ann"))
    result = hdev(*words, "--receipt", kept, "--json")

    assert result.status == INTACT, result.err
    assert result.json["signed_by"].startswith("ann@x SHA256:")
    assert hdev(*words).status == UNANCHORED


@pytest.mark.parametrize("text", [b"", b"{}", b"[1]", b"\xff", b"x" * 2_000_000])
def test_what_is_no_receipt_is_refused(hdev, plan, text):
    Path("r").write_bytes(text)
    result = hdev("audit", "verify", plan, "--receipt", "r")

    assert result.status == TAMPERED
    assert "The receipt cannot be read." in result.err


def test_a_receipt_may_come_through_a_pipe(logs, plan):
    words = [*PROGRAM, "audit", "verify", plan, "--receipt", "/dev/stdin"]
    done = subprocess.run(
        words, input=(logs.folder / "receipt.json").read_bytes(), capture_output=True,
        check=False, timeout=50,
    )  # fmt: skip

    assert done.returncode == INTACT, done.stderr


def test_a_pipe_in_the_place_of_a_receipt_holds_nothing_up(hdev, plan):
    (plan / "receipt.json").unlink()
    os.mkfifo(plan / "receipt.json")

    assert hdev("audit", "verify", plan).status == TAMPERED


@pytest.mark.parametrize("text", [None, "ann@x", "* ssh-ed25519 AAAA"])
def test_signers_that_cannot_be_read_are_an_error_and_say_nothing_of_the_log(
    hdev, plan, keys, text
):
    sign(keys, plan / "receipt.json")
    if text is not None:
        Path("signers").write_text(text)
    result = hdev("audit", "verify", plan, "--allowed-signers", "signers")

    assert result.status == FAILED
    assert "Audit log" not in result.out


def test_without_ssh_keygen_nothing_is_said_of_the_log(hdev, plan, keys, monkeypatch):
    sign(keys, plan / "receipt.json")
    words = ("--allowed-signers", signers(keys, "ann@x ann"))
    monkeypatch.setenv("PATH", "")
    result = hdev("audit", "verify", plan, *words)

    assert result.status == FAILED
    assert "ssh-keygen" in result.err
    assert result.out == ""


@pytest.fixture
def planned(hdev, home):
    """A plan that creates one entry."""
    work = home.parent / "work"
    put_entry(work / "source", "a", "x")
    assert hdev("plan", "filesystem:source", "filesystem:target", "-o", "p").status == 0
    return work / "p"


def records(plan):
    return [json.loads(line) for line in (plan / "audit.jsonl").read_text().splitlines()]


def test_apply_signs_its_receipt_which_then_anchors_the_log(hdev, planned, keys):
    result = hdev("apply", "p", "--sign-receipt", keys.private("ann"), "--json")
    trusted = ("--allowed-signers", signers(keys, "ann@x ann"))

    assert result.status == 0, result.err
    assert result.json["signed_with"].startswith("SHA256:")
    assert hdev("audit", "verify", "p", *trusted).status == INTACT


def test_a_receipt_that_cannot_be_signed_stands_and_is_signed_later(hdev, planned, keys):
    """The key has a passphrase, and there is nobody to ask."""
    locked = keys.private("locked", passphrase="secret words")
    result = hdev("apply", "p", "--sign-receipt", locked)
    receipt = (planned / "receipt.json").read_bytes()

    assert result.status == 4
    assert "Applied: 1 created" in result.out
    assert "Not signed: receipt.json was written, but it is not signed." in result.err
    assert "hdev audit sign p" in result.err
    assert tree_of(planned.parent / "target")["a.md"] == b"x"
    assert not (planned / "receipt.json.sig").exists()

    again = hdev("apply", "p", "--sign-receipt", keys.private("ann"))

    assert again.status == 0
    assert "Nothing to do" in again.out
    assert (planned / "receipt.json").read_bytes() == receipt
    trusted = ("--allowed-signers", signers(keys, "ann@x ann"))
    assert hdev("audit", "verify", "p", *trusted).status == INTACT


def test_without_ssh_keygen_the_run_stands_unsigned(hdev, planned, keys, monkeypatch):
    key = keys.private("ann")
    monkeypatch.setenv("PATH", "")
    result = hdev("apply", "p", "--sign-receipt", key, "--json")

    assert result.status == result.json["exit"] == 4
    assert result.json["result"] == "finished"
    assert result.json["signed_with"] is None
    assert "It cannot be run" in result.err
    assert tree_of(planned.parent / "target")["a.md"] == b"x"


def test_a_key_that_is_not_there_is_noticed_before_anything_is_written(hdev, planned):
    result = hdev("apply", "p", "--sign-receipt", "nowhere")

    assert result.status == USAGE
    assert not (planned.parent / "target/a.md").exists()


def test_a_later_run_takes_the_old_signature_away(hdev, planned, keys):
    hdev("apply", "p", "--sign-receipt", keys.private("ann"))
    hdev("apply", "p", "--again")
    result = hdev("audit", "verify", "p", "--allowed-signers", signers(keys, "ann@x ann"))

    assert result.status == UNANCHORED
    assert "it is not signed" in result.err


def test_audit_sign_signs_what_a_run_left(hdev, plan, keys):
    result = hdev("audit", "sign", plan, "--key", keys.private("ann"))
    trusted = ("--allowed-signers", signers(keys, "ann@x ann"))

    assert result.status == 0, result.err
    assert str(plandir.read_receipt(plan / "receipt.json").receipt.head) in result.out
    assert hdev("audit", "verify", plan, *trusted).status == INTACT
    said = hdev("audit", "sign", plan, "--key", keys.private("ann"), "--json").json
    assert said["signed_with"] in result.out
    assert said["head"] in result.out


@pytest.mark.parametrize("command", ["sign", "export"])
def test_nothing_is_signed_or_stated_of_a_log_that_was_tampered_with(
    hdev, logs, plan, keys, command
):
    (plan / "audit.jsonl").write_bytes(b"".join(logs.lines[:-1]))
    before = tree_of(plan.parent)
    words = ("--key", keys.private("ann"), *(("--out", "s.json") if command == "export" else ()))
    result = hdev("audit", command, plan, *words)

    assert result.status == TAMPERED
    assert result.out == ""
    assert tree_of(plan.parent) == before


@pytest.mark.parametrize("command", ["sign", "export"])
def test_a_plan_that_was_never_applied_has_nothing_to_sign_or_state(hdev, planned, keys, command):
    words = ("--key", keys.private("ann")) if command == "sign" else ()

    assert hdev("audit", command, "p", *words).status == FAILED


def test_the_statement_is_one_of_in_toto(hdev, plan):
    """By the classes of the in-toto project itself."""
    result = hdev("audit", "export", plan)
    parsed = google.protobuf.json_format.Parse(result.out, statement_pb2.Statement())
    statement.Statement.copy_from_pb(parsed).validate()
    said = json.loads(result.out)
    receipt = json.loads((plan / "receipt.json").read_text())

    assert said["predicateType"] == attestation.PREDICATE
    assert said["subject"] == [
        {
            "name": receipt["target"],
            "digest": {"hdevEffect": receipt["effect"]},
        },
        {
            "name": "plan.json",
            "digest": {"sha256": sha256((plan / "plan.json").read_bytes())},
        },
    ]
    assert said["predicate"]["receipt"] == receipt
    assert said["predicate"]["receiptDigest"] == {
        "sha256": sha256((plan / "receipt.json").read_bytes())
    }
    assert hdev("audit", "export", plan).out == result.out


def test_a_signed_statement_verifies_with_ssh_keygen(hdev, plan, keys):
    result = hdev("audit", "export", plan, "--out", "s.json", "--key", keys.private("ann"))
    words = ["ssh-keygen", "-Y", "verify", "-n", "hdev-attestation", "-I", "ann@x"]
    words += ["-f", signers(keys, "ann@x ann"), "-s", "s.json.sig"]
    done = subprocess.run(
        words, input=Path("s.json").read_bytes(), capture_output=True, check=False, timeout=50
    )

    assert result.status == 0, result.err
    assert done.returncode == 0, done.stderr
    assert Path("s.json").read_text() == hdev("audit", "export", plan).out


def test_a_statement_is_signed_into_a_file_only(hdev, plan, keys):
    assert hdev("audit", "export", plan, "--key", keys.private("ann")).status == USAGE


def refused(hdev, plan, *words, status, **given):
    """What a refused apply has added to the log, but for its start."""
    before = records(plan)
    result = hdev("apply", plan, *words, **given)
    assert result.status == status, result.err
    return [one for one in records(plan)[len(before) :] if one["event"] != "started"]


def test_a_plan_that_is_not_the_expected_one_is_recorded_as_refused(hdev, planned):
    (record,) = refused(hdev, planned, "--expect", "sha256:" + "0" * 64, status=8)

    assert (record["event"], record["reason"]) == ("refused", "PlanError")
    assert "not the plan that was expected" in record["evidence"]


def test_drift_is_recorded_by_key_and_as_a_refusal(hdev, planned):
    put_entry(planned.parent / "source", "a", "changed")
    drift, record = refused(hdev, planned, status=3)

    assert (drift["event"], drift["key"]) == ("drift", "a")
    assert drift["reason"].startswith("source: content ")
    assert (record["event"], record["reason"]) == ("refused", "DriftFound")


def test_an_end_that_cannot_be_reached_is_recorded_as_a_refusal(hdev, planned):
    (record,) = refused(hdev, planned, "--target-url", "http://127.0.0.1:9", status=9)

    assert (record["event"], record["reason"]) == ("refused", "BackendError")


def test_another_end_is_recorded_as_a_refusal(hdev, planned):
    (record,) = refused(hdev, planned, "--source-path", "nowhere", status=1)

    assert record["event"] == "refused"


def test_a_replay_is_recorded_as_a_refusal(hdev, planned):
    hdev("apply", "p")
    put_entry(planned.parent / "target", "a", "edited since")
    (record,) = refused(hdev, planned, status=8)

    assert (record["event"], record["reason"]) == ("refused", "PlanError")
    assert "finished before" in record["evidence"]


def test_missing_approvals_are_recorded_as_a_refusal(hdev, planned, keys):
    words = ("--allowed-signers", signers(keys, "ann@x ann"))
    (record,) = refused(hdev, planned, *words, status=6)

    assert (record["event"], record["reason"]) == ("refused", "ApprovalError")


def test_a_wrong_command_line_is_no_refusal_of_the_plan(hdev, planned):
    assert refused(hdev, planned, "--sign-receipt", "nowhere", status=64) == []


def test_a_plan_that_was_edited_leaves_the_log_as_it_is(hdev, planned):
    """It has no id any more under which a record could stand."""
    path = planned / "plan.json"
    path.write_bytes(path.read_bytes().replace(b'"create"', b'"delete"'))

    assert refused(hdev, planned, status=8) == []


def test_a_refusal_records_a_hundred_drifts_at_most_and_counts_all(hdev, home):
    work = home.parent / "work"
    for number in range(120):
        put_entry(work / "source", f"n/{number:03}", "x")
    hdev("plan", "filesystem:source", "filesystem:target", "-o", "p")
    shutil.rmtree(work / "source/n")
    *drifts, record = refused(hdev, work / "p", status=3)

    assert [one["event"] for one in drifts] == ["drift"] * 100
    assert "120 entries differ" in record["evidence"]
