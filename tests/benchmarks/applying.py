"""Applying folder to folder: what durability, pre-images and a resume cost."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

from tests.benchmarks import corpus
from tests.benchmarks.measuring import HDEV, NO_AIM, Missing, Row, interleaved, run


def against_rsync(place: Path, *, entries: int, rounds: int) -> list[Row | Missing]:
    """New entries against rsync without and with its own syncing, then overwrites and a resume."""
    rsync = shutil.which("rsync")
    if rsync is None:
        return [Missing("apply folder to folder", "rsync (Debian: apt-get install rsync)")]
    corpus.make(place / "source", entries)
    corpus.make(place / "older", entries, changed=entries)
    rows: list[Row | Missing] = []
    for flags, aim in (([], 2.0), (["--fsync"], 1 / 3)):
        name = " ".join(["rsync -a", *flags])
        ours, theirs = interleaved(
            rounds,
            lambda: _applied(place, "empty"),
            lambda flags=flags: _copied(place, [rsync, "-a", *flags]),  # type: ignore[misc]
        )
        rows.append(
            Row(
                name=f"durable apply, {entries:,} new entries, against {name}",
                command="hdev apply PLAN",
                peer=f"{name} source/ target/",
                unit="s",
                ours=ours,
                theirs=theirs,
                aim=aim,
            )
        )
    ours, theirs = interleaved(
        rounds,
        lambda: _applied(place, "older"),
        lambda: _copied(place, [rsync, "-a", "--fsync", "--checksum"], onto="older"),
    )
    rows.append(
        Row(
            name=f"durable apply, {entries:,} overwrites with pre-images",
            command="hdev apply PLAN",
            peer="rsync -a --fsync --checksum source/ target/ (keeps nothing)",
            unit="s",
            ours=ours,
            theirs=theirs,
            aim=NO_AIM,
        )
    )
    ours, theirs = [], []
    for _ in range(rounds):
        resumed, rest = _resumed(place, entries)
        ours.append(resumed)
        theirs.append(rest)
    rows.append(
        Row(
            name=f"resume of {entries:,} new entries, killed at half",
            command="hdev apply PLAN, after a kill",
            peer="hdev apply of a plan with just the rest",
            unit="s",
            ours=ours,
            theirs=theirs,
            aim=1.2,
        )
    )
    return rows


def _applied(place: Path, onto: str) -> float:
    with _target(place, onto) as target:
        plan = _plan(place, place / "source", target)
        return run([HDEV, "apply", plan], home=place).seconds


def _copied(place: Path, command: list[str], *, onto: str = "empty") -> float:
    with _target(place, onto) as target:
        return run([*command, f"{place / 'source'}/", f"{target}/"], home=place).seconds


class _target:  # noqa: N801 - it reads as the function that it is
    """A target folder of its own, a copy of `onto` or empty; synced before, removed afterwards."""

    def __init__(self, place: Path, onto: str) -> None:
        self._path = Path(tempfile.mkdtemp(prefix="target-", dir=place)) / "memory"
        if onto == "empty":
            self._path.mkdir()
        else:
            shutil.copytree(place / onto, self._path)
        os.sync()

    def __enter__(self) -> Path:
        return self._path

    def __exit__(self, *error: object) -> None:
        shutil.rmtree(self._path.parent)


def _plan(place: Path, source: Path, target: Path) -> str:
    out = f"{tempfile.mkdtemp(prefix='plans-', dir=place)}/plan"
    words = [f"filesystem:{source}", f"filesystem:{target}", "--overwrite", "-o", out]
    run([HDEV, "plan", *words], home=place)
    os.sync()
    return out


def _resumed(place: Path, entries: int) -> tuple[float, float]:
    """Seconds of a resume after a kill at half, and of an apply of just what was left then."""
    with _target(place, "empty") as target, _target(place, "empty") as other:
        plan = _plan(place, place / "source", target)
        environ = {**os.environ, "HOME": str(place)}
        with subprocess.Popen(
            [HDEV, "apply", plan],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environ,
        ) as process:
            while _entries(target) < entries // 2 and process.poll() is None:
                pass
            process.send_signal(signal.SIGKILL)
        done = {path.relative_to(target) for path in target.rglob("*.md")}
        if not 0 < len(done) < entries:
            raise RuntimeError(f"the kill came at {len(done)} of {entries} entries")
        rest = Path(tempfile.mkdtemp(prefix="rest-", dir=place))
        for path in (place / "source").rglob("*.md"):
            inside = path.relative_to(place / "source")
            if inside not in done:
                (rest / inside).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(path, rest / inside)
                sidecar = path.with_suffix(".metadata.json")
                shutil.copy2(sidecar, (rest / inside).with_suffix(".metadata.json"))
        alone = _plan(place, rest, other)  # also syncs what the killed run has left to the kernel
        resumed = run([HDEV, "apply", plan], home=place).seconds
        os.sync()
        return resumed, run([HDEV, "apply", alone], home=place).seconds


def _entries(folder: Path) -> int:
    return sum(1 for _ in folder.rglob("*.md"))
