"""The gate: each planted bug makes its test fail, and without the bug that test passes."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from tests.processes import pytest_alone
from tests.survival.planted import BUGS, Bug
from tests.survival.world import THOROUGH

ROOT = Path(__file__).parents[2]
PASSED, FAILED = 0, 1
QUICK = 40
"""In the short suite every so many-th bug is planted; `nox -s gate` plants them all."""


def run(source: Path, tests: list[str]) -> subprocess.CompletedProcess[str]:
    environ = {name: text for name, text in os.environ.items() if name != "SURVIVAL"}
    environ |= {"PYTHONPATH": str(source), "PYTHONDONTWRITEBYTECODE": "1"}
    return pytest_alone(source.parent / "base", "-x", *tests, environ=environ)


def edited(bug: Bug) -> dict[str, str]:
    """The files with the bug in them; the text that it replaces must be there once."""
    files: dict[str, str] = {}
    for name, old, new in bug.edits:
        text = files.get(name) or (ROOT / "src/hdev_memory" / name).read_text()
        assert text.count(old) == 1, f"{name} has changed: {old!r} is there {text.count(old)} times"
        files[name] = text.replace(old, new)
    return files


@pytest.mark.parametrize(
    "bug", BUGS if THOROUGH else BUGS[::QUICK], ids=lambda bug: bug.name.replace(" ", "-")
)
def test_the_test_of_a_planted_bug_fails(tmp_path, bug):
    source = shutil.copytree(ROOT / "src", tmp_path / "src")
    for name, text in edited(bug).items():
        (source / "hdev_memory" / name).write_text(text)
    done = run(source, [bug.test])

    assert done.returncode == FAILED, f"{bug.test}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"


def test_planted_bugs_fit_the_source_and_are_still_python():
    for bug in BUGS:
        for name, text in edited(bug).items():
            compile(text, name, "exec")


@pytest.mark.skipif(not THOROUGH, reason="the same tests are part of this suite")
def test_without_a_bug_they_pass(tmp_path):
    source = shutil.copytree(ROOT / "src", tmp_path / "src")
    done = run(source, sorted({bug.test for bug in BUGS}))

    assert done.returncode == PASSED, done.stdout[-2000:]


def test_there_are_enough_of_them_and_each_has_a_name_of_its_own():
    assert len(BUGS) >= 20
    assert len({bug.name for bug in BUGS}) == len(BUGS)
