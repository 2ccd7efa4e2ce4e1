"""What people see of foreign text says all of it, and does nothing."""

from __future__ import annotations

import itertools
import sys
import unicodedata

from hypothesis import given
from hypothesis import strategies as some

from hdev_memory.review.inert import inert
from hdev_memory.review.markdown import fenced


def test_every_character_is_shown_as_something_visible_of_its_own():
    shown = {}
    planes = [range(0x20000), range(0xE0000, 0xE1000), [0x10FFFD, sys.maxunicode]]
    for code in itertools.chain(*planes):  # what lies between is ideographs, or not assigned
        text = inert(chr(code))
        assert shown.setdefault(text, code) == code, hex(code)
        for char in text:
            kind = unicodedata.category(char)
            assert kind[0] not in "CZ" or char == " ", hex(code)


@given(some.text(), some.text())
def test_different_texts_are_shown_differently(one, other):
    assert (inert(one) == inert(other)) == (one == other)


def test_a_text_that_spells_out_a_hidden_character_is_not_shown_as_one():
    assert inert("\\u{202e}") != inert("\u202e")


@given(some.lists(some.text(alphabet="`a ~"), min_size=1))
def test_no_line_of_a_fenced_block_ends_it(lines):
    first, *inside, last = fenced(lines).split("\n")

    assert first == last + "text"
    assert [line for line in inside if last in line] == []
