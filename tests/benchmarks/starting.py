"""Start-up: `hdev --help` against a Typer program that does nothing."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from tests.benchmarks.measuring import HDEV, Bench, Contender, Spent, row, run
from tests.benchmarks.results import Row

_NOTHING = """\
import typer

app = typer.Typer()


@app.command()
def main() -> None:
    pass


app()
"""


def against_typer(bench: Bench) -> Iterator[Row]:
    """What everybody waits for before anything happens."""
    program = bench.place / "nothing.py"
    program.write_text(_NOTHING)

    # The script as pip makes it, run by the same interpreter: neither side has a launcher to pay.
    def python(*words: str) -> Spent:
        return run([sys.executable, *words], home=bench.place)

    ours, theirs = bench.compare(
        Contender("hdev", "hdev --help", lambda: python(HDEV, "--help")),
        Contender("Typer", "a Typer program that does nothing", lambda: python(str(program))),
        rounds=5 if bench.quick else 20,
    )
    yield row("start-up", "s", ours, theirs, "start")
