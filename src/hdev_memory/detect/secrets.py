"""Passwords, tokens and private keys, found by the patterns of detect-secrets.

Only its plugins are used, one line at a time: nothing of its settings, of its baselines, and never
its verification, which would send what was found to whoever could confirm it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

from hdev_memory.core.policy import Hit
from hdev_memory.core.rules import Secrets
from hdev_memory.detect import Detector
from hdev_memory.errors import PolicyError

EXTRA = "hdev-memory[secrets]"

_PIECE, _OVERLAP = 4096, 512
"""Characters of a line that are looked at together: a longer one is cut, with an overlap."""

_SHORT, _SHORT_OVERLAP, _MOST_WORDS = 512, 128, 8
"""The same for passwords behind their names: the time for those grows with the square of both the
length and the number of such names, so a piece with more of them is told instead of looked at."""

_RANDOM = frozenset({"Base64 High Entropy String", "Hex High Entropy String"})
_KEYWORD = "Secret Keyword"
_NO_SECRETS = frozenset({"Public IP (ipv4)"})
_TOO_MANY = "more names of secrets in one place than can be looked into"


def detector(rule: Secrets) -> Detector:
    """Raises PolicyError when the extra is not installed."""
    plugins, keyword = _plugins(rule)

    def look(text: str) -> Iterator[Hit]:
        for number, line in enumerate(text.split("\n"), start=1):
            for piece in _pieces(line, _PIECE, _OVERLAP):
                for what, find in plugins:
                    if find(piece):
                        yield Hit(line=number, what=what)
            for piece in _pieces(line, _SHORT, _SHORT_OVERLAP):
                yield from (Hit(line=number, what=what) for what in keyword(piece))

    return look


def _pieces(line: str, size: int, overlap: int) -> Iterator[str]:
    for start in range(0, max(1, len(line) - overlap), size - overlap):
        yield line[start : start + size]


Look = Callable[[str], bool]


def _plugins(rule: Secrets) -> tuple[list[tuple[str, Look]], Callable[[str], Iterator[str]]]:
    """What each plugin finds, in words, with its look at one line; and the look for passwords."""
    try:
        from detect_secrets.core.plugins.util import get_mapping_from_secret_type_to_class
    except ImportError:
        raise PolicyError(
            "The policy looks for secrets, and the detector for them is not installed.",
            why="The rule `secrets` needs the package detect-secrets.",
            hint=f"Install {EXTRA}; a rule that cannot be asked is never passed over.",
        ) from None
    left_out = _NO_SECRETS if rule.entropy else _NO_SECRETS | _RANDOM
    kinds: dict[str, Any] = dict(get_mapping_from_secret_type_to_class())
    plugins = [
        (_words(name), _ordinary(kind()))
        for name, kind in sorted(kinds.items())
        if name not in left_out | {_KEYWORD}
    ]
    return plugins, _keyword(kinds[_KEYWORD]())


def _words(name: str) -> str:
    return f"what looks like a secret ({name})"


def _ordinary(plugin: Any) -> Look:
    return lambda line: bool(plugin.analyze_line(filename="note", line=line))


def _keyword(plugin: Any) -> Callable[[str], Iterator[str]]:
    """A password behind its name. The plugin's forms are slow, and each has one of its words.

    It asks for quotes in files of programs only; a note is read as a file of settings is.
    """
    from detect_secrets.filters import heuristic
    from detect_secrets.plugins.keyword import DENYLIST

    words = re.compile("|".join(DENYLIST), re.I)

    def find(line: str) -> Iterator[str]:
        if not words.search(line):
            return
        if sum(1 for _ in islice(words.finditer(line), _MOST_WORDS + 1)) > _MOST_WORDS:
            yield _TOO_MANY
        else:
            found = plugin.analyze_line(filename="note.yaml", line=line)
            if any(not _harmless(one.secret_value or "", line) for one in found):
                yield _words(_KEYWORD)

    def _harmless(secret: str, line: str) -> bool:
        return bool(
            heuristic.is_templated_secret(secret)
            or heuristic.is_not_alphanumeric_string(secret)
            or heuristic.is_indirect_reference(line)
        )

    return find
