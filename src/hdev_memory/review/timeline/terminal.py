"""The timeline as plain lines for a terminal or a pipe."""

from __future__ import annotations

from collections.abc import Iterator

from hdev_memory.review.timeline.story import Closing, Opening, Part, Row, Tone, Totals, summed_up

_COLOURS: dict[Tone, str] = {"plain": "", "done": "\x1b[32m", "bad": "\x1b[31m"}


def render(totals: Totals, parts: Iterator[Part], *, colour: bool) -> Iterator[str]:
    """The lines, each with its LF."""
    yield f"Plan {totals.plan}\n"
    yield f"Log  {totals.records} records of {totals.runs} runs, intact; head {totals.head}\n"
    if totals.records:
        yield f"     {totals.first} to {totals.last}\n"
    for part in parts:
        match part:
            case Opening():
                yield "\n" + _paint(_opening(part), "\x1b[1m", colour)
            case Row():
                yield _paint(_row(part), _COLOURS[part.tone], colour)
            case Closing():
                yield _paint("  " + summed_up(part), _COLOURS[part.tone], colour)


def _paint(line: str, start: str, colour: bool) -> str:
    return f"{start}{line}\x1b[0m\n" if colour and start else f"{line}\n"


def _opening(part: Opening) -> str:
    return f"{part.time}  {part.title} by {part.actor}  (run {part.run})"


def _row(row: Row) -> str:
    clock = row.time[11:-1]
    about = f"{row.action} {row.key}".strip()
    words = (
        f"  {clock}  {row.event:8}",
        about,
        row.change,
        f"({row.remark})" if row.remark else "",
    )
    return "  ".join(word for word in words if word).rstrip()
