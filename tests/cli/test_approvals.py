"""Approve, list, and be let through or not: each with real keys and the real ssh-keygen."""

import errno
import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import msgspec
import pexpect
import pytest
from tests import keys as made
from tests.conftest import put_entry, tree_of
from tests.processes import PROGRAM
from tests.test_trust import Repository

from hdev_memory import durable, plandir, signing
from hdev_memory.core import approval

REQUIRE_TWO = """
[approvals]
allowed_signers = "signers"
revoked = "revoked"
require = 2
agents = ["bot@x"]
unattended = ["ann@x", "bob@x", "cid@x", "bot@x", "author@x", "stranger@x"]
"""


class World:
    """A plan by author@x that creates one entry, and those who may sign."""

    def __init__(self, work, keys, hdev):
        self.work, self.keys, self.hdev = work, keys, hdev
        self.plan = work / "p"
        put_entry(work / "source", "a", "x")
        self.configure(REQUIRE_TWO)
        self.signers(*(f"{name}@x {name}" for name in ("ann", "bob", "cid", "bot", "author")))
        (work / "revoked").write_text("")
        self.make_plan("p")

    def make_plan(self, name, *flags):
        words = ("filesystem:source", "filesystem:target", "-o", name, "--principal", "author@x")
        result = self.hdev("plan", *words, *flags)
        assert result.status == 0, result.err

    def configure(self, text):
        (self.work / "hdev.toml").write_text(text)

    def signers(self, *lines):
        """Each `PRINCIPALS [OPTIONS] NAME`, where NAME is a key of ours."""
        texts = []
        for line in lines:
            head, _, key = line.rpartition(" ")
            texts.append(f"{head} {self.keys.public(key)}\n")
        (self.work / "signers").write_text("".join(texts))

    def about(self):
        with plandir.load(self.plan) as opened:
            return approval.subject(opened.plan)

    def put(self, name, *, key=None, file=None, **changed):
        """An approval by NAME@x with the key NAME; the name of its file."""
        said = made.statement(self.about(), f"{name}@x", **changed)
        return made.put(self.plan, self.keys, key or name, said, name=file)

    def reject(self, name, **changed):
        return self.put(name, decision="reject", expires=None, comment="not on Friday", **changed)

    def edit(self, name, old, new):
        path = self.plan / "approvals" / name
        raw = path.read_bytes()
        assert raw.count(old) == 1
        path.write_bytes(raw.replace(old, new))

    def apply(self, *flags):
        return self.hdev("apply", "p", *flags)

    def records(self):
        return [json.loads(line) for line in (self.plan / "audit.jsonl").read_text().splitlines()]


@pytest.fixture
def world(home, keys, hdev):
    return World(home.parent / "work", keys, hdev)


def two(world):
    world.put("ann")
    world.put("bob")


def missing_signature(world):
    world.put("ann")
    (world.plan / "approvals" / (world.put("bob") + ".sig")).unlink()


def swapped_signatures(world):
    ann, bob = (world.plan / "approvals" / (world.put(name) + ".sig") for name in ("ann", "bob"))
    first, second = ann.read_bytes(), bob.read_bytes()
    ann.write_bytes(second)
    bob.write_bytes(first)


def other_namespace(world):
    world.put("ann")
    name = world.put("bob")
    raw = (world.plan / "approvals" / name).read_bytes()
    (world.plan / "approvals" / (name + ".sig")).write_bytes(world.keys.sign("bob", raw, "git"))


def one_byte(world):
    world.put("ann")
    world.edit(world.put("bob", comment="for staging"), b"staging", b"stagings")


def longer_life(world):
    world.put("ann")
    name = world.put("bob", expires="2026-01-02T00:00:00Z", created="2026-01-01T00:00:00Z")
    world.edit(name, b"2026-01-02T", b"2099-01-02T")


def same_statement_twice(world):
    name = world.put("ann")
    for end in ("", ".sig"):
        shutil.copy(
            world.plan / "approvals" / (name + end), world.plan / "approvals" / ("copy.json" + end)
        )


def one_nonce(world):
    world.put("ann", nonce="5" * 32)
    world.put("bob", nonce="5" * 32)


def two_keys_of_one(world):
    world.signers("ann@x ann", "ann@x bob", "cid@x cid")
    world.put("ann")
    world.put("ann", key="bob")


def one_key_of_two(world):
    world.signers("ann@x,bob@x ann", "cid@x cid")
    world.put("ann")
    world.put("bob", key="ann")


def one_key_on_two_lines(world):
    world.signers("ann@x ann", "bob@x ann")
    world.put("ann")
    world.put("bob", key="ann")


def with_line(line, *who):
    def arrange(world):
        world.signers("ann@x ann", "cid@x cid", line)
        for name in who or ("ann", "bob"):
            world.put(name)

    return arrange


def revoked(world):
    two(world)
    (world.work / "revoked").write_text(world.keys.public("bob") + "\n")


