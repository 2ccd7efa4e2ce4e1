"""A changed audit log is refused, whichever record was changed, and however."""

from __future__ import annotations

import random
import shutil

import pytest
from tests.survival.world import THOROUGH, apply, build, check_end, read_tree

INTACT, TAMPERED, UNANCHORED = 0, 8, 10


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A world whose plan was carried out."""
    world = build(tmp_path_factory.mktemp("world"))
    apply(world.place, world.place / "source")
    return world


@pytest.fixture
def plan(finished, tmp_path):
    """A copy of the plan's folder."""
    return shutil.copytree(finished.place / "p", tmp_path / "p")


@pytest.fixture
def again(finished, hdev):
    """Run `hdev apply` on a plan of this world."""
    ends = ("--source-path", finished.place / "source", "--target-path", finished.place / "t")
    return lambda plan: hdev("apply", plan, *ends)


def head_of(hdev, plan) -> str:
    return hdev("audit", "verify", plan).out.split("head ")[1].strip(" .\n")


def flipped(line: bytes, at: int) -> bytes:
    return line[:at] + bytes([line[at] ^ 1]) + line[at + 1 :]


def changed(lines: list[bytes], number: int) -> dict[str, list[bytes]]:
    """The log with one record changed, in every way."""
    line, rest = lines[number], lines[number + 1 :]
    chance = random.Random(number)
    ways = {
        f"byte {at} flipped": [*lines[:number], flipped(line, at), *rest]
        for at in sorted(chance.sample(range(len(line)), 4))
    }
    ways["dropped"] = lines[:number] + rest
    ways["duplicated"] = [*lines[: number + 1], line, *rest]
    if rest:
        ways["swapped"] = [*lines[:number], rest[0], line, *rest[1:]]
    return ways


def test_a_record_that_was_changed_is_refused_by_verify_and_by_apply(hdev, again, plan):
    log = plan / "audit.jsonl"
    lines = log.read_bytes().splitlines(keepends=True)
    head = head_of(hdev, plan)
    (plan / "receipt.json").unlink()
    tried = 0
    for number in range(0, len(lines), 1 if THOROUGH else 3):
        for way, text in changed(lines, number).items():
            tried += 1
            log.write_bytes(b"".join(text))
            where = f"record {number + 1} {way}"
            assert hdev("audit", "verify", plan, "--head", head).status == TAMPERED, where
            # Nothing in a log can vouch for its own last record: for that there is the head.
            if number < len(lines) - 1 or way == "duplicated":
                assert again(plan).status == TAMPERED, where
                assert log.read_bytes() == b"".join(text), where

    assert tried > (100 if THOROUGH else 40)


@pytest.mark.parametrize("left", [0, 1, 5, -1])
def test_a_tail_that_was_cut_off_is_noticed_by_the_head_and_by_the_receipt(hdev, plan, left):
    log = plan / "audit.jsonl"
    lines = log.read_bytes().splitlines(keepends=True)
    head = head_of(hdev, plan)
    log.write_bytes(b"".join(lines[:left]))

    assert hdev("audit", "verify", plan).status == TAMPERED, "the receipt lies beside it"
    (plan / "receipt.json").unlink()
    assert hdev("audit", "verify", plan, "--head", head).status == TAMPERED
    assert hdev("audit", "verify", plan).status == UNANCHORED


@pytest.mark.parametrize("torn", [b'{"seq":26,"prev":"', b"\0" * 500, b"\xff", b"\0" * 100_000])
def test_a_torn_last_line_is_kept_aside_and_the_repair_is_recorded(
    hdev, again, finished, plan, torn
):
    log = plan / "audit.jsonl"
    whole = log.read_bytes()
    log.write_bytes(whole + torn)
    repaired = again(plan)
    records = log.read_bytes()

    assert repaired.status == 0, repaired.err
    assert records.startswith(whole)
    assert b'"repaired"' in records[len(whole) :]
    assert (plan / "audit.jsonl.torn-1").read_bytes() == torn
    assert hdev("audit", "verify", plan, "--head", head_of(hdev, plan)).status == INTACT
    check_end(finished, read_tree(finished.place))


def test_a_log_of_another_plan_is_refused(hdev, again, plan, tmp_path):
    other = build(tmp_path / "other", extra=3)
    apply(other.place, other.place / "source")
    shutil.copy(other.place / "p" / "audit.jsonl", plan / "audit.jsonl")
    (plan / "receipt.json").unlink()

    assert hdev("audit", "verify", plan).status == TAMPERED
    assert again(plan).status == TAMPERED
