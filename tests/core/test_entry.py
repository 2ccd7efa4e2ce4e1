"""Keys, names and normalisation."""

from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hdev_memory.core.entry import (
    InvalidKey,
    Normalisation,
    check_key,
    display_name,
    has_suffix,
    is_plain_segment,
)


@pytest.mark.parametrize(
    "key", ["a", "a/b/c", "notes/v1.2", ".hidden/x", "ä/日本", "a b", "x" * 1024]
)
def test_good_keys_are_keys(key):
    assert check_key(key) == key


@pytest.mark.parametrize(
    "key",
    ["", "/a", "a/", "a//b", ".", "..", "a/../b", "a\\b", "a\nb", "a\x7f", "a\x85", "\ud800"]
    + ["x" * 1025, "ä" * 513],
)
def test_bad_keys_are_refused(key):
    with pytest.raises(InvalidKey):
        check_key(key)


@given(st.text(st.sampled_from("a.\\ /~\x1f\x7f\x85é") | st.characters(), max_size=3))
def test_a_plain_segment_is_a_key_of_one_segment(name):
    if "/" not in name and is_plain_segment(name):
        assert check_key(name) == name


@pytest.mark.parametrize("name", ["", ".", "..", "a\\b", "a\x7f", "é"])
def test_what_may_break_a_rule_is_no_plain_segment(name):
    assert not is_plain_segment(name)


names = st.text(st.sampled_from("ab\\u{}x1\x00\n\udce9\ud800é"), max_size=6)


@given(names, names)
def test_display_names_of_different_names_differ(one, other):
    assert (display_name(one) == display_name(other)) == (one == other)


@given(
    st.text(st.sampled_from("ab."), min_size=1, max_size=6).filter(lambda n: n not in ("..", "."))
)
def test_every_name_with_a_suffix_in_pathlibs_sense_has_one_here(name):
    assert not PurePosixPath(name).suffix or has_suffix(name)


def test_line_ends_count_only_where_they_survive():
    exact, lossy = Normalisation(), Normalisation(line_ends="lf")

    assert exact.state(b"a\r\nb\rc", {}) != exact.state(b"a\nb\nc", {})
    assert lossy.state(b"a\r\nb\rc", {}) == lossy.state(b"a\nb\nc", {})


def test_bookkeeping_is_no_part_of_the_digest():
    state = Normalisation().state

    assert state(b"", {"k": 1, "version": 3, "created": "x"}) == state(b"", {"k": 1})
    assert state(b"", {"k": 1}) != state(b"", {"k": 2})