def revocation_file_gone(world):
    two(world)
    (world.work / "revoked").unlink()


def signers_gone(world):
    two(world)
    (world.work / "signers").unlink()


def another_plan(world):
    world.make_plan("q", "--expires", "9d")
    other = World.__new__(World)
    vars(other).update(vars(world), plan=world.work / "q")
    world.put("ann")
    name = other.put("bob")
    for end in ("", ".sig"):
        shutil.copy(other.plan / "approvals" / (name + end), world.plan / "approvals")


def no_statement(text):
    def arrange(world):
        world.put("ann")
        (world.plan / "approvals/bob@x.json").write_bytes(text)
        (world.plan / "approvals/bob@x.json.sig").write_bytes(b"x")

    return arrange


def as_link(world):
    world.put("ann")
    place = world.plan / "approvals" / world.put("bob")
    place.rename(world.work / "elsewhere.json")
    place.symlink_to(world.work / "elsewhere.json")


def as_pipe(world):
    world.put("ann")
    place = world.plan / "approvals" / world.put("bob")
    place.unlink()
    os.mkfifo(place)


def too_many(world):
    for number in range(approval.MAX_APPROVALS + 1):
        (world.plan / f"approvals/{number}.json").write_text("")


def folder_is_a_link(world):
    two(world)
    (world.plan / "approvals").rename(world.work / "elsewhere")
    (world.plan / "approvals").symlink_to(world.work / "elsewhere")


def both(*deeds):
    def arrange(world):
        for deed in deeds:
            deed(world)

    return arrange


