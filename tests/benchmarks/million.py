"""A memory of a million entries: a plan and an apply end, and do not grow with it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

from tests.benchmarks import corpus
from tests.benchmarks.measuring import Bench, Contender, peaks, row
from tests.benchmarks.results import Left, Row

_BYTES_EACH = 3 * 8 * 1024  # source, target and a plan: two files of one block or more
_FILES_EACH = 5  # and folders


def folders(bench: Bench) -> Iterator[Row]:
    """Into an empty folder, once; then a plan with both sides full."""
    entries = 20_000 if bench.quick else 1_000_000
    name = f"{entries:,} entries"
    space, files = shutil.disk_usage(bench.place).free, os.statvfs(bench.place).f_favail
    if space < entries * _BYTES_EACH or files < entries * _FILES_EACH:
        why = f"it needs {entries * _BYTES_EACH / 1e9:.0f} GB and {entries * _FILES_EACH:,} inodes"
        for aim in ("million-plan", "million-apply"):
            yield Left(name=name, why=f"{why}; free are {space / 1e9:.0f} GB, {files:,}", aim=aim)
        return
    source, target = bench.place / "source", bench.place / "target"
    corpus.make(source, entries)
    target.mkdir()
    ends = (f"filesystem:{source}", f"filesystem:{target}")
    out = bench.out()

    def plan(into: str) -> Contender:
        words = ["plan", *ends, "--no-cache", "-o", into]
        command = "hdev plan SOURCE TARGET --no-cache"
        return Contender("hdev plan", command, lambda: bench.hdev(*words))

    (planned,) = bench.compare(plan(out), rounds=1, warm_up=False)
    yield row(f"plan of {name}, empty target", "s", planned)
    memory = "peak memory of"
    yield row(f"{memory} a plan of {name}, empty target", "MB", peaks(planned), aim="million-plan")
    apply = Contender("hdev apply", "hdev apply PLAN", lambda: bench.hdev("apply", out))
    (applied,) = bench.compare(apply, rounds=1, warm_up=False)
    yield row(f"durable apply of {name}", "s", applied)
    yield row(f"{memory} an apply of {name}", "MB", peaks(applied), aim="million-apply")
    (again,) = bench.compare(plan(bench.out()), rounds=1, warm_up=False)
    yield row(f"plan of {name} on both sides, nothing to do", "s", again)
    yield row(f"{memory} a plan of {name} on both sides", "MB", peaks(again), aim="million-plan")
