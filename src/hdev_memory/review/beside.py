"""A difference in two columns: what was on the left, what will be on the right."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from hdev_memory.core.entry import Value
from hdev_memory.review.contents import Hunk, Line, Piece


class Cell(Value, frozen=True):
    """One line of one side, with the remarks about it."""

    number: int | None
    pieces: tuple[Piece, ...]
    remarks: tuple[str, ...] = ()


class Stretch(Value, frozen=True):
    """Lines that are the same on both sides, or that took each other's place."""

    same: bool
    before: tuple[Cell, ...]
    after: tuple[Cell, ...]


def stretches(hunk: Hunk) -> Iterator[Stretch]:
    """The lines of a hunk, each changed stretch with both of its sides."""
    for same, together in groupby(_remarked(hunk.lines), key=lambda one: one[0].mark == " "):
        lines = list(together)
        yield Stretch(
            same=same,
            before=tuple(
                Cell(number=line.before, pieces=line.pieces, remarks=remarks)
                for line, remarks in lines
                if line.mark in " -"
            ),
            after=tuple(
                Cell(number=line.after, pieces=line.pieces, remarks=remarks)
                for line, remarks in lines
                if line.mark in " +"
            ),
        )


def _remarked(lines: Sequence[Line]) -> Iterator[tuple[Line, tuple[str, ...]]]:
    """Each line of content with the remarks that follow it."""
    starts = [number for number, line in enumerate(lines) if line.mark != "\\"]
    for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
        yield lines[start], tuple(line.text.strip() for line in lines[start + 1 : end])
