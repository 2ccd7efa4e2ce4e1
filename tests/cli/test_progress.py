"""Progress: bars on a terminal, a plain line every few seconds otherwise, bounded event lines."""

import json
import os
import re
import sys

import pexpect
import pytest
from tests.conftest import put_entry

from hdev_memory import apply as engine
from hdev_memory.backends.base import EVERYTHING, Put, Where
from hdev_memory.backends.http import HttpBackend
from hdev_memory.backends.sqlite import SqliteBackend
from hdev_memory.cli.eventlines import Lines
from hdev_memory.cli.progress import EVENT_EVERY, PLAIN_EVERY, WINDOW, Pace, Shown
from hdev_memory.core.entry import Normalisation
from hdev_memory.core.events import Checked, Looked, Outside, Wrote
from hdev_memory.server.app import create_app
from hdev_memory.server.run import serve_in_thread


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def looked(entries, side="source", **more):
    return Looked(side=side, entries=entries, bytes=entries * 1024, **more)


def told(capsys):
    return capsys.readouterr().err.splitlines()


def events_of(capsys):
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_a_plain_line_every_few_seconds_and_not_more(clock, capsys):
    with Shown(clock=clock) as shown:
        for second in range(31):
            clock.now = float(second)
            shown.emit(looked(second))
        clock.now = 31.0
        shown.emit(looked(31, ended=True))

    assert told(capsys) == [
        f"Reading the source: {second} entries, {second}.0 KiB, 1/s, 1.0 KiB/s"
        for second in range(5, 31, int(PLAIN_EVERY))
    ] + ["Reading the source: 31 entries, 31.0 KiB in 0:31, 1/s, 1.0 KiB/s"]


def test_quick_work_says_nothing(clock, capsys):
    with Shown(clock=clock) as shown:
        shown.emit(looked(10_000))
        shown.emit(Checked(done=3, total=3, bytes=9))
        shown.emit(Wrote(done=3, total=3, bytes=9))

    assert capsys.readouterr() == ("", "")


def test_the_total_and_the_time_left_are_told_where_they_are_known(clock, capsys):
    with Shown(clock=clock) as shown:
        shown.emit(Wrote(done=0, total=9000, bytes=0))
        clock.now = 6.0
        shown.emit(Wrote(done=1200, total=9000, bytes=1200))
        shown.emit(looked(0, expected=70))
        clock.now = 12.0
        shown.emit(looked(60, expected=70))

    assert told(capsys) == [
        "Writing: 1,200 of 9,000 entries, 1.2 KiB, 200/s, 200 B/s, 0:39 left",
        "Reading the source: 60 of about 70 entries, 60.0 KiB, 10/s, 10.0 KiB/s, 0:01 left",
        "Writing: 1,200 of 9,000 entries, 1.2 KiB, 100/s, 100 B/s, 1:18 left",
        "Reading the source: 60 of about 70 entries, 60.0 KiB, 10/s, 10.0 KiB/s, 0:01 left",
    ]


def test_both_ends_are_told_each_at_its_own_pace(clock, capsys):
    with Shown(clock=clock) as shown:
        for second in range(7):
            clock.now = float(second)
            shown.emit(looked(second, "source"))
            shown.emit(looked(second * 2, "target", expected=20))
        shown.emit(looked(6, "source", ended=True))
        shown.emit(looked(12, "target", ended=True))

    assert told(capsys) == [
        "Reading the source: 5 entries, 5.0 KiB, 1/s, 1.0 KiB/s",
        "Reading the target: 10 of about 20 entries, 10.0 KiB, 2/s, 2.0 KiB/s, 0:05 left",
        "Reading the source: 6 entries, 6.0 KiB in 0:06, 1/s, 1.0 KiB/s",
        "Reading the target: 12 entries, 12.0 KiB in 0:06, 2/s, 2.0 KiB/s",
    ]


@pytest.mark.parametrize("came", [7, 10, 13])
def test_a_guess_that_was_wrong_is_right_at_the_end(clock, capsys, came):
    """Shorter, as expected, and longer than it."""
    with Shown(Lines(json=True), clock) as shown:
        shown.emit(looked(0, expected=10))
        for entries in range(1, came + 1):
            clock.now = float(entries)
            shown.emit(looked(entries, expected=10))
        clock.now += 1
        shown.emit(looked(came, expected=10, ended=True))
    *before, last = events_of(capsys)

    assert (last["done"], last["total"], last["left"]) == (came, came, 0)
    assert [line["total"] for line in before] == [
        10 if entries <= 10 else None for entries in range(1, came + 1)
    ]
    assert all(line["left"] is None or line["left"] >= 0 for line in before)
    assert [line["left"] for line in before[10:]] == [None] * (came - 10)