REFUSED = [
    ("none", lambda w: None, "0 of 2 approvals count"),
    ("one of two", lambda w: w.put("ann"), "1 of 2 approvals count"),
    ("the author", lambda w: (w.put("ann"), w.put("author")), "made the plan"),
    ("an agent that the project calls so", lambda w: (w.put("ann"), w.put("bot")),
     "an agent's approval never counts"),
    ("an agent by its own word", lambda w: (w.put("ann"), w.put("bob", role="agent")),
     "an agent's approval never counts"),
    ("an agent by the name of a person",
     lambda w: (w.signers("ann@x ann", "bob@x,bot@x bob"), two(w)),
     "an agent's approval never counts"),
    ("the author by the name of somebody else",
     lambda w: (w.signers("ann@x ann", "bob@x bob", "author@x bob"), two(w)), "made the plan"),
    ("one person with two keys", two_keys_of_one, "its principal, its key or its nonce counts"),
    ("two principals on one key", one_key_of_two, "its principal, its key or its nonce counts"),
    ("one key on two lines", one_key_on_two_lines, "its principal, its key or its nonce counts"),
    ("one person in two spellings",
     with_line("Ann@x bob", "ann"), "1 of 2 approvals count"),
    ("the same statement twice", same_statement_twice, "under a name that is not its own"),
    ("one nonce twice", one_nonce, "its principal, its key or its nonce counts"),
    ("a key that nobody listed", lambda w: (w.put("ann"), w.put("stranger")),
     "is not among the allowed signers"),
    ("a key of somebody else", lambda w: (w.put("ann"), w.put("bob", key="cid")),
     "belongs to cid@x, not to bob@x"),
    ("an expired statement",
     lambda w: (w.put("ann"), w.put("bob", created="2026-01-01T00:00:00Z",
                                    expires="2026-01-02T00:00:00Z")),
     "it expired at 2026-01-02T00:00:00Z"),
    ("an expired statement made to live longer", longer_life, "does not fit it"),
    ("a statement from the future",
     lambda w: (w.put("ann"), w.put("bob", created="2098-01-01T00:00:00Z", expires=None)),
     "it is dated in the future"),
    ("a key that has expired", with_line('bob@x valid-before="20200101" bob'), "not valid now"),
    ("a statement from when its key was valid",
     both(with_line('bob@x valid-before="20200101" bob', "ann"),
          lambda w: w.put("bob", created="2019-06-01T00:00:00Z", expires=None)),
     "not valid now"),
    ("a key that is not valid yet", with_line('bob@x valid-after="20980101" bob'),
     "not valid now"),
    ("a key for other things", with_line('bob@x namespaces="git" bob'), "may not sign plans"),
    ("a revoked key", revoked, "is revoked"),
    ("the wrong namespace", other_namespace, "made for another purpose than plans"),
    ("another plan", another_plan, "it is about another plan"),
    ("another target",
     lambda w: (w.put("ann"), w.put("bob", target=approval.Target("filesystem", "~/z", None))),
     "it is about another target"),
    ("another effect", lambda w: (w.put("ann"), w.put("bob", effect="0" * 64)),
     "it is about another effect"),
    ("one byte more in the statement", one_byte, "does not fit it: one of the two was changed"),
    ("signatures that were exchanged", swapped_signatures, "not to"),
    ("no signature", missing_signature, "it is not signed"),
    ("no statement but text", no_statement(b"yes"), "it is no statement"),
    ("no statement but much", no_statement(b"x" * 20_000), "longer than 16384 bytes"),
    ("no statement but nothing", no_statement(b""), "it is no statement"),
    ("a link", as_link, "cannot be read"),
    ("a pipe", as_pipe, "it is no file"),
    ("a folder that is a link", folder_is_a_link, "approvals cannot be read"),
    ("more than anybody reads", too_many, "more than 64 statements"),
    ("a rejection beside enough approvals", lambda w: (two(w), w.reject("cid")),
     "cid@x has rejected it"),
    ("a rejection by the author", lambda w: (two(w), w.reject("author")),
     "author@x has rejected it"),
    ("a rejection under another name", lambda w: (two(w), w.reject("cid", file="readme.json")),
     "cid@x has rejected it"),
    ("a rejection by an agent", lambda w: (two(w), w.reject("bot")), "bot@x has rejected it"),
    ("a wildcard among the allowed signers", both(two, with_line("*@x bob")),
     "signers:3: *@x is a pattern: it could match anybody"),
    ("a certificate authority", both(two, with_line("bob@x cert-authority bob")),
     "signers:3: certificate authorities are not supported"),
    ("no file of allowed signers", signers_gone, "signers: there is no such file"),
    ("no file of revoked keys", revocation_file_gone, "revoked: there is no such file"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("arrange", "text"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED]
)
def test_what_does_not_suffice_is_refused_told_and_logged(world, arrange, text):
    arrange(world)
    folder = tree_of(world.plan / "approvals") if "pipe" not in text else {}
    result = world.apply()

    assert result.status == 6, (result.out, result.err)
    assert text in result.err
    assert "Traceback" not in result.err
    assert "bug in itself" not in result.err
    assert (result.out, "\n  Next: " in result.err) == ("", True)
    assert not (world.work / "target").exists()
    assert not (world.plan / "receipt.json").exists()
    assert world.records()[-1]["event"] == "refused"
    assert world.records()[-1]["reason"] in ("ApprovalError", "TrustError")
    assert "pipe" in text or tree_of(world.plan / "approvals") == folder


ALLOWED = [
    ("two", two),
    ("three", lambda w: (two(w), w.put("cid"))),
    ("two and everything that counts for nothing",
     lambda w: (two(w), w.put("author"), w.put("bot"), w.put("stranger"), w.put("ann"),
                (w.plan / "approvals/readme.txt").write_text("hello"))),
    ("ones that never expire", lambda w: (w.put("ann", expires=None), w.put("bob", expires=None))),
    ("one key of two, and another", both(one_key_of_two, lambda w: w.put("cid"))),
    ("two keys of one, and another", both(two_keys_of_one, lambda w: w.put("cid"))),
    ("a rejection by a stranger", lambda w: (two(w), w.reject("stranger"))),
    ("a rejection of another plan", lambda w: (two(w), w.reject("cid", plan="sha256:" + "0" * 64))),
    ("a key with restrictions that are kept",
     with_line('bob@x namespaces="hdev-plan",valid-after="20200101",valid-before="20980101Z" bob')),
    ("other keys revoked",
     lambda w: (two(w), (w.work / "revoked").write_text(w.keys.public("cid") + "\n"))),
]  # fmt: skip


@pytest.mark.parametrize("arrange", [row[1] for row in ALLOWED], ids=[row[0] for row in ALLOWED])
def test_what_suffices_lets_the_plan_run_and_is_in_the_receipt(world, arrange):
    arrange(world)
    result = world.apply()
    receipt = json.loads((world.plan / "receipt.json").read_text())

    assert result.status == 0, result.err
    assert (world.work / "target/a.md").read_text() == "x"
    assert len(receipt["approvals"]) >= 2
    for one in receipt["approvals"]:
        place = world.plan / "approvals" / f"{one['principal']}-{one['nonce']}.json"
        assert one["statement"] == approval.sha256(place.read_bytes())
        assert one["key"].startswith("SHA256:")


def test_the_list_tells_each_and_what_it_is_worth(world):
    two(world)
    world.put("author")
    world.put("bot")
    (world.plan / "approvals/evil\x1b[2J.json").write_text("")
    enough = world.hdev("approvals", "p")
    world.reject("cid")
    blocked = world.hdev("approvals", "p", "--json")

    assert enough.status == 0
    for text in (
        "counts   approve by ann@x", "counts   approve by bob@x",
        "nothing  approve by author@x", "made the plan",
        "nothing  approve by bot@x", "an agent's approval never counts",
        "evil\\u{1b}[2J.json", "It was made by author@x", "Approved: 2 count.",
    ):  # fmt: skip
        assert text in enough.out, text
    assert blocked.status == 6
    assert {line["worth"] for line in blocked.lines("approval")} == {"counts", "blocks", "nothing"}
    assert blocked.json["missing"] == ["cid@x has rejected it"]
    assert (blocked.json["required"], blocked.json["allowed"]) == (2, False)


def test_the_list_says_when_nobody_is_excluded_and_nobody_may_sign(world):
    (world.work / "hdev.toml").unlink()
    shutil.rmtree(world.plan)
    world.hdev("plan", "filesystem:source", "filesystem:target", "-o", "p")
    world.put("ann")
    listed = world.hdev("approvals", "p")

    assert "does not say who made it, so nobody is excluded" in listed.out
    assert "Nobody has said here who may sign" in listed.out
    assert "No approvals are required here." in listed.out
    assert (listed.status, world.apply().status) == (0, 0)


def test_the_event_lines_of_a_refused_apply_tell_each_approval(world):
    world.put("ann")
    world.put("author")
    result = world.apply("--json")

    assert {(line["principal"], line["worth"]) for line in result.lines("approval")} == {
        ("ann@x", "counts"),
        ("author@x", "nothing"),
    }
    assert (result.json["type"], result.json["exit"]) == ("error", 6)


@pytest.mark.parametrize(
    ("table", "flags", "status"),
    [
        ("require = 1", (), 0),
        ("require = 1", ("--require-approvals", "2"), 6),
        ("require = 2", ("--require-approvals", "1"), 6),
        ("require = 0", (), 0),
        ("", (), 0),
        ("require = 1\nexclude_author = false", (), 0),
        ('groups.ops = { principals = ["ann@x", "bob@x"] }', (), 0),
        ('groups.ops = { principals = ["bob@x", "cid@x"] }', (), 6),
        ('groups.ops = { principals = ["ann@x"] }\nrequire = 2', (), 6),
        ('max_age = "1h"', (), 0),
    ],
)
def test_the_stricter_of_rules_and_flags_wins(world, table, flags, status):
    """One approval, by ann."""
    world.configure(f'[approvals]\nallowed_signers = "signers"\n{table}\n')
    world.put("ann")

    result = world.apply(*flags)
    assert result.status == status, result.err


def test_a_file_of_allowed_signers_on_the_command_line_asks_for_one_approval(world):
    (world.work / "hdev.toml").unlink()
    assert world.apply("--allowed-signers", "signers").status == 6
    world.put("ann")

    assert world.apply("--allowed-signers", "signers").status == 0


def test_approvals_that_are_asked_for_without_anybody_to_give_them_refuse(world):
    (world.work / "hdev.toml").unlink()
    world.put("ann")
    result = world.apply("--require-approvals", "1")

    assert result.status == 6
    assert "There is no file of allowed signers." in result.err
    assert world.records()[-1]["event"] == "refused"


def test_an_identical_plan_keeps_its_approvals_where_they_are_bound_to_the_effect(world):
    two(world)
    world.make_plan("q", "--expires", "9d")
    shutil.copytree(world.plan / "approvals", world.work / "q/approvals", dirs_exist_ok=True)
    refused = world.hdev("apply", "q")
    world.configure(REQUIRE_TWO + 'bind = "effect"\n')
    applied = world.hdev("apply", "q")

    assert (refused.status, applied.status) == (6, 0)


def test_another_effect_keeps_none(world):
    two(world)
    put_entry(world.work / "source", "b", "more")
    world.make_plan("q")
    shutil.copytree(world.plan / "approvals", world.work / "q/approvals", dirs_exist_ok=True)
    world.configure(REQUIRE_TWO + 'bind = "effect"\n')

    assert world.hdev("apply", "q").status == 6


def test_a_finished_run_has_used_its_approvals_up(world):
    two(world)
    assert world.apply().status == 0
    again = world.apply("--again")
    two(world)

    assert again.status == 6
    assert "it was used up by an earlier run" in again.err
    assert world.apply("--again").status == 0


def test_a_rollback_needs_approvals_of_its_own(world):
    two(world)
    world.apply()
    assert world.hdev("rollback", "p", "-o", "back", "--principal", "ann@x").status == 0
    shutil.copytree(world.plan / "approvals", world.work / "back/approvals", dirs_exist_ok=True)
    refused = world.hdev("apply", "back")
    world.plan = world.work / "back"
    world.put("bob")
    world.put("cid")

    assert refused.status == 6
    assert world.hdev("apply", "back").status == 0
    assert not (world.work / "target/a.md").exists()


def test_one_step_is_refused_where_approvals_are_required(world):
    words = ("migrate-memory", "--target-path", "target", "--target", "filesystem")
    dry = world.hdev(*words, "--source-path", "source", "--dry-run")
    shutil.rmtree(world.work / "plans")
    result = world.hdev(*words, "--source-path", "source")
    line = f"!migrate_memory target_config=filesystem:{world.work / 'target'}\n"
    session = world.hdev("session", stdin=line)

    assert (dry.status, result.status, session.status) == (0, 6, 6)
    assert "Make a plan with `hdev plan`" in result.err
    assert not (world.work / "plans").exists()
    assert not (world.work / "target").exists()


def approve(world, name, *flags, key=None):
    words = ("--key", world.keys.private(key or name), "--principal", f"{name}@x")
    return world.hdev("approve", "p", *words, *flags)


def test_who_is_unattended_approves_without_a_terminal(world):
    result = approve(world, "ann", "--yes", "--comment", "fine by me", "--expires", "5d")
    (name,) = (world.plan / "approvals").glob("*.json")
    said = approval.decode(name.read_bytes())
    record = world.records()[-1]

    assert result.status == 0, result.err
    assert "Plan: 1 to create" in result.out
    assert world.about().plan in result.out
    assert (said.principal, said.comment, said.role) == ("ann@x", "fine by me", "person")
    assert said.created[:8] < said.expires[:10]
    assert name.name == said.name
    assert (record["event"], record["reason"]) == ("approved", "fine by me")
    assert record["evidence"].startswith("ann@x SHA256:")
    assert approve(world, "bob", "--yes", "--json").json["worth"] == "counts"
    assert world.apply().status == 0
    assert world.hdev("audit", "verify", "p").status == 10


def test_there_is_an_end_to_approvals(world):
    for number in range(approval.MAX_APPROVALS):
        (world.plan / f"approvals/{number}.json").write_text("")
    result = approve(world, "ann", "--yes")

    assert result.status == 6
    assert "as many approvals as it can have" in result.err


def test_each_command_says_what_comes_next(world):
    planned = world.hdev("plan", "filesystem:source", "filesystem:target", "-o", "q")
    first, second = approve(world, "ann", "--yes"), approve(world, "bob", "--yes")

    assert "Next: hdev approve q" in planned.out
    assert "Not approved yet: 1 of 2 approvals count." in first.out
    assert "Next: hdev apply p" in second.out


def test_a_rejection_is_logged_and_stays_though_its_file_goes(world):
    two(world)
    result = approve(world, "cid", "--yes", "--reject", "--comment", "not on Friday")
    listed = world.hdev("approvals", "p")
    for path in (world.plan / "approvals").glob("cid@x-*"):
        path.unlink()
    applied = world.apply()
    shown = world.hdev("show", "p")

    assert result.status == 0, result.err
    assert 'it rejects the plan; it says "not on Friday"' in listed.out
    assert "approval blocks: reject by cid@x: the audit log says so" in shown.out
    assert "rejected" in [record["event"] for record in world.records()]
    assert applied.status == 6
    assert "cid@x has rejected it" in applied.err
    (world.work / "hdev.toml").unlink()
    assert world.apply().status == 6, "without rules as well"


def nothing_signed(world):
    return tree_of(world.plan / "approvals") == {} and [
        record["event"] for record in world.records()
    ] == ["planned"]


@pytest.mark.parametrize(
    ("name", "flags", "status", "text"),
    [
        ("author", ("--yes",), 6, "It was made by author@x"),
        ("dan", ("--yes",), 6, "dan@x is not among the `unattended`"),
        ("ann", (), 64, "There is no terminal to ask at."),
        ("stranger", ("--yes",), 6, "is not among the allowed signers"),
        ("ann", ("--yes", "--reject"), 64, "A rejection says why."),
        ("ann", ("--yes", "--reject", "--comment", "x", "--expires", "1d"), 64, "does not expire"),
        ("ann", ("--yes", "--comment", "x" * 1001), 64, "1001 characters of at most 1000"),
        ("ann", ("--yes", "--comment", "\udcff"), 64, "not valid Unicode"),
        ("ann", ("--yes", "--expires", "soon"), 64, "not a time span"),
        ("ann", ("--yes", "--expect", "sha256:" + "0" * 64), 8, "not the plan that was expected"),
        ("ann", ("--yes", "--principal", "a*"), 64, "not the name of a principal"),
        ("ann", ("--yes", "--key", "none"), 64, "'none' is no file."),
        ("ann", ("--yes", "--key", "hdev.toml"), 6, "The statement was not signed."),
    ],
)
def test_what_is_not_signed(world, name, flags, status, text):
    result = approve(world, name, *flags)

    assert result.status == status, (result.out, result.err)
    assert text in result.err
    assert nothing_signed(world)


def test_who_signs_with_what_may_be_configured(world, monkeypatch):
    monkeypatch.setenv("HDEV_MEMORY_PRINCIPAL", "ann@x")
    missing = world.hdev("approve", "p", "--yes")
    monkeypatch.setenv("HDEV_MEMORY_SIGNING_KEY", str(world.keys.private("ann")))
    result = world.hdev("approve", "p", "--yes")
    monkeypatch.delenv("HDEV_MEMORY_PRINCIPAL")

    assert missing.status == 64
    assert "HDEV_MEMORY_SIGNING_KEY" in missing.err
    assert result.status == 0, result.err
    assert world.hdev("approve", "p", "--yes").status == 64


def changed(said):
    """The statement with one member after the other changed."""
    other = {
        "decision": "reject", "plan": "sha256:" + "0" * 64, "effect": "0" * 64,
        "target": approval.Target("http", "https://h", None), "principal": "cid@x",
        "role": "agent", "comment": "more", "created": "2026-01-01T00:00:00Z",
        "expires": "2098-01-01T00:00:00Z", "nonce": "0" * 32,
    }  # fmt: skip
    assert {*other, "format"} == set(said.__struct_fields__)
    for member, value in other.items():
        more = {"expires": None} if member == "decision" else {}
        yield member, msgspec.structs.replace(said, **{member: value}, **more)


def test_a_change_of_any_member_of_a_statement_takes_its_worth(world):
    world.signers("ann@x,cid@x ann")
    said = made.statement(world.about(), "ann@x")
    signature = world.keys.sign("ann", approval.encode(said))
    plandir.write_approval(world.plan, plandir.Signed(said.name, approval.encode(said), signature))
    assert world.hdev("approvals", "p", "--json").json["counted"] == 1, "it counts unchanged"
    shutil.rmtree(world.plan / "approvals")
    for member, other in changed(said):
        raw = approval.encode(other)
        plandir.write_approval(world.plan, plandir.Signed(other.name, raw, signature))
        listed = world.hdev("approvals", "p", "--json")
        assert listed.json["missing"] == ["0 of 2 approvals count"], member
        assert all("does not fit it" in line["why"] for line in listed.lines("approval")), member


def test_a_clone_without_the_empty_folder_takes_approvals(world):
    """git keeps no empty folder."""
    (world.plan / "approvals").rmdir()
    assert world.apply().status == 6
    assert approve(world, "ann", "--yes").status == 0
    assert approve(world, "bob", "--yes").status == 0

    assert world.apply().status == 0


class Full(durable.Disk):
    """A disk that takes no new file."""

    refused = 0

    def create(self, folder, name, mode=0o666):
        self.refused += 1
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_an_approval_that_cannot_be_written_says_so_and_grants_nothing(world, monkeypatch):
    world.put("bob")
    with monkeypatch.context() as patch:
        full = Full()
        patch.setattr(durable, "disk", full)
        result = approve(world, "ann", "--yes")

    assert full.refused == 1
    assert result.status == 1
    assert "signed and logged, but it could not be written" in result.err
    assert world.records()[-1]["event"] == "approved"
    assert world.apply().status == 6


def test_what_is_in_the_way_of_approvals_is_told_before_anything_is_signed(world):
    (world.plan / "approvals").rmdir()
    (world.plan / "approvals").write_text("in the way")
    result = approve(world, "ann", "--yes")

    assert result.status == 6
    assert "approvals cannot be read" in result.err
    assert [record["event"] for record in world.records()] == ["planned"]


def test_a_comment_cannot_do_anything_to_a_terminal(world):
    comment = "fine\x1b[2J\u202e\n@everybody"
    assert approve(world, "ann", "--yes", "--comment", comment).status == 0
    listed = world.hdev("approvals", "p")
    shown = world.hdev("audit", "show", "p")

    for text in (listed.out, shown.out):
        assert "fine\\u{1b}[2J\\u{202e}\\u{a}@everybody" in text


def test_an_ssh_agent_signs_for_a_public_key(world, tmp_path, monkeypatch):
    private = world.keys.private("in-agent")
    public = tmp_path / "only.pub"
    public.write_text(world.keys.public("in-agent") + "\n")
    world.signers("ann@x in-agent")
    with made.Agent(tmp_path) as environ:
        subprocess.run(["ssh-add", "-q", private], env=environ, check=True, timeout=50)
        monkeypatch.setenv("SSH_AUTH_SOCK", environ["SSH_AUTH_SOCK"])
        words = ("--key", public, "--principal", "ann@x", "--yes", "--json")
        result = world.hdev("approve", "p", *words)

    assert result.status == 0, result.err
    assert result.json["worth"] == "counts"


def test_an_agent_approves_and_is_told_that_it_does_not_count(world):
    result = approve(world, "bot", "--yes", "--json")

    assert result.status == 0, result.err
    assert result.json["worth"] == "nothing"
    assert "never counts" in result.json["why"]
    assert b'"role":"agent"' in next((world.plan / "approvals").glob("bot@x*.json")).read_bytes()


def test_an_author_withdraws_a_plan(world):
    assert approve(world, "author", "--yes", "--reject", "--comment", "too early").status == 0
    two(world)

    assert world.apply().status == 6


def test_an_expired_plan_is_not_approved(world, monkeypatch):
    from hdev_memory.cli import context

    later = context.now().replace(year=2098)
    monkeypatch.setattr(context, "now", lambda: later)
    result = approve(world, "ann", "--yes")

    assert result.status == 8
    assert nothing_signed(world)


def test_where_nobody_has_said_who_may_sign_the_worth_is_not_known(world, home):
    world.configure('[approvals]\nrequire = 0\nunattended = ["ann@x"]\n')
    result = approve(world, "ann", "--yes")

    assert result.status == 0, result.err
    assert "Worth: not known" in result.out
    assert "Next: hdev apply p" in result.out
    rejected = approve(world, "ann", "--yes", "--reject", "--comment", "no")
    assert "Not approved yet: ann@x has rejected it." in rejected.out
    assert world.apply().status == 6


def test_a_locked_plan_takes_no_approval(world):
    with plandir.Lock(world.plan):
        result = approve(world, "ann", "--yes")

    assert result.status == 7
    assert nothing_signed(world)


@pytest.fixture
def prompted(world, home):
    """`hdev approve` at a terminal of its own."""
    children = []

    def run(*flags, key="ann"):
        words = [*PROGRAM[1:], "approve", "p", "--key", str(world.keys.private(key)),
                 "--principal", "ann@x", *flags]  # fmt: skip
        child = pexpect.spawn(
            sys.executable,
            words,
            cwd=str(world.work),
            env={"PATH": os.environ["PATH"], "HOME": str(home), "TERM": "dumb", "COLUMNS": "200"},
            encoding="utf-8",
            timeout=50,
        )
        children.append(child)
        return child

    yield run
    for child in children:
        child.close(force=True)


def ended(child):
    child.expect(pexpect.EOF)
    child.close()
    return child.exitstatus


def test_a_person_types_the_first_digits_of_the_plan_id(world, prompted):
    child = prompted()
    child.expect("Plan: 1 to create, 0 to overwrite, 0 to delete")
    child.expect("Plan id sha256:([0-9a-f]{64})")
    digits = child.match[1][:6]
    child.expect("Made by author@x.")
    child.expect("type the first 6 hex digits of the plan id: ")
    child.sendline(digits)
    child.expect("Approved by ann@x with SHA256:")

    assert ended(child) == 0
    assert len(list((world.plan / "approvals").glob("ann@x-*.json"))) == 1


@pytest.mark.parametrize("answer", ["", "yes", "000000", "sha256:", "\x04"])
def test_another_answer_signs_nothing(world, prompted, answer):
    child = prompted()
    child.expect("of the plan id: ")
    child.send(answer if answer == "\x04" else answer + "\n")
    child.expect("nothing was signed")

    assert ended(child) == 1
    assert nothing_signed(world)


def test_an_interrupt_signs_nothing(world, prompted):
    child = prompted()
    child.expect("of the plan id: ")
    child.sendintr()
    child.expect("Interrupted; nothing was written.")

    assert ended(child) == 130
    assert nothing_signed(world)


def test_a_passphrase_is_asked_for_at_the_terminal(world, prompted):
    world.keys.private("guarded", passphrase="open sesame")
    world.signers("ann@x guarded")
    child = prompted(key="guarded")
    child.expect("of the plan id: ")
    child.sendline(world.about().plan[7:13])
    child.expect("Enter passphrase")
    child.sendline("open sesame")
    child.expect("Approved by ann@x")

    assert ended(child) == 0


@pytest.fixture
def repository(home, keys, hdev):
    """A world inside a repository whose main branch has the rules."""
    made_here = Repository(home.parent / "work")
    world = World(made_here.folder, keys, hdev)
    made_here.commit()
    return world, made_here


def test_a_pull_request_cannot_change_the_rules_that_judge_it(repository):
    world, git = repository
    git.git("checkout", "-q", "-b", "change")
    world.signers("eve@x stranger", "mallory@x cid")
    world.configure(REQUIRE_TWO.replace("require = 2", "require = 0"))
    made.put(world.plan, world.keys, "stranger", made.statement(world.about(), "eve@x"))
    git.commit()
    judged = world.apply("--trust-ref", "main")
    listed = world.hdev("approvals", "p", "--trust-ref", "main")

    assert judged.status == 6
    assert "is not among the allowed signers" in judged.err
    assert "0 of 2 approvals count" in listed.out
    assert not (world.work / "target").exists()
    two(world)
    assert world.apply("--trust-ref", "main").status == 0


def test_a_file_of_allowed_signers_given_with_a_ref_is_read_from_it(repository):
    world, _ = repository
    world.signers("eve@x stranger")
    two(world)

    assert world.apply("--allowed-signers", "signers", "--trust-ref", "main").status == 0


@pytest.mark.parametrize(
    ("flags", "status", "text"),
    [
        (("--trust-ref", "gone"), 6, "no such branch, tag or commit"),
        (("--trust-ref", "-x"), 64, "not the name of a git ref"),
        (("--trust-ref", "main", "--allowed-signers", "other"), 6, "main:other: there is no such"),
        (("--trust-ref", "main", "--allowed-signers", "/etc/x"), 6, "outside of the repository"),
        (("--trust-ref", "empty"), 6, "there is no [approvals] in a hdev.toml"),
        (("--trust-ref", "broken"), 6, "is not valid TOML"),
    ],
)
def test_a_ref_without_rules_judges_nothing_and_refuses(repository, flags, status, text):
    world, git = repository
    two(world)
    for branch, content in (("empty", ""), ("broken", "[approvals\n")):
        git.git("checkout", "-q", "-b", branch, "main")
        world.configure(content)
        git.git("commit", "-q", "-am", "x")
    git.git("checkout", "-q", "main")
    result = world.apply(*flags)

    assert result.status == status, result.err
    assert text in result.err
    assert world.records()[-1]["event"] == "refused"
    assert not (world.work / "target").exists()


BAD_TABLES = [
    ("require = -1", "from 0 to 64"),
    ('require = "2"', "from 0 to 64"),
    ("require = true", "from 0 to 64"),
    ('bind = "hash"', "none of plan, effect"),
    ("exclude_author = 1", "true or false"),
    ('agents = "bot"', "a list of principals"),
    ('agents = ["*"]', "a list of principals"),
    ('agents = ["a", "A"]', "names a principal twice"),
    ("groups = 1", "must be a table"),
    ("groups.ops = 1", "must be a table"),
    ("groups.ops = { principals = [] }", "between 1 and the number"),
    ('groups.ops = { principals = ["a"], require = 2 }', "between 1 and the number"),
    ('groups.ops = { principals = ["a"], more = 2 }', "is not known"),
    ('max_age = "soon"', "a time span"),
    ("allowed_signers = 1", "not empty"),
    ('allowed_signers = ""', "not empty"),
    ("requires = 2", "is not known"),
]


@pytest.mark.parametrize(("line", "why"), BAD_TABLES)
def test_a_wrong_table_is_refused_with_its_place(world, line, why):
    world.configure(f"[approvals]\n{line}\n")
    result = world.hdev("config", "check")

    assert result.status == 1
    assert "hdev.toml:" in result.err
    assert why in result.err
    assert world.apply().status == 1


def test_the_check_of_the_configuration_reads_the_allowed_signers(world):
    assert world.hdev("config", "check").status == 0
    (world.work / "signers").write_text("* x\n")
    result = world.hdev("config", "check")

    assert result.status == 6
    assert "signers:1: * is a pattern" in result.err


def test_a_group_may_have_any_name(world):
    world.configure(
        '[approvals]\nallowed_signers = "signers"\ngroups.rejected = { principals = ["ann@x"] }\n'
    )
    result = world.apply()

    assert "0 of 1 by the group rejected count" in result.err
    assert "does not have the approvals" in result.err


def test_without_room_for_temporary_files_nothing_is_approved(world, monkeypatch, tmp_path):
    two(world)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))
    # apply keeps a private copy of a plan, in memory while it is small
    applied, signed = world.apply(), approve(world, "cid", "--yes")

    assert (applied.status, signed.status) == (6, 6)
    for result in (applied, signed):
        assert "Temporary files, which ssh-keygen reads from, cannot be written." in result.err


