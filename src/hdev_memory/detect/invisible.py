"""Characters that cannot be seen, or that reorder the text around them."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

from hdev_memory.core.characters import is_hidden
from hdev_memory.core.policy import Hit
from hdev_memory.core.rules import InvisibleCharacters
from hdev_memory.detect import Detector

_USUAL = frozenset("\t\r\n")
_PLAIN = re.compile(r"[\t\r -~]*")
_NAMED = 5
"""Code points that one hit names."""

_JOINER, _EMOJI_STYLE = "\u200d", "\ufe0f"
_BOM = "\ufeff"


def detector(rule: InvisibleCharacters) -> Detector:
    allowed = _USUAL | {chr(int(point[2:], 16)) for point in rule.allow}

    def look(text: str) -> Iterator[Hit]:
        for number, line in enumerate(text.removeprefix(_BOM).split("\n"), start=1):
            if not _PLAIN.fullmatch(line) and (found := _hidden(line, allowed)):
                yield Hit(line=number, what=_told(found))

    return look


def _hidden(line: str, allowed: frozenset[str]) -> list[str]:
    """The hidden characters of a line, each once, in the order in which they come."""
    found = dict.fromkeys(
        char
        for at, char in enumerate(line)
        if char not in allowed and is_hidden(char) and not _within_emoji(line, at)
    )
    return list(found)


def _within_emoji(line: str, at: int) -> bool:
    """Whether the character is one of those that emoji are spelled with, and stands in one."""
    before = line[at - 1] if at else ""
    behind = line[at + 1 : at + 2]
    if line[at] == _EMOJI_STYLE:
        return _is_symbol(before) or before in tuple("0123456789#*")
    if line[at] == _JOINER:
        return (_is_symbol(before) or before == _EMOJI_STYLE) and _is_symbol(behind)
    return False


def _is_symbol(char: str) -> bool:
    return char != "" and unicodedata.category(char) in ("So", "Sk")


def _told(found: list[str]) -> str:
    named = [f"U+{ord(char):04X} {unicodedata.name(char, 'unnamed')}" for char in found[:_NAMED]]
    more = f" and {len(found) - _NAMED} others" if len(found) > _NAMED else ""
    return ", ".join(named) + more
