"""Makes the example plan below `plans/`, the README's picture and the schemas, with the tool."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path

from rich.console import Console

from hdev_memory import plandir
from hdev_memory.cli import demo, schema, steps
from hdev_memory.config import EndFlags, load, resolve
from hdev_memory.review import document, terminal

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
            draw(opened)
    (place / "approvals" / ".gitkeep").touch()
    write_schemas()


def write_schemas() -> None:
    """What `hdev schema` prints of each form, in docs/schemas."""
    for form in schema.FORMS:
        text = json.dumps(schema.document(form), indent=2) + "\n"
        (ROOT / "docs" / "schemas" / f"{form}.schema.json").write_text(text)


def draw(opened: plandir.OpenPlan) -> None:
    """The review, recorded by rich, as an SVG."""
    with Path(os.devnull).open("w") as nowhere:
        console = Console(record=True, width=88, force_terminal=True, file=nowhere, highlight=False)
        terminal.draw(document.describe(opened, name="example"), console)
        svg = console.export_svg(title="hdev show plans/example", unique_id="review")
    (ROOT / "docs" / "review.svg").write_text(svg)


if __name__ == "__main__":
    main()