def test_the_tables_of_the_documentation_are_as_it_says(world):
    text = (Path(__file__).parents[2] / "docs/approvals.md").read_text()
    (table,) = re.findall(r"^   ```toml\n(.*?)^   ```$", text, re.M | re.S)
    (world.work / "keys").mkdir()
    for name in ("allowed_signers", "revoked"):
        (world.work / "keys" / name).write_text("")
    world.configure(textwrap.dedent(table))
    shown = world.hdev("config", "show")
    lines = re.findall(r"^   (\w\S+@example.com \S+) \S+ AAAA", text, re.M)

    assert world.hdev("config", "check").status == 0
    assert "approvals.groups.legal = 1 of dee@example.com, eve@example.com" in shown.out
    assert len(lines) == 2
    for line in lines:
        signing.parse_signers(f"{line} {world.keys.public('ann')}\n".encode(), "docs")


def test_the_configuration_is_shown(world):
    world.configure(
        '[approvals]\nallowed_signers = "signers"\nmax_age = "1h"\n'
        '[approvals.groups.ops]\nprincipals = ["ann@x", "bob@x"]\nrequire = 1\n'
    )
    shown = world.hdev("config", "show").out

    for text in ("approvals.groups.ops = 1 of ann@x, bob@x", "approvals.max_age = 3600 seconds"):
        assert text in shown


@pytest.mark.parametrize("name", ["a b", "-x", "ann/../bob", "a" * 129, "é"])
def test_what_is_no_principal_makes_no_plan(world, name):
    words = ("plan", "filesystem:source", "filesystem:target", "-o", "q", f"--principal={name}")

    assert world.hdev(*words).status == 64
    assert not (world.work / "q").exists()


def test_a_plan_without_an_author_has_the_bytes_that_it_always_had(world):
    world.hdev("plan", "filesystem:source", "filesystem:target", "-o", "q")
    with plandir.load(world.work / "q") as opened:
        assert opened.plan.tail.provenance.author is None
    with plandir.load(world.plan) as opened:
        assert opened.plan.tail.provenance.author == "author@x"

    assert b'"author"' not in Path("q/plan.json").read_bytes()
