"""Applying folder to folder: what durability, pre-images and a resume cost."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.benchmarks import corpus, peers
from tests.benchmarks.measuring import HDEV, Bench, Contender, Spent, environ, row, run
from tests.benchmarks.results import Row

_LARGE = 20
_RESTIC = {"RESTIC_PASSWORD": "benchmark"}
_GIT = ["-c", "core.fsync=all", "-c", "core.fsyncMethod=batch", "-c", "gc.auto=0"]
_GIT_AUTHOR = ["-c", "user.name=Benchmark", "-c", "user.email=benchmark@example.org"]


def folders(bench: Bench) -> Iterator[Row]:
    """New entries, then overwrites, against rsync with and without its own syncing."""
    entries = 1_000 if bench.quick else 10_000
    source, older = bench.store(entries), bench.store(entries, edited_every=1)
    ours, plain, synced = bench.compare(
        _ours(bench, source),
        _rsync(bench, source, "-a"),
        _rsync(bench, source, "-a", "--fsync"),
    )
    what = f"durable apply, {entries:,} new entries"
    yield row(f"{what}, against rsync -a", "s", ours, plain, "apply-rsync")
    yield row(f"{what}, against rsync -a --fsync", "s", ours, synced, "apply-fsync")
    ours, synced = bench.compare(
        _ours(bench, source, onto=older),
        _rsync(bench, source, "-a", "--fsync", "--checksum", onto=older),
        warm_up=False,
    )
    yield row(
        f"durable apply, {entries:,} overwrites with pre-images",
        "s",
        ours,
        synced,
    )


def resume(bench: Bench) -> Iterator[Row]:
    """An apply is killed when half of it is done, and run again."""
    entries = 1_000 if bench.quick else 10_000
    source = bench.store(entries)
    measured: tuple[list[Spent], list[Spent]] = [], []

    def side(which: int) -> Spent:
        if not measured[which]:  # both come of one kill
            for figures, spent in zip(measured, _resumed(bench, source, entries), strict=True):
                figures.append(spent)
        return measured[which].pop()

    ours, rest = bench.compare(
        Contender("hdev apply", "hdev apply PLAN, after a kill", lambda: side(0)),
        Contender("apply of the rest", "hdev apply PLAN, with just the rest", lambda: side(1)),
        warm_up=False,
    )
    name = f"resume of {entries:,} new entries, killed at half"
    yield row(name, "s", ours, rest, "resume")


def copies(bench: Bench) -> Iterator[Row]:
    """A durable copy of a whole memory, against programs that keep histories and backups.

    They do another job: restic encrypts and removes duplicates, git keeps what was before, and
    neither leaves a memory that an agent could read.
    """
    entries = 1_000 if bench.quick else 10_000
    source = bench.store(entries)

    def planned() -> Spent:
        with bench.folder() as target:
            out = bench.out()
            plan = ["plan", f"filesystem:{source}", f"filesystem:{target}", "--no-cache"]
            first = bench.hdev(*plan, "-o", out)
            return Spent(first.figure + bench.hdev("apply", out).figure)

    def restic() -> Spent:
        program = peers.find("restic")
        with bench.folder() as target:
            words = [program, "--repo", str(target / "repository"), "--no-cache", "--quiet"]
            run([*words, "init"], home=bench.place, also=_RESTIC)
            return run([*words, "backup", str(source)], home=bench.place, also=_RESTIC)

    def git() -> Spent:
        program = peers.find("git")
        with bench.folder(copy_of=source) as tree:
            run([program, "-C", str(tree), "init", "--quiet"], home=bench.place)
            words = [program, "-C", str(tree), *_GIT, *_GIT_AUTHOR]
            first = run([*words, "add", "."], home=bench.place)
            second = run([*words, "commit", "--quiet", "-m", "All"], home=bench.place)
            return Spent(first.figure + second.figure)

    ours, backup, commit = bench.compare(
        Contender("hdev plan, apply", "hdev plan SOURCE EMPTY --no-cache && hdev apply", planned),
        Contender("restic backup", "restic backup SOURCE (a new repository)", restic),
        Contender("git commit", f"git {' '.join(_GIT)} add . && git commit", git),
        warm_up=False,
    )
    what = f"plan and durable copy of {entries:,} entries"
    yield row(f"{what}, against restic backup", "s", ours, backup)
    yield row(f"{what}, against git add, commit", "s", ours, commit)


def large(bench: Bench) -> Iterator[Row]:
    """A few entries of 900 KB: bytes count here, not entries."""
    source = bench.place / "large"
    corpus.make_large(source, _LARGE)
    ours, synced = bench.compare(
        _ours(bench, source), _rsync(bench, source, "-a", "--fsync"), rounds=2 if bench.quick else 5
    )
    yield row(f"durable apply, {_LARGE} new entries of 900 KB", "s", ours, synced)
    (bench.place / "empty").mkdir()
    planned, dry_run = bench.compare(
        Contender(
            "hdev plan",
            "hdev plan SOURCE EMPTY --no-cache",
            lambda: bench.hdev(
                "plan",
                f"filesystem:{source}",
                f"filesystem:{bench.place / 'empty'}",
                "--no-cache",
                "-o",
                bench.out(),
            ),
        ),
        Contender(
            "rsync -rnc",
            "rsync -rnc SOURCE/ EMPTY/",
            lambda: run(
                [peers.find("rsync"), "-rnc", f"{source}/", f"{bench.place / 'empty'}/"],
                home=bench.place,
            ),
        ),
        warm_up=False,
    )
    yield row(f"plan, {_LARGE} new entries of 900 KB", "s", planned, dry_run)


def _ours(bench: Bench, source: Path, *, onto: Path | None = None) -> Contender:
    def work() -> Spent:
        with bench.folder(copy_of=onto) as target:
            plan = bench.plan(f"filesystem:{source}", f"filesystem:{target}", "--no-cache")
            return bench.hdev("apply", plan)

    return Contender("hdev apply", "hdev apply PLAN", work)


def _rsync(bench: Bench, source: Path, *flags: str, onto: Path | None = None) -> Contender:
    def work() -> Spent:
        program = peers.find("rsync")
        with bench.folder(copy_of=onto) as target:
            return run([program, *flags, f"{source}/", f"{target}/"], home=bench.place)

    name = " ".join(["rsync", *flags])
    return Contender(name, f"{name} SOURCE/ TARGET/", work)


def _resumed(bench: Bench, source: Path, entries: int) -> tuple[Spent, Spent]:
    """A resume after a kill at half, and an apply of just what was left then."""
    with bench.folder() as target, bench.folder() as other:
        plan = bench.plan(f"filesystem:{source}", f"filesystem:{target}", "--no-cache")
        with subprocess.Popen(
            [HDEV, "apply", plan],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environ(bench.place),
        ) as process:
            while _entries(target) < entries // 2 and process.poll() is None:
                pass
            process.send_signal(signal.SIGKILL)
        done = {path.relative_to(target) for path in target.rglob("*.md")}
        if not 0 < len(done) < entries:
            raise RuntimeError(f"the kill came at {len(done)} of {entries} entries")
        rest = Path(tempfile.mkdtemp(prefix="rest-", dir=bench.place))
        for path in source.rglob("*.md"):
            inside = path.relative_to(source)
            if inside not in done:
                (rest / inside).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(path, rest / inside)
                sidecar = path.with_suffix(".metadata.json")
                shutil.copy2(sidecar, (rest / inside).with_suffix(".metadata.json"))
        # This also syncs what the killed run has left to the kernel.
        alone = bench.plan(f"filesystem:{rest}", f"filesystem:{other}", "--no-cache")
        resumed = bench.hdev("apply", plan)
        os.sync()
        return resumed, bench.hdev("apply", alone)


def _entries(folder: Path) -> int:
    return sum(1 for _ in folder.rglob("*.md"))
