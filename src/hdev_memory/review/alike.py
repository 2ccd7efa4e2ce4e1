"""Names that a reader takes for one another: by case, by Unicode form, or by look-alike letters.

After Unicode Technical Standard 39, section 4 (skeletons), with the table of the package
confusable-homoglyphs, which is read only where a name is not ASCII.
"""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Iterable

from hdev_memory.review.inert import inert

_ASCII_TWINS = str.maketrans({"0": "O", "1": "l", "I": "l", "|": "l"})
"""What the table says of ASCII characters; `rn` and `m` are the one pair of unequal length."""


def skeletons(name: str) -> tuple[str, str]:
    """Two texts; names that have one of them in common look alike.

    One has the case folded, the other look-alike letters replaced first: `I` is taken for `l`, and
    yet folds to `i`.
    """
    if name.isascii():
        plain = name
        twin = name.translate(_ASCII_TWINS)
    else:
        plain = "".join(filter(_visible, unicodedata.normalize("NFKD", name)))
        table = _table()
        twin = "".join(table.get(char, char) for char in plain).translate(_ASCII_TWINS)
    return f"case {plain.casefold()}", f"look {twin.casefold().replace('rn', 'm')}"


TWINS = 8
"""Twins that are named for one name, at most; who makes thousands is told enough by these."""


def alike(names: Iterable[str], others: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """For each of `names` those of `names` and `others` that look like it and are not it.

    Needs memory for `names` only; `others` may be endless, and may hold `names` again.
    """
    groups: dict[str, list[str]] = {}
    twins: dict[str, set[str]] = {}

    def add(one: str, other: str) -> None:
        found = twins.setdefault(one, set())
        if one != other and len(found) < TWINS:
            found.add(other)

    for name in names:
        for skeleton in skeletons(name):
            group = groups.setdefault(skeleton, [])
            for one in group:
                add(one, name)
                add(name, one)
            if len(group) < TWINS and name not in group:
                group.append(name)
    if not groups:
        return {}  # the others are not even asked for, which may be a whole store
    for other in others:
        for skeleton in skeletons(other):
            for one in groups.get(skeleton, ()):
                add(one, other)
    return {name: tuple(sorted(found)) for name, found in twins.items() if found}


@functools.cache
def _table() -> dict[str, str]:
    """Each look-alike character with the one that stands for all of its group, ASCII if any is."""
    from confusable_homoglyphs import confusables

    leader: dict[str, str] = {}

    def lead(char: str) -> str:
        while (above := leader.setdefault(char, char)) != char:
            leader[char] = leader.setdefault(above, above)
            char = above
        return char

    for char, entries in confusables.confusables_data.items():
        for twin in (entry["c"] for entry in entries):
            if len(char) == len(twin) == 1:
                first, second = sorted((lead(char), lead(twin)), key=_plainness)
                leader[second] = first
    return {char: lead(char) for char in list(leader) if not char.isascii()}


def _visible(char: str) -> bool:
    return char == "\\" or inert(char) == char


def _plainness(char: str) -> tuple[bool, bool, int]:
    return not char.isascii(), not char.isalnum(), ord(char)
