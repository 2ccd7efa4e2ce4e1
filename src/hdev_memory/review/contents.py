"""How the content of an entry changes: hunks of inert lines, word by word, within bounds.

The matching itself is difflib's; what is here bounds its cost, and makes sure that no two different
changes are shown alike.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher
from typing import Literal

from hdev_memory.core.entry import Value
from hdev_memory.review.inert import inert_part, is_inert

CONTEXT = 3
"""Unchanged lines around a change."""

MATCHED = 40_000
"""Pairs of lines up to which difflib, whose worst case is cubic, looks for the best match. Larger
blocks are first cut at the lines that stand once in both, as the patience diff does."""

MATCHED_WORDS = 10_000
"""Pairs of words up to which the words that differ are picked out."""

DEPTH = 8
"""How often a block is cut again; what is still too large then counts as replaced."""

_WORDS = re.compile(r"\w+|\s+|[^\w\s]")
_ALIKE = 0.4
"""Lines less alike than this have no words picked out: all of both would be."""

Mark = Literal[" ", "-", "+", "\\"]


class Piece(Value, frozen=True):
    """A part of a line, inert; `changed` picks out words within a line that was replaced."""

    text: str
    changed: bool = False


class Line(Value, frozen=True):
    """One line of a difference.

    `mark` is that of a unified diff: `-` only before, `+` only after, a space in both, and a
    backslash for a remark of ours about the line above, which no content can imitate, as every line
    of content begins with one of the other marks. `before` and `after` are line numbers from 1.
    """

    mark: Mark
    pieces: tuple[Piece, ...]
    before: int | None = None
    after: int | None = None

    @property
    def text(self) -> str:
        return "".join(piece.text for piece in self.pieces)


class Hunk(Value, frozen=True):
    """Changed lines that lie close together, with their surroundings.

    `before` and `after` are where it begins, counted from 1, and how many lines it has there, also
    those that are not shown.
    """

    before: tuple[int, int]
    after: tuple[int, int]
    lines: tuple[Line, ...]

    @property
    def header(self) -> str:
        """`@@ -1,3 +1,4 @@`, as in a unified diff."""
        return f"@@ -{self.before[0]},{self.before[1]} +{self.after[0]},{self.after[1]} @@"


class ContentChange(Value, frozen=True):
    """From one content to another; None stands for no entry.

    `removed` and `added` count whole lines, also those that are not shown; `left` counts the lines
    of the difference that are not shown.
    """

    hunks: tuple[Hunk, ...]
    removed: int
    added: int
    left: int


class _Block(Value, frozen=True):
    """Lines `before[a1:a2]` became `after[b1:b2]`; `same` where they are equal."""

    same: bool
    a1: int
    a2: int
    b1: int
    b2: int


def compare(
    before: str | None, after: str | None, *, max_lines: int, max_chars: int
) -> ContentChange:
    """The difference of two contents: at most `max_lines` lines of it, each of at most `max_chars`
    characters as shown. Deterministic, and its cost is about in line with the size."""
    old, new = _lines(before or ""), _lines(after or "")
    blocks = _blocks(old, new)
    shown: list[Hunk] = []
    room, left = max_lines, 0
    for group in _groups(blocks):
        lines = list(_hunk(group, old, new, max_chars, room + 1)) if room > 0 else []
        kept = _whole(lines, room)
        total = sum(b.a2 - b.a1 + (0 if b.same else b.b2 - b.b1) for b in group)
        left += total - sum(line.mark != "\\" for line in kept)
        room -= len(kept)
        if kept:
            first, last = group[0], group[-1]
            shown.append(
                Hunk(
                    before=(first.a1 + (last.a2 > first.a1), last.a2 - first.a1),
                    after=(first.b1 + (last.b2 > first.b1), last.b2 - first.b1),
                    lines=tuple(kept),
                )
            )
    changed = [block for block in blocks if not block.same]
    return ContentChange(
        hunks=tuple(shown),
        removed=sum(block.a2 - block.a1 for block in changed),
        added=sum(block.b2 - block.b1 for block in changed),
        left=left,
    )


def _lines(text: str) -> list[str]:
    """Lines with their LF. Nothing else ends a line: CR and the Unicode separators are content."""
    found = text.split("\n")
    last = found.pop()
    return [line + "\n" for line in found] + ([last] if last else [])


def _blocks(old: Sequence[str], new: Sequence[str]) -> list[_Block]:
    """What became what, in order, from the first line to the last; equal blocks never touch."""
    merged: list[_Block] = []
    for block in _matched(old, new, 0, 0, DEPTH):
        if merged and merged[-1].same == block.same:
            last = merged.pop()
            block = _Block(last.same, last.a1, block.a2, last.b1, block.b2)
        merged.append(block)
    return merged


def _matched(
    old: Sequence[str], new: Sequence[str], a: int, b: int, depth: int
) -> Iterator[_Block]:
    """The blocks of lines that begin at `a` and `b`."""
    start = _common(old, new)
    end = _common(old[start:][::-1], new[start:][::-1])
    if start:
        yield _Block(True, a, a + start, b, b + start)
    a2, b2 = len(old) - end, len(new) - end
    middle = old[start:a2], new[start:b2]
    if not middle[0] or not middle[1]:
        if middle[0] or middle[1]:
            yield _Block(False, a + start, a + a2, b + start, b + b2)
    elif len(middle[0]) * len(middle[1]) <= MATCHED:
        matcher = SequenceMatcher(None, *middle, autojunk=False)
        for kind, i1, i2, j1, j2 in matcher.get_opcodes():
            yield _Block(
                kind == "equal", a + start + i1, a + start + i2, b + start + j1, b + start + j2
            )
    else:
        yield from _cut_at_anchors(*middle, a + start, b + start, depth)
    if end:
        yield _Block(True, a + a2, a + len(old), b + b2, b + len(new))


def _cut_at_anchors(
    old: Sequence[str], new: Sequence[str], a: int, b: int, depth: int
) -> Iterator[_Block]:
    anchors = _anchors(old, new) if depth else []
    if not anchors:
        yield _Block(False, a, a + len(old), b, b + len(new))
        return
    i = j = 0
    for here, there in [*anchors, (len(old), len(new))]:
        yield from _matched(old[i:here], new[j:there], a + i, b + j, depth - 1)
        if here < len(old):
            yield _Block(True, a + here, a + here + 1, b + there, b + there + 1)
        i, j = here + 1, there + 1


def _anchors(old: Sequence[str], new: Sequence[str]) -> list[tuple[int, int]]:
    """Lines that stand once in both, where they stand: as many as keep their order."""
    counts, others = Counter(old), Counter(new)
    places = {line: place for place, line in enumerate(new)}
    tops: list[int] = []
    chains: list[tuple[int, int, int]] = []  # (place before, place after, the one before it)
    ends: list[int] = []
    for here, line in enumerate(old):
        if counts[line] != 1 or others.get(line) != 1:
            continue
        there = places[line]
        pile = bisect_left(tops, there)
        chains.append((here, there, ends[pile - 1] if pile else -1))
        if pile == len(tops):
            tops.append(there)
            ends.append(len(chains) - 1)
        else:
            tops[pile], ends[pile] = there, len(chains) - 1
    found: list[tuple[int, int]] = []
    number = ends[-1] if ends else -1
    while number >= 0:
        here, there, number = chains[number]
        found.append((here, there))
    return found[::-1]


def _common(one: Sequence[str], other: Sequence[str]) -> int:
    """How many first lines are the same."""
    for number, (ours, theirs) in enumerate(zip(one, other, strict=False)):
        if ours != theirs:
            return number
    return min(len(one), len(other))


def _groups(blocks: Sequence[_Block]) -> Iterator[list[_Block]]:
    """Changed blocks that lie close together, each group with its context."""
    group: list[_Block] = []
    for number, block in enumerate(blocks):
        if not block.same:
            group.append(block)
            continue
        size = block.a2 - block.a1
        first, last = number == 0, number == len(blocks) - 1
        if not first and not last and size <= 2 * CONTEXT:
            group.append(block)
            continue
        if not first:
            group.append(_part(block, 0, min(CONTEXT, size)))
            yield group
        group = [] if last else [_part(block, max(0, size - CONTEXT), size)]
    if any(not block.same for block in group):
        yield group


def _part(block: _Block, start: int, end: int) -> _Block:
    return _Block(
        same=True,
        a1=block.a1 + start,
        a2=block.a1 + end,
        b1=block.b1 + start,
        b2=block.b1 + end,
    )


def _hunk(
    group: Sequence[_Block], old: Sequence[str], new: Sequence[str], max_chars: int, most: int
) -> Iterator[Line]:
    """The lines of a group, at least `most` of them or all."""
    for block in group:
        if block.same:
            for offset in range(min(block.a2 - block.a1, most)):
                number = block.a1 + offset
                yield from _line(
                    " ", [(old[number], False)], max_chars, number + 1, block.b1 + offset + 1
                )
            continue
        pairs = min(block.a2 - block.a1, block.b2 - block.b1, most)
        words = [_words(old[block.a1 + n], new[block.b1 + n]) for n in range(pairs)]
        for part in _slices(block, most):
            for number in range(part.a1, part.a2):
                offset = number - block.a1
                pieces = words[offset][0] if offset < pairs else [(old[number], False)]
                yield from _line("-", pieces, max_chars, number + 1, None)
            for number in range(part.b1, part.b2):
                offset = number - block.b1
                pieces = words[offset][1] if offset < pairs else [(new[number], False)]
                yield from _line("+", pieces, max_chars, None, number + 1)


def _slices(block: _Block, most: int) -> Iterator[_Block]:
    """A replaced block, or its beginning in parts of which the first shows both sides in `most`
    lines: else one that is cut would show only what goes."""
    removed, added = block.a2 - block.a1, block.b2 - block.b1
    if removed + added <= most:
        yield block
        return
    step = max(1, most // 2) if removed and added else most
    for start in range(0, min(max(removed, added), most), step):
        yield _Block(
            same=False,
            a1=block.a1 + min(start, removed),
            a2=block.a1 + min(start + step, removed),
            b1=block.b1 + min(start, added),
            b2=block.b1 + min(start + step, added),
        )


def _whole(lines: Sequence[Line], room: int) -> list[Line]:
    """As many first lines as there is room for; a remark stays with its line, or both go."""
    kept = list(lines[:room])
    if len(lines) > len(kept) and lines[len(kept)].mark == "\\":
        while kept and kept.pop().mark == "\\":
            pass
    return kept


def _words(old: str, new: str) -> tuple[list[tuple[str, bool]], list[tuple[str, bool]]]:
    """Two lines in parts, those that differ marked; one part each where little is alike."""
    whole = [(old, False)], [(new, False)]
    # Between words stands at least a space each: long lines need not be cut up to be counted.
    if (2 * len(old.split()) - 1) * (2 * len(new.split()) - 1) > MATCHED_WORDS:
        return whole
    ours, theirs = _WORDS.findall(old), _WORDS.findall(new)
    if not ours or not theirs or len(ours) * len(theirs) > MATCHED_WORDS:
        return whole
    matcher = SequenceMatcher(None, ours, theirs, autojunk=False)
    if matcher.ratio() < _ALIKE:
        return whole
    before: list[tuple[str, bool]] = []
    after: list[tuple[str, bool]] = []
    for kind, a1, a2, b1, b2 in matcher.get_opcodes():
        changed = kind != "equal"
        before.append(("".join(ours[a1:a2]), changed))
        after.append(("".join(theirs[b1:b2]), changed))
    return before, after


def _line(
    mark: Mark,
    parts: Sequence[tuple[str, bool]],
    max_chars: int,
    before: int | None,
    after: int | None,
) -> Iterator[Line]:
    """A line, inert and not too long, and the remarks that it needs."""
    ended = any(text.endswith("\n") for text, _ in parts)
    pieces, left = _as_is(parts, max_chars) or _cut(_shown(parts), max_chars)
    yield Line(mark=mark, pieces=pieces, before=before, after=after)
    if left:
        yield _remark(f"{left} more characters of this line are not shown")
    if not ended:
        yield _remark("no line end at the end of the content")


def _as_is(
    parts: Sequence[tuple[str, bool]], max_chars: int
) -> tuple[tuple[Piece, ...], int] | None:
    """What `_cut(_shown(parts))` gives, at once, for a line in one part that has nothing to spell
    out, as nearly all; None for others."""
    ((text, changed), *others) = parts
    line = text.removesuffix("\n")
    if others or not line or line.endswith(" ") or not is_inert(line):
        return None
    return (Piece(text=line[:max_chars], changed=changed),), max(0, len(line) - max_chars)


def _remark(text: str) -> Line:
    return Line(mark="\\", pieces=(Piece(text=f" {text}"),))


def _shown(parts: Sequence[tuple[str, bool]]) -> list[Piece]:
    """The parts inert. Spaces at the end of the line are spelled out: nobody would see them."""
    line = "".join(text for text, _ in parts).removesuffix("\n")
    solid = len(line.rstrip(" "))
    pieces: list[Piece] = []
    position = 0
    for text, changed in parts:
        shown = inert_part(line, position, min(position + len(text), max(position, solid)))
        hidden = len(line[max(position, solid) : position + len(text)])
        position += len(text)
        pieces.append(Piece(text=shown + "\\u{20}" * hidden, changed=changed))
    return [piece for piece in pieces if piece.text]


def _cut(pieces: Sequence[Piece], max_chars: int) -> tuple[tuple[Piece, ...], int]:
    """The first `max_chars` characters, never through an escape, and how many are left out."""
    total = sum(len(piece.text) for piece in pieces)
    if total <= max_chars:
        return tuple(pieces), 0
    kept: list[Piece] = []
    room = max_chars
    for piece in pieces:
        text = piece.text[:room]
        if len(text) < len(piece.text):
            text = _ESCAPE_CUT.sub(r"\1", text)
        if text:
            kept.append(Piece(text=text, changed=piece.changed))
        room -= len(piece.text)
        if room <= 0:
            break
    return tuple(kept), total - sum(len(piece.text) for piece in kept)


_ESCAPE_CUT = re.compile(r"(?<!\\)((?:\\\\)*)\\(?:u(?:\{[0-9a-f]*)?)?$")
"""An escape of `inert` that has lost its end, after whole pairs of backslashes."""
