"""Foreign text made safe to show: one injective function that every renderer sends it through."""

from __future__ import annotations

import re

from hdev_memory.core.characters import is_hidden

_UNUSUAL = re.compile(r"[^ -\[\]-~]+")


_COMMAND = re.compile(r"^\s*(:)(?=:)|#(#)(?=\[|vso\[|teamcity\[)")
"""What build services take in a log for a command to them: `::` where a line begins, and `##[`,
`##vso[` or `##teamcity[` anywhere (GitHub's runner, `ActionCommand.cs`; Azure Pipelines;
TeamCity's service messages)."""


def inert(text: str) -> str:
    """`text` on one line, with everything invisible or active spelled out.

    Two different texts never give the same result: a backslash is doubled, and what is hidden
    becomes `\\u{HEX}`. What is left cannot move a cursor, open a link, reorder or hide text, or
    command the build service whose log it is printed to.
    """
    return inert_part(text, 0, len(text))


def is_inert(text: str) -> bool:
    """Whether `inert` leaves this text as it is; quick to tell, and true of most."""
    return _seen_as_is(text) and not _may_command(text)


def spaced(text: str) -> str:
    """`text` inert, with the spaces spelled out that a column, a fold or a line's end would hide:
    those at its start and its end, and all but the last of several."""
    return re.sub(r"^ +| +$| (?= )", lambda found: "\\u{20}" * len(found[0]), inert(text))


def inert_part(text: str, start: int, end: int) -> str:
    """The characters from `start` to `end` as `inert` shows them within the whole text."""
    shown = []
    if _may_command(text):
        for found in _COMMAND.finditer(text):
            place = found.start(found.lastindex or 0)
            if start <= place < end:
                shown += [_seen(text[start:place]), _spelled(ord(text[place]))]
                start = place + 1
    return "".join([*shown, _seen(text[start:end])])


def _may_command(text: str) -> bool:
    return "##" in text or text.lstrip().startswith("::")  # as few have or do


def _seen_as_is(text: str) -> bool:
    # Bytes are dropped at a hundred times the pace at which an expression looks for characters.
    rest = text.encode(errors="surrogatepass").translate(None, _USUAL)
    return not rest or all(
        _SHOWN[ord(char)] == char for char in set(rest.decode(errors="surrogatepass"))
    )


_USUAL = bytes(code for code in range(32, 127) if code != ord("\\"))


def _seen(text: str) -> str:
    if _seen_as_is(text):
        return text
    # A table for every character costs ten times as much as to look for those that need it.
    return _UNUSUAL.sub(lambda found: found[0].translate(_SHOWN), text)


class _Shown(dict[int, str]):
    """How each character is shown, by its code; those that were met are kept, within bounds."""

    def __missing__(self, code: int) -> str:
        char = chr(code)
        shown = "\\\\" if char == "\\" else _spelled(code) if is_hidden(char) else char
        if len(self) < 10_000:
            self[code] = shown
        return shown


_SHOWN = _Shown()


def _spelled(code: int) -> str:
    return f"\\u{{{code:x}}}"
