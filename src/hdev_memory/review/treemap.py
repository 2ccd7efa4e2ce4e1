"""A map of a plan: one tile for each action, or for each group of them, its area by size.

The layout is the squarified treemap of Bruls, Huizing and van Wijk (2000), nested by the segments
of keys. It is bounded: what does not get a tile of its own shares one with others of its kind.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from unicodedata import east_asian_width

from hdev_memory.core.entry import Value
from hdev_memory.review.document import SYMBOLS, Row, size, sizes

SMALLEST = 8
"""An action weighs at least an eighth of the mean, also one of no size: none disappears."""

GAP = 1.5
HEADER = 17.0
CHAR = 6.7
"""Width of a label's character, in the units of the map."""


class Box(Value, frozen=True):
    x: float
    y: float
    width: float
    height: float

    def inside(self, top: float = 0.0) -> Box:
        """The box without a margin, and without `top` more at its top."""
        return Box(
            x=self.x + GAP,
            y=self.y + GAP + top,
            width=max(0.0, self.width - 2 * GAP),
            height=max(0.0, self.height - 2 * GAP - top),
        )


class Tile(Value, frozen=True):
    """One action, or `count` of one kind; `prefix` is what their keys begin with.

    `number` is that of the first of them in the listing.
    """

    box: Box
    kind: str
    prefix: str
    number: int
    count: int
    label: str
    title: str


class Region(Value, frozen=True):
    """The frame of a prefix that has tiles of its own; `label` is empty where there is no room."""

    box: Box
    prefix: str
    number: int
    label: str
    title: str


class Map(Value, frozen=True):
    width: int
    height: int
    regions: tuple[Region, ...]
    tiles: tuple[Tile, ...]


class Leaf(Value, frozen=True):
    """One action on the map: its number in the listing, and its weight."""

    row: Row
    number: int
    weight: float


class _Part(Value, frozen=True):
    """Leaves that lie together: one, or all below `prefix`; the `rest` of it has no frame.

    `start` is where the names begin that tell it from its neighbours.
    """

    prefix: str
    leaves: Sequence[Leaf]
    start: int
    rest: bool = False

    @property
    def weight(self) -> float:
        return sum(leaf.weight for leaf in self.leaves)


def leaves(rows: Iterable[Row]) -> list[Leaf]:
    """The rows with their numbers from 1 and their weights, by key."""
    found = list(rows)
    total = sum(_bytes(row) for row in found)
    least = max(1.0, total / (SMALLEST * max(1, len(found))))
    weighed = [
        Leaf(row=row, number=number, weight=max(least, _bytes(row)))
        for number, row in enumerate(found, 1)
    ]
    return sorted(weighed, key=lambda leaf: (leaf.row.key, leaf.number))


def draw(found: Sequence[Leaf], width: int, height: int, most: int) -> Map:
    """A map of about `most` tiles, whatever the number of leaves."""
    whole = Box(x=-GAP, y=-GAP, width=width + 2 * GAP, height=height + 2 * GAP)
    made = list(_placed(found, whole.inside(), most)) if found else []
    return Map(
        width=width,
        height=height,
        regions=tuple(one for one in made if isinstance(one, Region)),
        tiles=tuple(one for one in made if isinstance(one, Tile)),
    )


def squarify(weights: Sequence[float], box: Box) -> list[Box]:
    """A part of the box for each weight, in proportion; `weights` are positive and fall."""
    boxes: list[Box] = []
    scale = box.width * box.height / sum(weights)
    areas = [weight * scale for weight in weights]
    start = 0
    while start < len(areas):
        side = min(box.width, box.height)
        end, taken = start + 1, areas[start]
        while end < len(areas) and _worst(
            areas[start], areas[end], taken + areas[end], side
        ) <= _worst(areas[start], areas[end - 1], taken, side):
            taken += areas[end]
            end += 1
        row, box = _row(areas[start:end], taken, box)
        boxes += row
        start = end
    return boxes


def _worst(largest: float, smallest: float, taken: float, side: float) -> float:
    """The worst ratio of sides in a row of areas along a side; no room at all is as bad as any."""
    if not side or not smallest:
        return float("inf")
    return max(side * side * largest / (taken * taken), taken * taken / (side * side * smallest))


def _row(areas: Sequence[float], taken: float, box: Box) -> tuple[list[Box], Box]:
    """The areas side by side along the shorter side of the box, and what is left of it."""
    upright = box.width >= box.height
    side = box.height if upright else box.width
    thick = taken / side if side else 0.0
    boxes, at = [], box.y if upright else box.x
    for area in areas:
        long = area / thick if thick else 0.0
        boxes.append(
            Box(x=box.x, y=at, width=thick, height=long)
            if upright
            else Box(x=at, y=box.y, width=long, height=thick)
        )
        at += long
    if upright:
        rest = Box(x=box.x + thick, y=box.y, width=max(0.0, box.width - thick), height=box.height)
    else:
        rest = Box(x=box.x, y=box.y + thick, width=box.width, height=max(0.0, box.height - thick))
    return boxes, rest