def test_the_last_state_of_work_that_was_cut_off_is_told(clock, capsys):
    with Shown(Lines(json=True), clock) as shown:
        shown.emit(Wrote(done=0, total=9, bytes=0))
        clock.now = PLAIN_EVERY
        shown.emit(Wrote(done=2, total=9, bytes=20))
        clock.now += 0.25
        shown.emit(Wrote(done=4, total=9, bytes=40))
    out, err = capsys.readouterr()
    last = json.loads(out.splitlines()[-1])

    assert (last["done"], last["total"], last["bytes"]) == (4, 9, 40)
    assert err.splitlines()[-1].startswith("Writing: 4 of 9 entries, 40 B")


def test_what_an_earlier_run_has_done_says_nothing_of_the_rate(clock):
    pace = Pace("write", 9_000, 0, clock)
    clock.now = 5.0
    pace.move(9_500, 0, 10_000, about=False, ended=False)

    assert (pace.rate, pace.left) == (100.0, 5)


def test_a_rate_is_that_of_the_last_seconds_and_sinks_when_nothing_moves(clock):
    pace = Pace("write", 0, 0, clock)
    for second in range(1, 61):  # first 1,000 a second, then 10
        clock.now = float(second)
        done = second * 1000 if second <= 30 else 30_000 + (second - 30) * 10
        pace.move(done, 0, 100_000, about=False, ended=False)
    steady = pace.rate
    clock.now += WINDOW

    assert steady == 10.0
    assert pace.rate == 5.0


def test_the_end_has_the_rate_of_the_whole_stage(clock):
    pace = Pace("source", 0, 0, clock)
    for second, done in ((10.0, 10_000), (30.0, 10_000), (40.0, 12_000)):
        clock.now = second
        pace.move(done, done, None, about=True, ended=done == 12_000)
    clock.now = 99.0

    assert (pace.seconds, pace.rate, pace.bytes_rate, pace.left) == (40.0, 300.0, 300.0, 0)


def test_no_time_is_left_where_nothing_moves(clock):
    pace = Pace("source", 0, 0, clock)
    clock.now = 20.0
    pace.move(0, 0, 100, about=True, ended=False)

    assert pace.left is None


def test_entries_outside_the_plan_are_told_at_once(clock, capsys):
    with Shown(clock=clock) as shown:
        shown.emit(Outside(side="target", entries=2))

    assert "the target holds 2 new entries outside this plan" in capsys.readouterr().err


def test_event_lines_come_at_a_bounded_rate_and_the_end_of_a_stage_always(clock, capsys):
    with Shown(Lines(json=True), clock) as shown:
        for tenth in range(100):
            clock.now = tenth / 10
            shown.emit(looked(tenth))
        shown.emit(looked(99, ended=True))
        shown.emit(Checked(done=7, total=7, bytes=5))
    lines = events_of(capsys)

    assert len(lines) <= 10 / EVENT_EVERY + 2
    assert lines[0] == {
        "type": "progress", "stage": "source", "done": 10, "total": None,
        "bytes": 10240, "seconds": 1.0, "left": None,
    }  # fmt: skip
    assert lines[-2] == {
        "type": "progress", "stage": "source", "done": 99, "total": 99,
        "bytes": 101376, "seconds": 9.9, "left": 0,
    }  # fmt: skip
    assert lines[-1] == {
        "type": "progress", "stage": "compare", "done": 7, "total": 7,
        "bytes": 5, "seconds": 0.0, "left": 0,
    }  # fmt: skip


def last_of(result):
    """The last state of each stage: entries, the total, bytes."""
    last = {line["stage"]: line for line in result.lines("progress")}
    return {stage: (line["done"], line["total"], line["bytes"]) for stage, line in last.items()}


def test_the_last_progress_of_a_run_is_what_its_summary_says(hdev, home, monkeypatch):
    """Of a plan, of an apply that fails in the middle, and of the one that resumes it."""
    work = home.parent / "work"
    for number in range(40):
        put_entry(work / "source", f"n{number:02}", "ten bytes.")
    put_entry(work / "target", "zz", "only here")
    monkeypatch.setattr(engine, "BATCH_BYTES", 100)
    planned = hdev("plan", "filesystem:source", "filesystem:target", "-o", "p", "--json")

    def meddle(self, event, emit=Shown.emit):  # the third batch of ten finds it changed
        emit(self, event)
        if isinstance(event, Wrote):
            put_entry(work / "source", "n25", "different!")

    with monkeypatch.context() as patch:
        patch.setattr(Shown, "emit", meddle)
        failed = hdev("apply", "p", "--json")
    put_entry(work / "source", "n25", "ten bytes.")
    resumed = hdev("apply", "p", "--json")
    counts = failed.json["counts"]

    assert (planned.status, failed.status, resumed.status) == (0, 4, 0)
    assert last_of(planned) == {"source": (40, 40, 400), "target": (1, 1, 9)}
    assert (counts["created"], counts["failed"]) == (20, 1)
    assert last_of(failed) == {"compare": (40, 40, 400), "write": (21, 40, 200)}
    assert last_of(resumed) == {"compare": (40, 40, 400), "write": (40, 40, 200)}


