"""Which characters cannot be seen, or change how those around them are seen."""

from __future__ import annotations

import unicodedata

_HIDDEN_CATEGORIES = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
"""Controls, format characters (bidi, zero-width, tags), surrogates, private use, unassigned, and
the two separators that some programs take for the end of a line."""

# Letters and spaces that are drawn as nothing although their category says otherwise, and the
# variation selectors, which can carry hidden text.
_BLANK = {0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x2800, 0x3164, 0xFFA0} | {*range(0x180B, 0x1810)}


def is_hidden(char: str) -> bool:
    """Whether a reader could miss this character, or see others at the wrong place for it."""
    code = ord(char)
    return (
        unicodedata.category(char) in _HIDDEN_CATEGORIES
        or code in _BLANK
        or 0xFE00 <= code <= 0xFE0F
        or 0xE0100 <= code <= 0xE01EF
        or (unicodedata.category(char) == "Zs" and char != " ")
    )
