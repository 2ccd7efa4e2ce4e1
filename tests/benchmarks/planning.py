"""Planning folder to folder: how long against rsync's dry run by checksum, and how much memory."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from tests.benchmarks import corpus
from tests.benchmarks.measuring import HDEV, Missing, Row, interleaved, run

ENTRIES = 10_000


def against_rsync(place: Path, *, rounds: int) -> list[Row | Missing]:
    """Both sides full, with one entry in a hundred changed; and the target empty."""
    rsync = shutil.which("rsync")
    if rsync is None:
        return [Missing("plan folder to folder", "rsync (Debian: apt-get install rsync)")]
    for name, changed in (("source", 0), ("target", ENTRIES // 100)):
        corpus.make(place / name, ENTRIES, changed=changed)
    (place / "empty").mkdir()
    return [
        _row(place, rsync, "target", f"plan, {ENTRIES:,} entries on both sides", rounds),
        _row(place, rsync, "empty", f"plan, {ENTRIES:,} entries, empty target", rounds),
    ]


def _row(place: Path, rsync: str, target: str, name: str, rounds: int) -> Row:
    ours, theirs = interleaved(
        rounds,
        lambda: run(_plan(place, target), home=place).seconds,
        lambda: run([rsync, "-rnc", "source/", f"{target}/"], home=place).seconds,
    )
    return Row(
        name=name,
        command=f"hdev plan filesystem:source filesystem:{target} --overwrite",
        peer=f"rsync -rnc source/ {target}/",
        unit="s",
        ours=ours,
        theirs=theirs,
        aim=2.0,
    )


def _plan(place: Path, target: str) -> list[str]:
    out = tempfile.mkdtemp(prefix="plan-", dir=place)
    return [
        HDEV, "plan", "filesystem:source", f"filesystem:{target}", "--overwrite", "-o", out
    ]  # fmt: skip


def peak_memory(place: Path, *, entries: int, rounds: int) -> list[Row | Missing]:
    """The peak of the planning process, once with all entries the same and once with all new."""
    for name in ("source", "target"):
        corpus.make(place / name, entries)
    (place / "empty").mkdir()
    return [
        Row(
            name=f"peak memory, {entries:,} entries, {what}",
            command=f"hdev plan filesystem:source filesystem:{target} --overwrite",
            peer="",
            unit="MB",
            ours=[run(_plan(place, target), home=place).megabytes for _ in range(rounds)],
            theirs=(),
            aim=150,
        )
        for target, what in (("target", "both sides full"), ("empty", "empty target"))
    ]
