"""Characters that nobody sees are told by their names; those that texts need are not."""

from __future__ import annotations

import pytest

from hdev_memory.core.rules import InvisibleCharacters
from hdev_memory.detect import invisible

FOUND = {
    "zero width": ("a\u200bb", 1, "U+200B ZERO WIDTH SPACE"),
    "reordering": ("x\ny \u202e z", 2, "U+202E RIGHT-TO-LEFT OVERRIDE"),
    "isolates": ("\u2066a\u2069", 1, "U+2066 LEFT-TO-RIGHT ISOLATE"),
    "tags that spell hidden text": ("a\U000e0041", 1, "U+E0041 TAG LATIN CAPITAL LETTER A"),
    "a variation selector that carries data": ("a\ufe01", 1, "U+FE01 VARIATION SELECTOR-2"),
    "one behind a letter": ("a\ufe0f", 1, "U+FE0F VARIATION SELECTOR-16"),
    "a selector of the supplement": ("a\U000e0100", 1, "U+E0100 VARIATION SELECTOR-17"),
    "a joiner between letters": ("a\u200db", 1, "U+200D ZERO WIDTH JOINER"),
    "a space that is none": ("a\u00a0b", 1, "U+00A0 NO-BREAK SPACE"),
    "a blank letter": ("a\u3164", 1, "U+3164 HANGUL FILLER"),
    "an escape": ("\x1b[31m", 1, "U+001B unnamed"),
    "a line separator": ("a\u2028b", 1, "U+2028 LINE SEPARATOR"),
    "a mark of byte order in the middle": ("a\n\ufeffb", 2, "U+FEFF ZERO WIDTH NO-BREAK SPACE"),
    "private use": ("\ue000", 1, "U+E000 unnamed"),
}
CLEAN = {
    "plain": "a\tb\nc",
    "line ends of CRLF": "a\r\nb\r\n",
    "letters of any kind": "Grüße, 日本語, العربية, e\u0301",
    "a mark of byte order at the beginning": "\ufeffa",
    "emoji": "\u2764\ufe0f 1\ufe0f \U0001f468\u200d\U0001f4bb \U0001f44d\U0001f3fd",
    "emoji that are joined in style": "\u2764\ufe0f\u200d\U0001f525",
    "nothing": "",
}


@pytest.mark.parametrize("case", FOUND)
def test_it_is_found_and_named(case):
    text, line, what = FOUND[case]
    (hit,) = invisible.detector(InvisibleCharacters())(text)

    assert hit.line == line
    assert hit.what.startswith(what)


@pytest.mark.parametrize("case", CLEAN)
def test_what_texts_need_is_not_found(case):
    assert list(invisible.detector(InvisibleCharacters())(CLEAN[case])) == []


def test_what_a_policy_allows_is_not_found():
    look = invisible.detector(InvisibleCharacters(allow=("U+00A0",)))

    assert list(look("a\u00a0b")) == []
    assert [hit.line for hit in look("a\u00a0b\n\u200b")] == [2]


def test_many_kinds_on_a_line_are_counted():
    (hit,) = invisible.detector(InvisibleCharacters())("".join(map(chr, range(0x2060, 0x2069))))

    assert hit.what.endswith(" and 4 others")
