"""The review in a terminal: summary first and last, a block for each kind, never colour alone.

Lines are laid out here, one after the other: a table of rich's measures all of its rows first, and
takes minutes over a plan of a hundred thousand. Each physical line begins with a mark of ours, also
where a long one is folded, so that no content can pass for a line of the review.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import zip_longest

from rich.cells import cell_len, get_character_cell_size
from rich.color import ColorSystem
from rich.style import Style

from hdev_memory.review.contents import ContentChange, Line
from hdev_memory.review.document import (
    KINDS,
    SYMBOLS,
    Document,
    EndLine,
    FindingLine,
    Heading,
    Row,
    approval,
    lines_changed,
    rest,
    sizes,
    totals,
    warnings,
)

STYLES = {
    "create": "green",
    "overwrite": "yellow",
    "delete": "red",
    "skip": "dim",
    "blocked": "magenta",
}
_LEVELS = {"advisory": "bold", "soft": "bold yellow", "hard": "bold red"}
_MARKS = {"+": "green", "-": "red", " ": "", "\\": "dim"}

_FOLDED = "  ⋮ "
"""What a row's line begins with where its key or its reason goes on."""
_CONTENT, _GOES_ON = "    │ ", "    ┊ "
"""What a line of content begins with, and the rest of one that is wider than the terminal."""
_MORE = "⋮ "
_KEY_SHARE = 0.5


@dataclass(frozen=True)
class Look:
    """How wide the terminal is in columns, and whether it takes colour."""

    width: int
    colour: bool


Span = tuple[str, str]
"""A text and its style, empty for none."""


def render(document: Document, *, width: int, colour: bool) -> str:
    """The review as text for a terminal `width` columns wide."""
    look = Look(width, colour)
    lines = [*head(document.heading, look), *body(document, look)]
    return "\n".join(lines) + "\n"


def head(heading: Heading, look: Look) -> Iterator[str]:
    """The first lines, which need no more than the plan's frame: they can be shown at once."""
    yield from folded(totals(heading.summary), look, "bold")
    for label, text in _facts(heading):
        yield from beside(look, label, text, label_style="dim")


def body(document: Document, look: Look) -> Iterator[str]:
    """The lines below the head: the actions, the findings, and the totals once more."""
    loud = [*warnings(document), *filter(None, [document.why])]
    for text in loud:
        yield from _warned(text, look)
    for kind in KINDS:
        if document.rows[kind] or document.omitted[kind]:
            yield ""
            yield from _block(document, kind, look)
    if document.heading.findings:
        yield ""
        yield _painted([(f"Findings ({document.heading.found})", "bold")], look)
        for finding in document.heading.findings:
            yield from _finding(finding, look)
    yield ""
    for text in loud:
        yield from _warned(text, look)
    yield from folded(totals(document.heading.summary), look, "bold")
    yield from folded(rest(document.heading.summary), look)
    yield f"Plan id {document.heading.plan_id}"  # never folded: it is there to be copied


def _facts(heading: Heading) -> Iterator[tuple[str, str]]:
    """What stands in the head: labels of one width, and texts."""
    yield from _end("source", heading.source, f"CAS {heading.source.cas}")
    target = f"CAS {heading.target.cas}: {heading.target.promises}"
    yield from _end("target", heading.target, target)
    yield "options  ", heading.options
    until = f", expires {heading.expires}" if heading.expires else ", does not expire"
    by = f" by {heading.author}" if heading.author is not None else ""
    yield "made     ", f"{heading.created}{by}{until}"
    yield "effect   ", f"sha256:{heading.effect}"
    if heading.audit is not None:
        audit = heading.audit
        yield "audit    ", f"{audit.seq}:{audit.digest}"
        yield " " * 9, f"{audit.event} {audit.time}"
    for one in heading.approvals:
        yield "approval ", approval(one)


