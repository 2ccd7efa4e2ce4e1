"""`hdev show`: what the entries of a plan hold, from both ends, and honest where it cannot."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from tests.conftest import put_entry, tree_of
from tests.processes import PROGRAM, MemoryServer

KEY = "the-key"


@pytest.fixture
def planned(hdev, home):
    """Two folders, and a plan `p` between them."""
    put_entry(Path("source"), "notes/a", "hello\nworld\n", {"owner": "sre"})
    put_entry(Path("source"), "notes/new", "new words\n", {})
    put_entry(Path("target"), "notes/a", "hello\nthere\n", {"owner": "ops"})
    put_entry(Path("target"), "gone", "old words\n", {})
    words = ("--overwrite", "--delete", "--max-delete", "100%", "-o", "p")
    assert hdev("plan", "filesystem:source", "filesystem:target", *words).status == 0


@pytest.mark.parametrize("form", ["terminal", "markdown"])
def test_the_contents_of_both_ends_are_shown(hdev, planned, form):
    result = hdev("show", "p", "--format", form)

    assert result.status == 0, result.err
    for text in ("-there", "+world", "+new words", "-old words", 'owner: "ops" -> "sre"'):
        assert text in result.out
    assert "NOT SHOWN" not in result.out


def test_a_plan_is_shown_with_contents_as_it_is_made(hdev, planned):
    assert "+new words" in Path("p/review.md").read_text()


@pytest.mark.parametrize("flags", [["--no-content"], ["--stat"]])
@pytest.mark.parametrize("form", ["terminal", "markdown"])
def test_no_end_is_opened_where_contents_are_not_asked_for(hdev, planned, flags, form):
    shutil.rmtree("source")
    result = hdev("show", "p", "--format", form, *flags)

    assert (result.status, result.err) == (0, "")
    assert "words" not in result.out
    assert "There is no memory" not in result.out
    assert ("Contents are left out of this review." in result.out) == (flags != ["--stat"])


def test_a_review_changes_neither_end(hdev, planned):
    before = tree_of(Path.cwd())
    hdev("show", "p", "--full")

    assert tree_of(Path.cwd()) == before


@pytest.mark.parametrize("form", ["terminal", "markdown"])
def test_an_end_that_is_gone_is_told_loudly_and_is_no_error(hdev, planned, form):
    shutil.rmtree("source")
    result = hdev("show", "p", "--format", form)

    assert result.status == 0
    assert "The contents could not be read." in result.out
    assert "There is no memory at the source path." in result.out
    assert "notes/new" in result.out
    assert "new words" not in result.out


def test_where_the_ends_lie_here_is_told_by_flags(hdev, planned):
    Path("source").rename("moved")
    result = hdev("show", "p", "--source-path", "moved")

    assert "+new words" in result.out


def test_flags_that_contradict_one_another_are_an_error(hdev, planned):
    result = hdev("show", "p", "--source-path", "a", "--source-url", "http://localhost")

    assert result.status == 64


@pytest.mark.parametrize("side", ["source", "target"])
def test_drift_is_shown_at_the_top_the_end_and_the_entry(hdev, planned, side):
    put_entry(Path(side), "notes/a", "somebody else\n", {})
    result = hdev("show", "p")

    assert result.status == 0
    assert result.out.count("! DRIFT: 1 of the entries shown here is not as planned any more;") == 2
    assert f"! DRIFT: the {side} has changed since the plan was made" in result.out
    assert "somebody else" not in result.out


def test_what_an_apply_has_done_is_no_drift(hdev, planned):
    assert hdev("apply", "p").status == 0
    result = hdev("show", "p")

    assert "DRIFT" not in result.out
    assert result.out.count("* done already: the target is as the plan leaves it") == 3


@pytest.mark.parametrize("key", [KEY, "wrong"])
def test_a_key_that_is_refused_leaves_the_contents_out_and_is_never_shown(
    hdev, home, tmp_path, key
):
    put_entry(Path("source"), "notes/new", "new words\n", {})
    with MemoryServer(tmp_path / "served", KEY) as server:
        made = hdev("plan", "filesystem:source", server.url, "--api-key", KEY, "-o", "p")
        result = hdev("show", "p", "--target-api-key", key)

    assert made.status == result.status == 0
    assert ("new words" in result.out) == (key == KEY)
    assert ("The contents could not be read." in result.out) == (key != KEY)
    assert key not in result.out + result.err


@pytest.mark.parametrize(
    ("words", "shown", "hidden"),
    [
        (("--only", "delete"), "old words", "new words"),
        (("--key", "notes/n*"), "new words", "old words"),
    ],
)
def test_only_what_is_asked_for_is_shown(hdev, planned, words, shown, hidden):
    result = hdev("show", "p", *words)

    assert shown in result.out
    assert hidden not in result.out
    assert "! NOT ASKED FOR, AND NOT SHOWN HERE: " in result.out
    assert "! NOT SHOWN" not in result.out


def test_full_shows_every_line(hdev, home):
    put_entry(Path("source"), "long", "".join(f"line {n}\n" for n in range(100)), {})
    put_entry(Path("target"), "other", "x", {})
    hdev("plan", "filesystem:source", "filesystem:target", "-o", "p")

    assert "70 more lines of this difference are not shown" in hdev("show", "p").out
    assert "+line 99" in hdev("show", "p", "--full").out


def test_the_head_of_the_log_is_shown(hdev, planned):
    shown = hdev("show", "p").out
    (line,) = [line for line in shown.splitlines() if line.startswith("audit ")]
    head = line.split()[1]

    assert hdev("audit", "verify", "p", "--head", head).status == 0


def test_a_damaged_log_is_warned_about(hdev, planned):
    with Path("p/audit.jsonl").open("ab") as file:
        file.write(b"{}\n")
    result = hdev("show", "p")

    assert result.status == 0
    assert "The audit log was edited or damaged. The last line: it is no record" in result.err
    assert "audit verify p" in result.err


@pytest.mark.parametrize("no_color", [None, "1"])
def test_a_pipe_takes_no_colour(home, planned, no_color):
    env = {"PATH": os.environ["PATH"], "HOME": str(home)}
    done = subprocess.run(
        [*PROGRAM, "show", "p"],
        env=env | ({"NO_COLOR": no_color} if no_color else {}),
        capture_output=True,
        text=True,
        check=True,
        timeout=50,
    )

    assert "\x1b" not in done.stdout
    assert "+new words" in done.stdout


def shown(home, into, **environ):
    """`hdev show p` as a process of its own, its output sent to the file `into`."""
    return subprocess.run(
        [*PROGRAM, "show", "p"],
        env={"PATH": os.environ["PATH"], "HOME": str(home), **environ},
        stdout=into,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        timeout=50,
    )


def test_what_the_encoding_of_a_pipe_lacks_is_spelled_out(home, planned):
    done = shown(home, subprocess.PIPE, PYTHONIOENCODING="ascii")

    assert (done.returncode, done.stderr) == (0, "")
    assert "\\u2502 +new words" in done.stdout


def test_a_device_that_is_full_is_an_error_in_words(home, planned):
    with Path("/dev/full").open("w") as full:
        done = shown(home, full)

    assert done.returncode == 1
    assert done.stderr.startswith("Error: The output cannot be written.\n")
    assert len(done.stderr.splitlines()) == 3


def test_an_output_that_is_closed_ends_in_no_traceback(home, planned):
    done = subprocess.run(
        ["/bin/sh", "-c", 'exec "$@" >&-', "sh", *PROGRAM, "show", "p"],
        env={"PATH": os.environ["PATH"], "HOME": str(home)},
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        timeout=50,
    )

    assert (done.returncode, done.stderr) == (0, "")
