"""The review as one HTML page that needs nothing else, runs nothing foreign and asks for nothing.

jinja2 escapes every text; our own style and script are the only ones that the page's content
security policy lets in, by their digests. The page holds everything as plain elements: the script
only filters, so that without it nothing is missing. The same document gives the same bytes.
"""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib import resources

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from hdev_memory.core.entry import Value
from hdev_memory.review import treemap
from hdev_memory.review.beside import stretches
from hdev_memory.review.document import (
    GRAVEST,
    SYMBOLS,
    Document,
    Row,
    cut,
    drifted,
    rest,
    size,
    sizes,
    totals,
    unasked,
    unread,
)

WIDE = (1200, 400, 220)
NARROW = (400, 460, 48)
"""Width, height and tiles of both maps: one is shown, as the window is."""


class Entry(Value, frozen=True):
    """A row as the page lists it: its number, and by what it can be found beside its texts."""

    row: Row
    number: int
    flags: tuple[str, ...]

    @property
    def opens(self) -> bool:
        """Whether there is more to show than the line."""
        return self.row.details is not None or bool(self.row.twins)


FLAGS = {"finding": "findings", "drift": "drift", "twins": "look-alikes"}
"""What an entry can be found by, and the word for it."""


def render(document: Document) -> str:
    """The page as text, the same bytes for the same document."""
    numbered: dict[str, list[Entry]] = {}
    found = {finding.key for finding in document.heading.findings if finding.key is not None}
    count = 0
    for kind in GRAVEST:
        numbered[kind] = [
            Entry(row=row, number=number, flags=_flags(row, found))
            for number, row in enumerate(document.rows[kind], count + 1)
        ]
        count += len(numbered[kind])
    leaves = treemap.leaves(row for kind in GRAVEST for row in document.rows[kind])
    style, script = _asset("page.css"), _asset("page.js")
    every_page = _every_page(document.heading.plan_id)
    return _environment().get_template("page.html.j2").render(
        document=document,
        heading=document.heading,
        totals=totals(document.heading.summary),
        rest=rest(document.heading.summary),
        drifted=drifted(document),
        unasked=unasked(document),
        cut=cut(document),
        unread=unread(document),
        entries=numbered,
        count=count,
        numbers={e.row.key: e.number for kind in GRAVEST for e in numbered[kind]},
        flags={
            flag: (word, sum(flag in e.flags for kind in GRAVEST for e in numbered[kind]))
            for flag, word in FLAGS.items()
        },
        maps={
            "wide": treemap.draw(leaves, *WIDE),
            "narrow": treemap.draw(leaves, *NARROW),
        },
        kinds=GRAVEST,
        symbols=SYMBOLS,
        style=style,
        every_page=every_page,
        script=script,
        style_sources=f"{_source(style)} {_source(every_page)}",
        script_source=_source(script),
    )  # fmt: skip


def _flags(row: Row, found: set[str]) -> tuple[str, ...]:
    holds = {
        "finding": row.key in found,
        "drift": row.details is not None and bool(row.details.drift),
        "twins": bool(row.twins),
    }
    return tuple(flag for flag, held in holds.items() if held)


def _every_page(plan_id: str) -> Markup:
    """The style that prints the plan id, which is hexadecimal, on each sheet of paper."""
    return Markup('@page{{@bottom-left{{content:"{}"}}}}').format(plan_id)


def _source(text: Markup) -> str:
    """How a content security policy names an inline style or script."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _read(name: str) -> str:
    return resources.files("hdev_memory.review").joinpath("page", name).read_text("utf-8")


def _asset(name: str) -> Markup:
    """Our own style or script, which goes into the page as it is."""
    return Markup(_read(name))  # noqa: S704 - a file of this package


@cache
def _environment() -> Environment:
    environment = Environment(
        autoescape=True,
        loader=FunctionLoader(_read),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"size": size, "sizes": sizes, "stretches": stretches}
    environment.filters["thousands"] = "{:,}".format
    return environment