def _placed(found: Sequence[Leaf], box: Box, most: int) -> Iterator[Region | Tile]:
    parts = sorted(_parts(found, most), key=lambda part: (-part.weight, part.prefix, part.rest))
    total = sum(part.weight for part in parts)
    for part, place in zip(parts, squarify([part.weight for part in parts], box), strict=True):
        room = int(most * part.weight / total)
        if len(part.leaves) == 1:
            yield _tile(part, part.leaves, place)
        elif part.rest:
            yield from _by_kind(part, place)
        elif room < 2 or place.width < 48 or place.height < 44:
            yield _region(part, place, labelled=False)
            yield from _by_kind(part, place.inside())
        else:
            yield _region(part, place)
            yield from _placed(part.leaves, place.inside(HEADER), room)


def _parts(found: Sequence[Leaf], most: int) -> list[_Part]:
    """The leaves by the next segment of their keys; the lightest together where they are many."""
    ends = [found[0].row.key, found[-1].row.key]
    common = os.path.commonprefix(ends)  # noqa: RUF071 - it is cut at its last slash
    start = common.rfind("/") + 1
    parts = [
        _Part(prefix=prefix, leaves=list(together), start=start)
        for prefix, together in groupby(found, key=lambda leaf: _segment(leaf.row.key, start))
    ]
    if len(parts) <= max(2, most):
        return parts
    parts.sort(key=lambda part: (-part.weight, part.prefix))
    kept, others = parts[: max(1, most - 1)], parts[max(1, most - 1) :]
    gathered = sorted(
        (leaf for part in others for leaf in part.leaves), key=lambda leaf: leaf.number
    )
    return [*kept, _Part(prefix=common[:start], leaves=gathered, start=start, rest=True)]


def _segment(key: str, start: int) -> str:
    end = key.find("/", start)
    return key if end < 0 else key[: end + 1]


def _by_kind(part: _Part, box: Box) -> Iterator[Tile]:
    """A tile for each kind of action: a colour never stands for two."""
    kinds: dict[str, list[Leaf]] = {}
    for leaf in part.leaves:
        kinds.setdefault(leaf.row.kind, []).append(leaf)
    groups = sorted(kinds.values(), key=lambda group: -sum(leaf.weight for leaf in group))
    weights = [sum(leaf.weight for leaf in group) for group in groups]
    for group, place in zip(groups, squarify(weights, box), strict=True):
        yield _tile(part, group, place)


def _tile(part: _Part, group: Sequence[Leaf], box: Box) -> Tile:
    first = min(group, key=lambda leaf: leaf.number)
    row, box = first.row, box.inside()
    symbol = SYMBOLS[row.kind]
    if len(group) == 1:
        prefix, name = row.key, row.key[part.start :]
        title = f"{symbol} {row.kind} {row.key}  {sizes(row)}".rstrip()
    else:
        prefix = part.prefix
        name = f"{len(group)} in {prefix.rstrip('/').rpartition('/')[2] or 'all'}"
        held = size(sum(_bytes(leaf.row) for leaf in group))
        title = f"{symbol} {len(group)} to {row.kind} in {prefix or 'all'}, {held}"
    return Tile(
        box=_rounded(box),
        kind=row.kind,
        prefix=prefix,
        number=first.number,
        count=len(group),
        label=_fitting(f"{symbol} {name}", box.width - 8) if box.height >= 16 else "",
        title=title,
    )


def _region(part: _Part, box: Box, *, labelled: bool = True) -> Region:
    name = part.prefix.rstrip("/").rpartition("/")[2] + "/"
    held = size(sum(_bytes(leaf.row) for leaf in part.leaves))
    return Region(
        box=_rounded(box.inside()),
        prefix=part.prefix,
        number=min(leaf.number for leaf in part.leaves),
        label=_fitting(name, box.width - 12) if labelled else "",
        title=f"{part.prefix}: {len(part.leaves)} actions, {held}",
    )


def _rounded(box: Box) -> Box:
    return Box(
        x=round(box.x, 1), y=round(box.y, 1),
        width=round(box.width, 1), height=round(box.height, 1),
    )  # fmt: skip


def _fitting(text: str, width: float) -> str:
    """The text, or as much of it as fits; only its symbol where little does."""
    if _width(text) <= width:
        return text
    while text and _width(text) + CHAR > width:
        text = text[:-1]
    if len(text) >= 5:
        return text + "…"
    return text[:1]


def _width(text: str) -> float:
    return CHAR * sum(2 if east_asian_width(char) in "WF" else 1 for char in text)


def _bytes(row: Row) -> int:
    """The larger of both sizes; 0 where neither is known."""
    return max(row.before or 0, row.after or 0)
