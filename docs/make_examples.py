"""Makes the example plan below `plans/`, the README's pictures and the schemas, with the tool.

`python -m docs.make_examples`; the picture of the page is taken by the browser of the tests.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path

from rich.console import Console
from rich.text import Text
from tests.browser import Browser

from hdev_memory.cli import demo, schema, steps
from hdev_memory.config import EndFlags, load, resolve
from hdev_memory.review import document, html, terminal

ROOT = Path(__file__).parent.parent


def main() -> None:
    """Plan a small promotion between two folders, and draw its review."""
    place = ROOT / "plans" / "example"
    shutil.rmtree(place, ignore_errors=True)
    with tempfile.TemporaryDirectory() as home:
        os.environ |= {"HOME": home, "HDEV_ACTOR": "example"}
        demo._fill(Path(home) / "laptop", demo.SAMPLE)
        demo._fill(Path(home) / "production", demo.ON_SERVER)
        source = EndFlags(kind="filesystem", path="~/laptop")
        target = EndFlags(kind="filesystem", path="~/production")
        resolved = resolve(load({}, Path(home), Path(home)), source, target)
        wish = steps.Wish(overwrite=True, delete=True, expires="never")
        with (
            steps.opened_ends(resolved.source, resolved.target) as ends,
            steps.make_plan(resolved, ends, wish, place, place.parent) as opened,
        ):
            described = steps.Reviewer(ends)(opened, "example")
            draw(described)
            photograph(described, Path(home) / "review.html")
    (place / "approvals" / ".gitkeep").touch()
    write_schemas()


def write_schemas() -> None:
    """What `hdev schema` prints of each form, in docs/schemas."""
    for form in schema.FORMS:
        text = json.dumps(schema.document(form), indent=2) + "\n"
        (ROOT / "docs" / "schemas" / f"{form}.schema.json").write_text(text)


def draw(described: document.Document) -> None:
    """The review, recorded by rich, as an SVG."""
    with Path(os.devnull).open("w") as nowhere:
        console = Console(record=True, width=88, force_terminal=True, file=nowhere, highlight=False)
        for line in terminal.render(described, width=88, colour=True).splitlines():
            console.print(Text.from_ansi(line))
        svg = console.export_svg(title="hdev show plans/example", unique_id="review")
    (ROOT / "docs" / "review.svg").write_text(svg)


def photograph(described: document.Document, page: Path) -> None:
    """The first window of the HTML review, as a PNG."""
    page.write_text(html.render(described))
    with Browser() as browser:
        browser.window(1280, 1000)
        browser.open(page)
        (ROOT / "docs" / "review.png").write_bytes(browser.picture())


if __name__ == "__main__":
    main()
