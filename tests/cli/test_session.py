"""The session: from a pipe, and at a prompt on a real pseudo-terminal."""

import os
import sys
from pathlib import Path

import pexpect
import pytest
from tests.conftest import put_entry, tree_of

MIGRATE = '!migrate_memory source_config="filesystem:source" target_config="filesystem:target"'


@pytest.fixture
def work(home):
    work = home.parent / "work"
    put_entry(work / "source", "a", "ours")
    put_entry(work / "target", "a", "theirs")
    return work


def test_help_names_every_option(hdev, home):
    from hdev_memory.cli.session import OPTIONS

    result = hdev("session", stdin="!help\n")

    assert result.status == 0
    assert all(option in result.out for option in OPTIONS)


def test_exit_leaves_the_rest_unread(hdev, work):
    result = hdev("session", stdin=f"!exit\n{MIGRATE}\n")

    assert (result.status, result.out) == (0, "")


def test_blank_lines_and_comments_are_nothing(hdev, home):
    assert hdev("session", stdin="\n  \n# a comment\n").status == 0


@pytest.mark.parametrize(
    "line",
    [
        "!nope",
        "hello",
        "!migrate_memory",
        MIGRATE + " overwrite=yes",
        MIGRATE + " overwrite=1",
        MIGRATE + " overwrite=",
        MIGRATE + " overwrite",
        MIGRATE + " force=true",
        MIGRATE + " dry_run=true dry_run=false",
        MIGRATE.replace('"filesystem:target"', '"filesystem:target'),
        '!migrate_memory target_config="nope"',
    ],
)
def test_a_wrong_line_is_refused_and_the_session_goes_on(hdev, work, line):
    before = tree_of(work)
    result = hdev("session", stdin=f"{line}\n!help\n")

    assert result.status == 64
    assert result.err.startswith("Error: ")
    assert "  Next: " in result.err
    assert "!migrate_memory" in result.out  # the help that was asked for next
    assert tree_of(work) == before


@pytest.mark.parametrize(
    ("value", "text"),
    [("true", "ours"), ("TRUE", "ours"), ("false", "theirs"), ("False", "theirs")],
)
def test_booleans_mean_what_they_say(hdev, work, value, text):
    hdev("session", stdin=f"{MIGRATE} overwrite={value}\n")

    assert (work / "target/a.md").read_text() == text


def test_a_failing_line_gives_the_status_of_a_piped_session(hdev, work):
    assert hdev("session", stdin=f"!nope\n{MIGRATE}\n").status == 64


@pytest.fixture
def prompt(work, home):
    """A session on a pseudo-terminal of 100 columns."""
    child = pexpect.spawn(
        sys.executable,
        ["-m", "hdev_memory", "session"],
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "TERM": "xterm",
            "PROMPT_TOOLKIT_NO_CPR": "1",  # nobody here answers where the cursor is
        },
        cwd=str(work),
        dimensions=(30, 100),
        encoding="utf-8",
        timeout=20,
    )
    child.expect("hdev>")
    yield child
    child.close(force=True)


def test_the_prompt_migrates_completes_and_remembers(prompt, work, home):
    prompt.send("!migr\t")
    prompt.expect("ate_memory")
    prompt.send(MIGRATE.removeprefix("!migrate_memory") + " overwrite=t\t")
    prompt.expect("rue")
    prompt.send("\r")
    prompt.expect("Migration completed. 1 entries were copied, 0 skipped, 0 failed.")
    prompt.send("!migrate_memory target_config=x api_key=canary\r")
    prompt.expect("Error:.*hdev>")
    prompt.send("!migrate_memory target_config=postgres://u:canary@127.0.0.1:1/d\r")
    prompt.expect("Error:.*hdev>")
    prompt.send("\x03")  # Ctrl-C gives up a line, and does not leave
    prompt.expect("hdev>")
    prompt.send("!exit\r")
    prompt.expect(pexpect.EOF)
    prompt.wait()

    history = (home / ".hdev/session_history").read_text()
    assert prompt.exitstatus == 0
    assert (work / "target/a.md").read_text() == "ours"
    assert MIGRATE + " overwrite=true" in history
    assert "canary" not in history
    assert (home / ".hdev/session_history").stat().st_mode & 0o077 == 0


def test_ctrl_d_leaves(prompt):
    prompt.sendeof()
    prompt.expect(pexpect.EOF)
    prompt.wait()

    assert prompt.exitstatus == 0


def test_plans_of_a_session_are_kept(hdev, work):
    hdev("session", stdin=MIGRATE + "\n")

    assert len(list(Path("plans").iterdir())) == 1
