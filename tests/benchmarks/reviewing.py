"""Showing a plan: how long a whole review takes, when its first byte comes, how much memory."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from tests.benchmarks import corpus
from tests.benchmarks.measuring import HDEV, Missing, Row, first_byte, run

RENDERED = 10_000
AIMS = {"markdown": 2.0, "html": 5.0}
"""Seconds for a review of all the actions."""


def plans(place: Path, *, entries: int, rounds: int) -> list[Row | Missing]:
    """Reviews of 10,000 actions, half of them overwrites; and of `entries` new entries."""
    large = _plan(place, "large", entries, changed=0)
    whole = _plan(place, "whole", RENDERED, changed=RENDERED // 2)
    show = [HDEV, "show", str(large)]
    row = partial(Row, peer="", theirs=())
    return [
        *(
            row(
                name=f"review of {RENDERED:,} actions, {form}",
                command=f"hdev show PLAN --full --format {form}",
                unit="s",
                ours=[
                    run([HDEV, "show", str(whole), "--full", "--format", form], home=place).seconds
                    for _ in range(rounds)
                ],
                aim=aim,
            )
            for form, aim in AIMS.items()
        ),
        row(
            name=f"first byte of a review of {entries:,} actions",
            command="hdev show PLAN",
            unit="s",
            ours=[first_byte(show, home=place) for _ in range(rounds)],
            aim=1.0,
        ),
        row(
            name=f"peak memory, review of {entries:,} actions",
            command="hdev show PLAN",
            unit="MB",
            ours=[run(show, home=place).megabytes for _ in range(rounds)],
            aim=150,
        ),
    ]


def _plan(place: Path, name: str, entries: int, *, changed: int) -> Path:
    """A plan of `entries` actions; `changed` of them overwrite."""
    source, target, out = (place / f"{name}-{what}" for what in ("source", "target", "plan"))
    corpus.make(source, entries)
    if changed:
        corpus.make(target, changed, changed=changed)
    else:
        target.mkdir()
    ends = [f"filesystem:{source}", f"filesystem:{target}"]
    run([HDEV, "plan", *ends, "--overwrite", "-o", str(out)], home=place)
    return out
