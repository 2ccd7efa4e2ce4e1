"""The documentation of the guarantees names tests and planted bugs that exist."""

from __future__ import annotations

import re
from pathlib import Path

from tests.survival.planted import BUGS

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs/guarantees.md").read_text()
SECTIONS = {
    found.group(1): found.group(2)
    for found in re.finditer(r"^## (P\d+)\. [^\n]+\n(.*?)(?=^## )", TEXT, re.M | re.S)
}


def test_every_promise_has_a_section_with_tests_and_planted_bugs():
    assert list(SECTIONS) == [f"P{number}" for number in range(1, 17)]
    for name, section in SECTIONS.items():
        assert "::test_" in section, name
        assert "\nPlanted: " in section, name


def test_the_tests_that_it_names_exist():
    named = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", TEXT)

    assert len(named) > 40
    for path, name in named:
        assert f"def {name}(" in (ROOT / path).read_text(), f"{path}::{name}"


def test_the_planted_bugs_that_it_names_are_those_that_are_planted():
    for name, section in SECTIONS.items():
        (said,) = re.findall(r"^Planted: (.*?)\.$", section, re.M | re.S)
        planted = {bug.name for bug in BUGS if bug.promise == name}
        assert {" ".join(text.split()) for text in said.split(";")} == planted, name


def test_the_tests_of_the_planted_bugs_exist():
    for bug in BUGS:
        path, _, name = bug.test.partition("::")
        text = (ROOT / path).read_text()
        if path == "tests/backends/test_contract.py":
            text += (ROOT / "tests/backends/contract.py").read_text()
        assert f"def {name.partition('[')[0]}" in text, bug.test
