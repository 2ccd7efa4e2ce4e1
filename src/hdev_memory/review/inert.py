"""Foreign text made safe to show: one injective function that every renderer sends it through."""

from __future__ import annotations

import re
import unicodedata

_HIDDEN_CATEGORIES = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
"""Controls, format characters (bidi, zero-width, tags), surrogates, private use, unassigned, and
the two separators that some programs take for the end of a line."""

_PLAIN = re.compile(r"[ -\[\]-~]*")

# Letters and spaces that are drawn as nothing although their category says otherwise, and the
# variation selectors, which can carry hidden text.
_BLANK = {0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x2800, 0x3164, 0xFFA0} | {*range(0x180B, 0x1810)}


def inert(text: str) -> str:
    """`text` on one line, with everything invisible or active spelled out.

    Two different texts never give the same result: a backslash is doubled, and what is hidden
    becomes `\\u{HEX}`. What is left cannot move a cursor, open a link, reorder or hide text.
    """
    if _PLAIN.fullmatch(text):
        return text
    return "".join(_shown(char) for char in text)


def _shown(char: str) -> str:
    if char == "\\":
        return "\\\\"
    code = ord(char)
    if (
        unicodedata.category(char) in _HIDDEN_CATEGORIES
        or code in _BLANK
        or 0xFE00 <= code <= 0xFE0F
        or 0xE0100 <= code <= 0xE01EF
        or (unicodedata.category(char) == "Zs" and char != " ")
    ):
        return f"\\u{{{code:x}}}"
    return char
