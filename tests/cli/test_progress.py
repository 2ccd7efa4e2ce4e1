"""Progress: a bar on a terminal, a plain line every few seconds otherwise, bounded event lines."""

import json
import os
import sys

import pexpect
import pytest
from tests.conftest import put_entry

from hdev_memory.cli.eventlines import Lines
from hdev_memory.cli.progress import EVENT_EVERY, PLAIN_EVERY, Shown
from hdev_memory.core.events import Checked, Looked, Outside, Wrote


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def looked(entries):
    return Looked(side="source", entries=entries, bytes=entries)


def test_a_plain_line_every_few_seconds_and_not_more(clock, capsys):
    with Shown(clock=clock) as shown:
        for second in range(31):
            clock.now = float(second)
            shown.emit(looked(second))

    assert capsys.readouterr().err.splitlines() == [
        f"Reading the source: {second} entries" for second in range(5, 31, int(PLAIN_EVERY))
    ]


def test_quick_work_says_nothing(clock, capsys):
    with Shown(clock=clock) as shown:
        shown.emit(looked(10_000))
        shown.emit(Checked(done=3, total=3))
        shown.emit(Wrote(done=3, total=3, bytes=9))

    assert capsys.readouterr() == ("", "")


def test_the_total_is_told_where_it_is_known(clock, capsys):
    with Shown(clock=clock) as shown:
        clock.now = 6.0
        shown.emit(Wrote(done=1, total=9, bytes=1))
        clock.now = 12.0
        shown.emit(Checked(done=2, total=9))

    assert capsys.readouterr().err.splitlines() == [
        "Writing: 1 of 9 entries",
        "Comparing with the plan: 2 of 9 entries",
    ]


def test_entries_outside_the_plan_are_told_at_once(clock, capsys):
    with Shown(clock=clock) as shown:
        shown.emit(Outside(side="target", entries=2))

    assert "the target holds 2 new entries outside this plan" in capsys.readouterr().err


def test_event_lines_come_at_a_bounded_rate_and_the_end_of_a_stage_always(clock, capsys):
    with Shown(Lines(json=True), clock) as shown:
        for tenth in range(100):
            clock.now = tenth / 10
            shown.emit(looked(tenth))
        shown.emit(Checked(done=7, total=7))
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    assert len(lines) <= 10 / EVENT_EVERY + 1
    assert lines[0] == {"type": "progress", "stage": "source", "done": 10, "total": None}
    assert lines[-1] == {"type": "progress", "stage": "compare", "done": 7, "total": 7}


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
