"""Differences of metadata: complete, inert, short, and only of what the plan is about."""

import itertools
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.conftest import put_entry
from tests.review.plans import TRICKS

from hdev_memory.core.digest import canonical_json
from hdev_memory.review.inert import inert
from hdev_memory.review.metadata import MAX_CHANGES, differences

LEAF = st.none() | st.booleans() | st.integers(-2, 2) | st.sampled_from([0.5, 1.0, "", "a", "1"])
JSON = st.recursive(
    LEAF,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["a", "b", "__c", "d.e", "f'\""]), inner, max_size=3)
    ),
    max_leaves=8,
)
METADATA = st.dictionaries(st.sampled_from(["tags", "owner", "__private", "a.b", "é"]), JSON)


@given(METADATA, METADATA)
def test_there_are_lines_exactly_where_the_canonical_forms_differ(before, after):
    lines = differences(before, after).lines

    assert bool(lines) == (canonical_json(before) != canonical_json(after))
    assert len(lines) <= MAX_CHANGES + 1


@given(METADATA, JSON, JSON)
def test_a_key_that_differs_is_named_whatever_else_differs(rest, one, other):
    lines = differences({**rest, "k": one}, {"k": other}).lines

    if len(lines) < MAX_CHANGES:
        named = any(line.startswith(("k:", "k.", "k[")) for line in lines)
        assert named == (canonical_json(one) != canonical_json(other))


@pytest.mark.parametrize(
    ("before", "after", "lines"),
    [
        ({"owner": "ops"}, {"owner": "sre"}, ['owner: "ops" -> "sre"']),
        ({}, {"owner": "sre"}, ['owner: added "sre"']),
        ({"owner": {"a": [1]}}, {}, ['owner: removed {"a": [1]}']),
        ({"tags": ["a", "b"]}, {"tags": ["a", "x", "b"]}, ['tags[1]: added "x"']),
        ({"tags": ["a", "b"]}, {"tags": ["b"]}, ['tags[0]: removed "a"']),
        ({"a": {"b": [1, {"c": 1}]}}, {"a": {"b": [1, {"c": 2}]}}, ["a.b[1].c: 1 -> 2"]),
        ({"flag": True}, {"flag": 1}, ["flag: true -> 1"]),
        ({"flags": [True]}, {"flags": [1]}, ["flags[0]: true -> 1"]),
        ({"n": 1}, {"n": "1"}, ['n: 1 -> "1"']),
        ({"n": 1}, {"n": 1.0}, []),
        ({"__private": 1}, {"__private": 2}, ["__private: 1 -> 2"]),
        ({"a": []}, {"a": {}}, ["a: [] -> {}"]),
    ],
)
def test_differences_in_words(before, after, lines):
    assert list(differences(before, after).lines) == lines


@pytest.mark.parametrize("before", ["", "a", "ab", "aba", "abba", "abab"])
def test_no_two_lists_that_come_of_one_are_told_alike(before):
    lists = [list(items) for size in range(5) for items in itertools.product("ab", repeat=size)]
    told = {differences({"k": list(before)}, {"k": after}).lines for after in lists}

    assert len(told) == len(lists)


@pytest.mark.parametrize("trick", TRICKS)
def test_keys_and_values_are_inert(trick):
    for lines in (
        differences({trick: 1}, {trick: 2}),
        differences({"k": trick}, {"k": 1}),
        differences({"k": {trick: 1}}, {"k": {trick: [trick]}}),
    ):
        for line in lines.lines:
            text = line.replace("\\", "")  # what inert itself has put there
            assert inert(text) == text


def test_long_values_many_lines_and_large_metadata_are_cut_and_told():
    (long,) = differences({"k": "a" * 500}, {"k": 1}).lines
    many = differences({}, {f"k{number}": 1 for number in range(20)}).lines
    (large,) = differences({"k": "a" * 20_000}, {"k": "b" * 20_000}).lines

    assert len(long) < 150
    assert many[-1] == f"… and {20 - MAX_CHANGES} more differences"
    assert "too long" in large


def test_long_values_that_differ_late_do_not_look_the_same():
    (line,) = differences({"k": "a" * 500 + "b"}, {"k": "a" * 500 + "c"}).lines
    before, _, after = line.removeprefix("k: ").partition(" -> ")

    assert before != after


def test_a_dot_in_a_name_is_told_from_the_dot_between_two():
    (dotted,) = differences({"a.b": 1}, {"a.b": 2}).lines
    (deep,) = differences({"a": {"b": 1}}, {"a": {"b": 2}}).lines

    assert (dotted, deep) == ('"a.b": 1 -> 2', "a.b: 1 -> 2")


@pytest.fixture
def work(home):
    work = home.parent / "work"
    put_entry(work / "source", "a", "same", {"owner": "sre", "created": "1", "version": 7})
    put_entry(work / "target", "a", "same", {"owner": "ops", "created": "2", "version": 1})
    put_entry(work / "source", "b", "new", {"owner": "x", "updated": "1"})
    put_entry(work / "target", "b", "old", {"owner": "x", "updated": "2"})
    return work


def test_a_plan_shows_the_metadata_of_overwrites_and_tells_bookkeeping_apart(hdev, work):
    result = hdev("plan", "filesystem:source", "filesystem:target", "--overwrite", "-o", "p")
    review = (work / "p/review.md").read_text()

    for text in (result.out, review):
        assert text.count('owner: "ops" -> "sre"') == 1
        for word in ("created", "updated", "version"):
            assert f" {word}:" in text
            assert f"metadata {word}:" not in text
    assert "sre" not in (work / "p/plan.json").read_text()


def test_no_content_leaves_metadata_out_of_every_review(hdev, work):
    words = ("plan", "filesystem:source", "filesystem:target", "--overwrite", "-o", "p")
    result = hdev(*words, "--no-content")

    assert result.status == 0
    assert '"sre"' not in result.out + (work / "p/review.md").read_text()


def test_where_the_target_keeps_its_own_keys_they_are_not_shown_as_removed(hdev, work, tmp_path):
    from tests.emulation.existing_server import ExistingServer

    served = tmp_path / "served"
    put_entry(served, "a", "same", {"owner": "ops", "only_there": True, "version": 1})
    with ExistingServer(served, "k") as server:
        result = hdev(
            "plan", "filesystem:source", server.url, "--overwrite", "-o", "p", "--api-key", "k"
        )

    assert result.status == 0, result.err
    assert 'owner: "ops" -> "sre"' in result.out
    assert "only_there" not in result.out


def test_deepdiff_is_imported_only_where_there_is_something_to_show(home, work):
    code = (
        "import sys; from hdev_memory import cli; "
        "status = cli.run(['plan', 'filesystem:source', 'filesystem:t', '-o', 'p']); "
        "sys.exit(status or 'deepdiff' in sys.modules)"
    )

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
