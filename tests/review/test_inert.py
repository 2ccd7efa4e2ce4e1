"""Inert text: one line, nothing hidden, nothing that acts, and no two texts the same."""

import itertools
import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.review.plans import TRICKS

from hdev_memory.review.inert import inert, inert_part, is_inert

TEXT = st.text(st.characters()) | st.text(
    st.sampled_from("\\u{}1b\x1b\u202e\u200b\ufe0f\U000e0041\u3164\u2800\xad\u00a0 aé名\ud800")
)


@given(TEXT)
def test_it_can_be_read_back_so_no_two_texts_look_the_same(text):
    def one(found):
        return "\\" if found[0] == "\\\\" else chr(int(found[1], 16))

    assert re.sub(r"\\\\|\\u\{([0-9a-f]+)\}", one, inert(text)) == text


@given(TEXT)
def test_nothing_hidden_is_left(text):
    for char in inert(text):
        assert unicodedata.category(char) not in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
        assert char == " " or unicodedata.category(char) != "Zs"
        assert not 0xFE00 <= ord(char) <= 0xFE0F
        assert not 0xE0000 <= ord(char) <= 0xE0FFF


COMMANDS = [
    "::set-output name=x::y",
    "  ::warning::x",
    "a ##[error]x",
    "##vso[task.x]",
    "####[x]",
    "##teamcity[buildStop]",
]


@given(TEXT | st.text(" :#[vso]a"))
def test_nothing_is_left_that_a_build_service_obeys(text):
    assert not re.search(r"^\s*::|##\[|##vso\[|##teamcity\[", inert(text))


@pytest.mark.parametrize("text", COMMANDS)
def test_commands_to_a_build_service_are_spelled_out(text):
    assert inert(text) != text
    assert len(inert(text)) - len(text) == len("\\u{3a}") - 1


@given(TEXT | st.text(" :#[vso]a"), st.integers(0, 9), st.integers(0, 9))
def test_the_parts_of_a_text_are_shown_as_within_the_whole(text, one, other):
    cuts = [0, *sorted((one, other)), max(len(text), one, other)]
    parts = [inert_part(text, *cut) for cut in itertools.pairwise(cuts)]

    assert "".join(parts) == inert(text)


@given(TEXT | st.text(" :#[vso]a"))
def test_what_is_told_to_be_inert_is_what_stays_as_it_is(text):
    assert is_inert(text) == (inert(text) == text)


@given(TEXT)
def test_it_is_one_line(text):
    assert len(inert(text + "x").splitlines()) == 1


@pytest.mark.parametrize("text", ["plain", "a/b c.d", "é名前", "<b>`*", "std::map", "# a ##b"])
def test_what_hides_nothing_stays_as_it_is(text):
    assert inert(text) == text


@pytest.mark.parametrize("char", "\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0\u180b\u180e")
def test_letters_that_are_drawn_as_nothing_are_spelled_out(char):
    assert inert(char) == f"\\u{{{ord(char):x}}}"


@pytest.mark.parametrize("trick", TRICKS)
def test_tricks_are_defused(trick):
    assert (
        re.search(r"[\x00-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2066-\u2069]", inert(trick))
        is None
    )
