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


@given(st.text(st.sampled_from("aé.\\/ ~\x1f\x7f\x85\ud800"), max_size=6))
def test_a_key_breaks_no_rule_and_whatever_breaks_one_is_none(text):
    segments = text.split("/")
    allowed = not (set(text) & set("\\\x1f\x7f\x85\ud800") or {"", ".", ".."} & set(segments))

    if allowed:
        assert check_key(text) == text
    else:
        with pytest.raises(InvalidKey):
            check_key(text)


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