def test_readers_that_know_say_how_many_entries_to_expect(tmp_path):
    """A database before it is read, our server after it has been read once."""
    state = Normalisation().state(b"x", {})
    puts = [Put(key=k, content=b"x", metadata={}, before=None, after=state) for k in "abc"]
    seen = []
    with (
        SqliteBackend(str(tmp_path / "memory.sqlite"), must_exist=False) as database,
        serve_in_thread(create_app(database, store_id="s")) as url,
        HttpBackend(Where("http", url)) as server,
    ):
        database.write(puts, Normalisation())
        for backend in (database, server, server):
            seen += [backend.expected for _ in backend.snapshot(EVERYTHING, Normalisation())]

    assert seen == [3] * 3 + [None] * 3 + [3] * 3


DRAWING = """
import sys
from hdev_memory.cli.progress import Shown
from hdev_memory.core.events import Looked, Wrote

ticks = iter(range(10**6))
with Shown(clock=lambda: next(ticks) / 10) as shown:
    for n in range(0, 1_000_001, 50_000):
        shown.emit(Looked(side="source", entries=n, bytes=n * 2000, expected=1_000_000))
        shown.emit(Looked(side="target", entries=n, bytes=n * 999, expected=900_000))
        shown.emit(Wrote(done=n, total=1_000_000, bytes=n * 2000))
        shown._bars.refresh()
    shown.emit(Looked(side="source", entries=n, bytes=n * 2000, ended=True))
"""


@pytest.mark.parametrize(("columns", "per_second"), [(80, False), (200, True), (100, True)])
def test_bars_are_never_wider_than_the_terminal(tmp_path, columns, per_second):
    """A line that wraps is not cleared by the next drawing, and fills the screen."""
    child = pexpect.spawn(
        sys.executable,
        ["-c", DRAWING],
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "TERM": "xterm", "COLUMNS": ""},
        cwd=str(tmp_path),
        dimensions=(30, columns),
        encoding="utf-8",
        timeout=20,
    )
    child.expect(pexpect.EOF)
    child.close()
    bare = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", child.before)
    drawn = [line for line in re.split(r"[\r\n]+", bare) if "━" in line]

    assert child.exitstatus == 0, child.before
    assert max(map(len, drawn)) <= columns
    assert any("500,000/1,000,000" in line and " left" in line for line in drawn)
    assert any("1,000,000/1,000,000" in line for line in drawn)
    assert any("MiB/s" in line for line in drawn) == per_second
    assert not any("…" in line for line in drawn)
    assert re.findall("Reading the source: 1,000,000 entries, 1.9 GiB in [^\r\n]*", bare)


def test_a_terminal_that_cannot_move_its_cursor_gets_plain_lines(tmp_path):
    child = pexpect.spawn(
        sys.executable,
        ["-c", DRAWING.replace("shown._bars.refresh()", "")],
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "TERM": "dumb"},
        cwd=str(tmp_path),
        dimensions=(30, 80),
        encoding="utf-8",
        timeout=20,
    )
    child.expect(pexpect.EOF)
    child.close()

    assert child.exitstatus == 0, child.before
    assert "Writing: " in child.before
    assert "\x1b" not in child.before


def test_a_terminal_gets_a_bar_that_is_gone_at_the_end(home):
    """On stderr: stdout, a file here, holds the result alone."""
    work = home.parent / "work"
    put_entry(work / "source", "a", "x")
    child = pexpect.spawn(
        "/bin/sh",
        ["-c", f"{sys.executable} -m hdev_memory plan filesystem:source filesystem:t -o p >out"],
        env={"PATH": os.environ["PATH"], "HOME": str(home), "TERM": "xterm"},
        cwd=str(work),
        dimensions=(30, 100),
        encoding="utf-8",
        timeout=20,
    )
    child.expect(r"Reading the source[^\r\n]*━")
    child.expect(pexpect.EOF)
    child.close()

    assert child.exitstatus == 0
    assert "\x1b[2K" in child.before  # the bar's line was cleared
    assert "Plan: 1 to create" in (work / "out").read_text()
    assert "Reading" not in (work / "out").read_text()
