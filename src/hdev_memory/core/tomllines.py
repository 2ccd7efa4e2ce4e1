"""On which line each name of a TOML document stands: tomllib keeps none of them.

The text has been read by tomllib before, so this looks for names only and checks nothing.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator

Path = tuple[str, ...]

_TOKEN = re.compile(
    r"""(?P<blank>[ \t\r]+|\#[^\n]*)"""
    r"""|(?P<text>\"{3}(?:\\.|[^\\])*?\"{3,5}|'{3}.*?'{3,5}|"(?:\\.|[^"\\\n])*"|'[^'\n]*')"""
    r"""|(?P<mark>[\[\]{}=,.\n])"""
    r"""|(?P<bare>[^\s\[\]{}=,.\#"']+)""",
    re.S,
)


def lines_of(text: str) -> dict[Path, int]:
    """The line (from 1) on which each table and each key is named first."""
    scanner = _Scanner(text)
    scanner.document()
    return scanner.found


class _Scanner:
    def __init__(self, text: str) -> None:
        self.found: dict[Path, int] = {}
        self._tokens = list(_tokens(text))
        self._at = 0

    def document(self) -> None:
        table: Path = ()
        while (token := self._peek()) is not None:
            kind, value, line = token
            if value == "\n":
                self._at += 1
            elif value == "[" and kind == "mark":
                while self._is("["):
                    self._at += 1
                table = self._key()
                self._note(table, line)
                while self._is("]"):
                    self._at += 1
            else:
                self._pair(table)

    def _pair(self, above: Path) -> None:
        token = self._peek()
        assert token is not None
        before = self._at
        path = above + self._key()
        self._note(path, token[2])
        if self._is("="):
            self._at += 1
            self._value(path)
        elif self._at == before:  # nothing that can be read: go on behind it
            self._at += 1

    def _key(self) -> Path:
        parts: list[str] = []
        while (token := self._peek()) is not None:
            kind, value, _ = token
            if kind == "mark" and value != ".":
                break
            if kind == "bare":
                parts.append(value)
            elif kind == "text":
                parts.append(_unquoted(value))
            self._at += 1
        return tuple(parts)

    def _value(self, path: Path) -> None:
        if self._is("{"):
            self._at += 1
            while (token := self._peek()) is not None and token[1] != "}":
                if token[1] in (",", "\n"):
                    self._at += 1
                else:
                    self._pair(path)
            self._at += 1
        elif self._is("["):
            self._list()
        else:
            while (token := self._peek()) is not None and not (
                token[0] == "mark" and token[1] in "\n,}]"
            ):
                self._at += 1

    def _list(self) -> None:
        """Go behind a list; what stands in it has no name."""
        depth = 0
        while (token := self._peek()) is not None:
            self._at += 1
            if token[0] == "mark":
                depth += (token[1] in "[{") - (token[1] in "]}")
            if depth == 0:
                return

    def _note(self, path: Path, line: int) -> None:
        for length in range(1, len(path) + 1):
            self.found.setdefault(path[:length], line)

    def _peek(self) -> tuple[str, str, int] | None:
        return self._tokens[self._at] if self._at < len(self._tokens) else None

    def _is(self, mark: str) -> bool:
        return (token := self._peek()) is not None and token[:2] == ("mark", mark)


def _tokens(text: str) -> Iterator[tuple[str, str, int]]:
    line = 1
    for found in _TOKEN.finditer(text):
        kind = found.lastgroup or ""
        if kind != "blank":
            yield kind, found[0], line
        line += found[0].count("\n")


def _unquoted(key: str) -> str:
    if key.startswith("'"):
        return key[1:-1]
    (name,) = tomllib.loads(f"{key} = 0")
    return name