def _end(side: str, end: EndLine, level: str) -> Iterator[tuple[str, str]]:
    yield f"{side:9}{end.kind:10}  ", end.location
    yield " " * 9, level


def _block(document: Document, kind: str, look: Look) -> Iterator[str]:
    rows, omitted = document.rows[kind], document.omitted[kind]
    yield _painted(
        [(f"{SYMBOLS[kind]} {kind} ({len(rows) + omitted})", f"bold {STYLES[kind]}")], look
    )
    room = look.width - len(_FOLDED)
    key_width = min(
        max((cell_len(row.key) for row in rows), default=0), max(8, int(room * _KEY_SHARE))
    )
    size_width = max((len(sizes(row)) for row in rows), default=0)
    for row in rows:
        yield from _row(row, look, key_width, size_width)
        yield from _below(row, look)
    if omitted:
        left = f"  … and {omitted} more to {kind}; show them with --full"
        yield from folded(left, look, "bold")


def _row(row: Row, look: Look, key_width: int, size_width: int) -> Iterator[str]:
    """A row in columns; a reason that has no room beside the key goes below it."""
    style = STYLES[row.kind]
    reason_width = look.width - len(_FOLDED) - key_width - size_width - 4
    reason = "  ".join(filter(None, (lines_changed(row.details), row.reason)))
    fits = reason_width >= min(16, len(reason))
    keys = _cells(row.key, key_width)
    reasons = _prose(reason, reason_width) if fits else []
    for number, (key, told) in enumerate(zip_longest(keys, reasons, fillvalue="")):
        first = number == 0
        size = sizes(row) if first else ""
        spans = [
            (f"  {SYMBOLS[row.kind]} ", style) if first else (_FOLDED, "dim"),
            (key + " " * (key_width - cell_len(key)), style),
            (f"  {size:>{size_width}}", ""),
            (f"  {told}", "dim"),
        ]
        yield _painted(spans, look)
    if not fits:
        yield from beside(look, _FOLDED, reason, "dim", "dim")


def _below(row: Row, look: Look) -> Iterator[str]:
    """What there is to say of an entry beside its row."""
    for twin in row.twins:
        yield from beside(look, "    ! looks like ", twin, "bold", "bold")
    details = row.details
    if details is None:
        return
    if details.drift:
        yield from beside(look, "    ! DRIFT: ", details.drift, "bold red", "bold red")
    if details.note:
        yield from beside(look, "    * ", details.note, "bold", "bold")
    for change in details.metadata:
        style, told = ("dim", "bookkeeping ") if change.bookkeeping else ("", "metadata ")
        yield from beside(look, f"    * {told}", change.line, style, "dim")
    if details.metadata_left:
        yield from folded(f"    * … and {details.metadata_left} more of metadata", look, "bold")
    if details.content is not None:
        yield from _content(details.content, look)


def _content(content: ContentChange, look: Look) -> Iterator[str]:
    for hunk in content.hunks:
        yield _painted([(_CONTENT, "dim"), (hunk.header, "cyan")], look)
        for line in hunk.lines:
            yield from _content_line(line, look)
    if content.left:
        left = f"    … {content.left} more lines of this difference are not shown"
        yield from folded(left, look, "bold")


def _content_line(line: Line, look: Look) -> Iterator[str]:
    style = _MARKS[line.mark]
    spans: list[Span] = [(line.mark, style)] + [
        (piece.text, f"{style} bold reverse" if piece.changed else style) for piece in line.pieces
    ]
    for number, part in enumerate(_fold(spans, look.width - len(_CONTENT))):
        yield _painted([(_GOES_ON if number else _CONTENT, "dim"), *part], look)


def _finding(finding: FindingLine, look: Look) -> Iterator[str]:
    label = f"  {finding.level:8}  "
    told = f"{finding.rule}  {finding.text}"
    yield from beside(look, label, told, "", _LEVELS[finding.level])
    if finding.key is not None:
        yield from beside(look, " " * 10 + "at ", finding.place, "bold", "dim")
    if finding.digest is not None:
        yield from beside(look, " " * 10 + "is ", finding.digest, "", "dim")


