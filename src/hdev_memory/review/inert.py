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


_COMMAND = re.compile(r"^\s*(:)(?=:)|#(#)(?=\[|vso\[)")
"""What build services take in a log for a command to them: `::` where a line begins, and `##[` or
`##vso[` anywhere (GitHub's runner, `ActionCommand.cs`; Azure Pipelines)."""


def inert(text: str) -> str:
    """`text` on one line, with everything invisible or active spelled out.

    Two different texts never give the same result: a backslash is doubled, and what is hidden
    becomes `\\u{HEX}`. What is left cannot move a cursor, open a link, reorder or hide text, or
    command the build service whose log it is printed to.
    """
    return inert_part(text, 0, len(text))


def inert_part(text: str, start: int, end: int) -> str:
    """The characters from `start` to `end` as `inert` shows them within the whole text."""
    part = text[start:end]
    active = {found.start(found.lastindex or 0) for found in _COMMAND.finditer(text)}
    if not active and _PLAIN.fullmatch(part):
        return part
    return "".join(
        _spelled(char) if start + offset in active else _shown(char)
        for offset, char in enumerate(part)
    )


def _spelled(char: str) -> str:
    return f"\\u{{{ord(char):x}}}"


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
        return _spelled(char)
    return char
