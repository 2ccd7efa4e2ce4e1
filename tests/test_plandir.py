"""A plan's folder: whole or not there, its log checked and mended at its end only."""

import json
from pathlib import Path

import msgspec
import pytest

from hdev_memory import plandir
from hdev_memory.core import audit
from hdev_memory.errors import AuditError, HdevError, LockedError, PlanError
from tests.conftest import tree_of
from tests.review import plans


@pytest.fixture
def lines(tmp_path):
    """The bytes of an ordinary plan, line by line."""
    (tmp_path / "made").mkdir()
    plans.opened(tmp_path / "made", plans.ORDINARY).close()
    return (tmp_path / "made" / plandir.PLAN).read_bytes().splitlines(keepends=True)


def create(folder, lines, review=lambda opened: "a review\n"):
    plandir.create(folder, lines, review).close()


def test_a_folder_holds_the_plan_its_review_and_a_place_for_approvals(tmp_path, lines):
    create(tmp_path / "deep/er/p", lines)

    assert (tmp_path / "deep/er/p/review.md").read_text() == "a review\n"
    assert (tmp_path / "deep/er/p/approvals").is_dir()
    assert [path.name for path in (tmp_path / "deep/er").iterdir()] == ["p"]


def broken(lines):
    yield from lines[:3]
    raise OSError(28, "No space left on device")


def interrupted(lines):
    yield from lines[:3]
    raise KeyboardInterrupt


def impossible(opened):
    raise ZeroDivisionError


@pytest.mark.parametrize(
    ("make", "review", "error"),
    [
        (broken, lambda opened: "", HdevError),
        (interrupted, lambda opened: "", KeyboardInterrupt),
        (lambda lines: lines[:-1], lambda opened: "", PlanError),
        (lambda lines: lines, impossible, ZeroDivisionError),
    ],
)
def test_whatever_goes_wrong_no_folder_is_left(tmp_path, lines, make, review, error):
    before = set(tmp_path.rglob("*"))
    with pytest.raises(error):
        create(tmp_path / "deep/er/p", make(lines), review)

    assert set(tmp_path.rglob("*")) == before


def test_a_folder_above_that_was_there_before_stays(tmp_path, lines):
    (tmp_path / "deep").mkdir()
    with pytest.raises(KeyboardInterrupt):
        create(tmp_path / "deep/er/p", interrupted(lines))

    assert list((tmp_path / "deep").iterdir()) == []


def test_a_plan_is_never_written_over_anything(tmp_path, lines):
    (tmp_path / "full").mkdir()
    (tmp_path / "full/x").write_text("x")
    (tmp_path / "file").write_text("x")
    before = tree_of(tmp_path)
    for name in ("full", "file"):
        with pytest.raises(HdevError, match="never overwritten"):
            create(tmp_path / name, lines)

    assert tree_of(tmp_path) == before


def test_an_empty_folder_may_be_given(tmp_path, lines):
    (tmp_path / "p").mkdir()
    create(tmp_path / "p", lines)

    plandir.load(tmp_path / "p").close()


def test_names_are_counted_up_until_one_is_free(tmp_path):
    assert plandir.free_name(tmp_path, "a") == tmp_path / "a"
    (tmp_path / "a").mkdir()
    (tmp_path / "a-2").write_text("")
    assert plandir.free_name(tmp_path, "a") == tmp_path / "a-3"


def test_what_was_checked_is_what_is_read_later(tmp_path, lines):
    create(tmp_path / "p", lines)
    with plandir.load(tmp_path / "p") as opened:
        (tmp_path / "p" / plandir.PLAN).write_text("replaced behind our back")

        assert tuple(opened.actions()) == plans.ORDINARY


def record(event="started"):
    return audit.Record(
        seq=1,
        prev=audit.GENESIS,
        time="2026-01-02T03:04:05.678Z",
        event=event,
        run="r",
        plan="sha256:" + "0" * 64,
        actor="somebody",
    )


def test_a_torn_last_line_is_cut_off_and_every_one_is_kept_aside(tmp_path):
    for number in (1, 2):
        with plandir.Journal(tmp_path) as journal:
            journal.append([record()])
            head = journal.head
        with (tmp_path / plandir.AUDIT).open("ab") as log:
            log.write(b'{"seq":%d,"to' % number)
        with plandir.Journal(tmp_path) as journal:
            assert journal.torn == f"audit.jsonl.torn-{number}"
            assert journal.head == head
        assert (tmp_path / f"audit.jsonl.torn-{number}").read_bytes() == b'{"seq":%d,"to' % number


def test_damage_before_the_last_line_is_not_mended(tmp_path):
    with plandir.Journal(tmp_path) as journal:
        journal.append([record(), record("finished")])
    path = tmp_path / plandir.AUDIT
    path.write_bytes(path.read_bytes().replace(b"somebody", b"somebodY", 1))
    before = path.read_bytes()

    with pytest.raises(AuditError):
        plandir.Journal(tmp_path)
    assert path.read_bytes() == before


def test_an_endless_line_is_damage_and_not_a_torn_end(tmp_path):
    """Longer than all that one append ever leaves."""
    (tmp_path / plandir.AUDIT).write_bytes(b"x" * (33 * 1024 * 1024))

    with pytest.raises(AuditError):
        plandir.Journal(tmp_path)


def test_drift_that_preflight_found_leaves_the_intent_of_an_earlier_run_open(tmp_path):
    """It is about the same key, and says nothing of what became of the change."""
    intent = msgspec.structs.replace(record("intent"), action="create", key="a")
    with plandir.Journal(tmp_path) as journal:
        journal.append([intent, msgspec.structs.replace(record("drift"), key="a")])
        assert list(journal.open) == ["a"]
    with plandir.Journal(tmp_path) as journal:
        assert list(journal.open) == ["a"]


def test_nothing_appended_changes_nothing(tmp_path):
    with plandir.Journal(tmp_path) as journal:
        journal.append([])

        assert journal.head == audit.EMPTY
    assert (tmp_path / plandir.AUDIT).read_bytes() == b""


@pytest.mark.parametrize("text", [None, b"", b"{}", b"\xff", b'{"format":1}'])
def test_what_is_no_receipt_is_refused(tmp_path, text):
    if text is not None:
        (tmp_path / "r").write_bytes(text)

    with pytest.raises(AuditError, match="receipt"):
        plandir.read_receipt(tmp_path / "r")


def test_a_missing_log_is_an_error(tmp_path):
    with pytest.raises(AuditError, match="cannot be read"):
        list(plandir.read_audit(tmp_path))


def test_a_receipt_without_durability_is_one_of_before(tmp_path):
    path = tmp_path / plandir.RECEIPT
    plandir.write_receipt(
        tmp_path,
        plandir.Receipt(
            format="hdev-receipt/1", plan="p", effect="e", target="t", run="r", result="finished",
            time="now", counts={}, head=audit.EMPTY,
        ),
    )  # fmt: skip
    older = json.loads(path.read_text())
    del older["durability"]
    path.write_text(json.dumps(older))

    assert plandir.read_receipt(path).receipt.durability == "full"


def test_one_lock_at_a_time_and_free_again_behind_it(tmp_path: Path):
    with plandir.Lock(tmp_path), pytest.raises(LockedError):
        plandir.Lock(tmp_path)

    with plandir.Lock(tmp_path):
        pass