def _warned(text: str, look: Look) -> Iterator[str]:
    yield from beside(look, "! ", text, "bold red", "bold red")


def folded(text: str, look: Look, style: str = "") -> Iterator[str]:
    """Text of ours; where it goes on below, behind a mark as well."""
    if cell_len(text) <= look.width:
        yield _painted([(text, style)], look)
        return
    for number, line in enumerate(_prose(text, look.width - len(_MORE))):
        yield _painted([(_MORE, "dim"), (line, style)] if number else [(line, style)], look)


def beside(
    look: Look, label: str, text: str, style: str = "", label_style: str = ""
) -> Iterator[str]:
    """A text beside a label; what is too wide goes on below, behind a mark of ours.

    The mark is there for a label of spaces as well: a build service skips these, and would take
    what follows for a command where a line happens to be folded before one.
    """
    below = f"{'⋮ ':>{len(label)}}"
    for number, line in enumerate(_prose(text, look.width - len(label))):
        before = (below, "dim") if number else (label, label_style)
        yield _painted([before, (line, style)], look)


def _prose(text: str, width: int) -> list[str]:
    """The text in lines of at most `width` cells, at spaces where there are any.

    Behind a line that is full the space goes to the next one: else a word that had to be cut there
    would look like two.
    """
    if cell_len(text) <= width:
        return [text]
    lines: list[str] = []
    line, room = None, 0
    for word in text.split(" "):
        if line is not None and cell_len(word) < room:
            line, room = f"{line} {word}", room - cell_len(word) - 1
            continue
        if line is not None:
            lines.append(line)
            if cell_len(line) >= width - 1:
                word = f" {word}"
        *full, line = _cells(word, width)
        lines += full
        room = width - cell_len(line)
    return [*lines, line or ""]


def _cells(text: str, width: int) -> list[str]:
    """The text in lines of at most `width` cells, filled whatever stands there."""
    ends = list(_ends(text, width))
    return [text[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def _fold(spans: Sequence[Span], width: int) -> Iterator[list[Span]]:
    """The spans in lines of at most `width` cells; always one line at least."""
    start = 0
    for end in _ends("".join(text for text, _ in spans), width):
        yield list(_part(spans, start, end))
        start = end


def _part(spans: Iterable[Span], start: int, end: int) -> Iterator[Span]:
    position = 0
    for text, style in spans:
        part = text[max(0, start - position) : max(0, end - position)]
        if part:
            yield part, style
        position += len(text)


def _ends(text: str, width: int) -> Iterator[int]:
    """Where the lines of a folded text end. Spaces go to the next line, where they are seen."""
    end = 0
    while True:
        start, end = end, _fitting(text, end, width)
        if end < len(text):
            end = start + (len(text[start:end].rstrip(" ")) or end - start)
        yield end
        if end >= len(text):
            return


def _fitting(text: str, start: int, width: int) -> int:
    """The end of what fits into so many cells from `start` on: one character at least."""
    if text.isascii():
        return min(len(text), start + width)
    for end in range(start, len(text)):
        width -= get_character_cell_size(text[end])
        if width < 0:
            return max(end, start + 1)
    return len(text)


def _painted(spans: Iterable[Span], look: Look) -> str:
    """One line; spaces at its end go, and colour is a matter of ANSI sequences alone."""
    spans = list(spans)
    while spans and not spans[-1][0].rstrip(" "):
        spans.pop()
    if spans:
        spans[-1] = spans[-1][0].rstrip(" "), spans[-1][1]
    if not look.colour:
        return "".join(text for text, _ in spans)
    return "".join(
        _style(style).render(text, color_system=ColorSystem.STANDARD) if style else text
        for text, style in spans
    )


@cache
def _style(definition: str) -> Style:
    return Style.parse(definition)
