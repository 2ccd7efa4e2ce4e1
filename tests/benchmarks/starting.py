"""Start-up: `hdev --help` against a Typer program that does nothing."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.benchmarks.measuring import HDEV, Missing, Row, interleaved, run

_NOTHING = """\
import typer

app = typer.Typer()


@app.command()
def main() -> None:
    pass


app()
"""


def against_typer(place: Path, *, rounds: int) -> list[Row | Missing]:
    """What everybody waits for before anything happens."""
    program = place / "nothing.py"
    program.write_text(_NOTHING)
    # The script as pip makes it, run by the same interpreter: neither side has a launcher to pay.
    ours, theirs = interleaved(
        rounds,
        lambda: run([sys.executable, HDEV, "--help"], home=place).seconds,
        lambda: run([sys.executable, str(program)], home=place).seconds,
    )
    return [
        Row(
            name="start-up",
            command="hdev --help",
            peer="a Typer program that does nothing",
            unit="s",
            ours=ours,
            theirs=theirs,
            aim=1.5,
        )
    ]
