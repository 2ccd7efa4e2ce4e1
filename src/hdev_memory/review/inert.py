"""Foreign text made safe to show: one injective function that every renderer sends it through."""

from __future__ import annotations

import re

from hdev_memory.core.characters import is_hidden

_PLAIN = re.compile(r"[ -\[\]-~]*")


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
    return f"\\u{{{ord(char):x}}}" if is_hidden(char) else char
