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

_FOLDED_TWINS = bytes(
    ord(chr(code).translate(_ASCII_TWINS).casefold()) if code < 128 else code for code in range(256)
)
"""The same, and the case folded, by byte: most names are ASCII, and this is the faster way."""


def skeletons(name: str) -> tuple[bytes, bytes]:
    """Two texts; names that have one of them in common look alike.

    One has the case folded, the other look-alike letters replaced first: `I` is taken for `l`, and
    yet folds to `i`.
    """
    if name.isascii():
        plain = name.encode()
        folded, twin = plain.lower(), plain.translate(_FOLDED_TWINS)
    else:
        visible = "".join(filter(_visible, unicodedata.normalize("NFKD", name)))
        table = _table()
        similar = "".join(table.get(char, char) for char in visible).translate(_ASCII_TWINS)
        folded, twin = visible.casefold().encode(), similar.casefold().encode()
    return b"case " + folded, b"look " + twin.replace(b"rn", b"m")


TWINS = 8
"""Twins that are named for one name, at most; who makes thousands is told enough by these."""


_SLOTS = 1 << 27
"""Bits of the table in which the skeletons of names leave a mark: 16 MiB, whatever their number."""


def alike(names: Iterable[str], others: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """For each of `names` those of `names` and `others` that look like it and are not it.

    `names` are gone through twice, `others` once. Neither is held: memory is needed for those
    whose marks meet, which are the twins, and of a million names one in fifty by chance.
    """
    marks = bytearray(_SLOTS // 8)
    met: set[int] = set()
    any_name = False
    for name in names:
        any_name = True
        for slot in _slots(name):
            if marks[slot >> 3] >> (slot & 7) & 1:
                met.add(slot)
            marks[slot >> 3] |= 1 << (slot & 7)
    if not any_name:
        return {}  # the others are not even asked for, which may be a whole store
    suspects: list[str] = []
    for other in others:
        hit = [slot for slot in _slots(other) if marks[slot >> 3] >> (slot & 7) & 1]
        if hit:
            met.update(hit)
            suspects.append(other)
    if not met:
        return {}
    return _twins((name for name in names if not met.isdisjoint(_slots(name))), suspects)


def _slots(name: str) -> tuple[int, int]:
    folded, similar = skeletons(name)
    return hash(folded) % _SLOTS, hash(similar) % _SLOTS


def _twins(names: Iterable[str], others: Iterable[str]) -> dict[str, tuple[str, ...]]:
    groups: dict[bytes, list[str]] = {}
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
