"""Names that a reader takes for one another: by case, by Unicode form, or by look-alike letters.

After Unicode Technical Standard 39, section 4 (skeletons), with the table of the package
confusable-homoglyphs, which is read only where a name is not ASCII.
"""

from __future__ import annotations

import functools
import itertools
import unicodedata
from collections.abc import Iterable, Iterator

from hdev_memory.review.inert import inert

_ASCII_TWINS = str.maketrans({"0": "O", "1": "l", "I": "l", "|": "l"})
"""What the table says of ASCII characters; `rn` and `m` are the one pair of unequal length."""

_FOLDED_TWINS = bytes(
    ord(chr(code).translate(_ASCII_TWINS).casefold()) if code < 128 else code for code in range(256)
)
"""The same, and the case folded, by byte: most names are ASCII, and this is the faster way."""


def skeletons(name: str) -> tuple[bytes, bytes]:
    """Two texts, of two kinds; names that have one of them in common look alike.

    One has the case folded, the other look-alike letters replaced first: `I` is taken for `l`, and
    yet folds to `i`.
    """
    if name.isascii():
        plain = name.encode()
        return plain.lower(), _similar(plain)
    visible = "".join(filter(_visible, unicodedata.normalize("NFKD", name)))
    table = _table()
    similar = "".join(table.get(char, char) for char in visible).translate(_ASCII_TWINS)
    return visible.casefold().encode(), similar.casefold().encode().replace(b"rn", b"m")


def _similar(plain: bytes) -> bytes:
    return plain.translate(_FOLDED_TWINS).replace(b"rn", b"m")


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
    for _, *slots in _slots(names):
        any_name = True
        for slot in slots:
            if marks[slot >> 3] >> (slot & 7) & 1:
                met.add(slot)
            marks[slot >> 3] |= 1 << (slot & 7)
    if not any_name:
        return {}  # the others are not even asked for, which may be a whole store
    suspects: list[str] = []
    for other, one, two in _slots(others):
        if marks[one >> 3] >> (one & 7) & 1 or marks[two >> 3] >> (two & 7) & 1:
            met.update((one, two))
            suspects.append(other)
    if not met:
        return {}
    return _twins((name for name, one, two in _slots(names) if one in met or two in met), suspects)


def _slots(names: Iterable[str]) -> Iterator[tuple[str, int, int]]:
    """Each name, and the place of the mark of either skeleton of it."""
    rest = iter(names)
    while some := list(itertools.islice(rest, _TOGETHER)):
        text = "\n".join(some)
        if text.isascii() and text.count("\n") == len(some) - 1:
            plain = text.encode()
            folded, similar = plain.lower(), _similar(plain)
            texts: Iterable[tuple[bytes, bytes]] = zip(
                folded.split(b"\n"), similar.split(b"\n"), strict=True
            )
        else:
            texts = map(skeletons, some)
        for name, (one, two) in zip(some, texts, strict=True):
            # Doubled, so that the two kinds have no place in common.
            yield name, 2 * hash(one) % _SLOTS, (2 * hash(two) + 1) % _SLOTS


_TOGETHER = 1000
"""Names that are looked at together: what is done with the bytes of all of them at once costs a
tenth of what it costs for each."""


def _twins(names: Iterable[str], others: Iterable[str]) -> dict[str, tuple[str, ...]]:
    groups: dict[tuple[int, bytes], list[str]] = {}
    twins: dict[str, set[str]] = {}

    def add(one: str, other: str) -> None:
        found = twins.setdefault(one, set())
        if one != other and len(found) < TWINS:
            found.add(other)

    for name in names:
        for skeleton in enumerate(skeletons(name)):
            group = groups.setdefault(skeleton, [])
            for one in group:
                add(one, name)
                add(name, one)
            if len(group) < TWINS and name not in group:
                group.append(name)
    for other in others:
        for skeleton in enumerate(skeletons(other)):
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
