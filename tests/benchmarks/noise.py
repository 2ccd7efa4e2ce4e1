"""How steady the machine is: fixed work between the rounds, and what the kernel counts."""

from __future__ import annotations

import hashlib
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

CPU_SHARE = 0.25
DISK_SHARE = 1.0
FOREIGN_SHARE = 0.15
"""The machine was too noisy when its processor yardstick spread over more than the first share of
its median, its disk yardstick over more than the second, or others used more than the third of the
processors."""

_HASHES = 40_000
_FILES = 25
_TICKS = os.sysconf("SC_CLK_TCK")


class Weather(msgspec.Struct, frozen=True):
    """The yardsticks of a stretch of time in seconds, and shares of all processors' time.

    `steal` is what the hypervisor gave to others, `foreign` what programs used that this run did
    not start, the kernel's own work for this run included.
    """

    cpu: list[float]
    disk: list[float]
    steal: float
    foreign: float

    @property
    def complaints(self) -> list[str]:
        """What was too unsteady, in words; nothing on a quiet machine."""
        found = []
        if (cpu := spread(self.cpu)) > CPU_SHARE:
            found.append(f"processor ±{cpu / 2:.0%}")
        if (disk := spread(self.disk)) > DISK_SHARE:
            found.append(f"disk ±{disk / 2:.0%}")
        if (taken := self.steal + self.foreign) > FOREIGN_SHARE:
            found.append(f"{taken:.0%} used by others")
        return found


def spread(figures: Sequence[float]) -> float:
    """From the lowest tenth to the highest tenth, as a share of the median; 0 of a lone figure."""
    if len(figures) < 2:
        return 0.0
    ordered = sorted(figures)
    cut = len(ordered) // 10
    return (ordered[-1 - cut] - ordered[cut]) / statistics.median(ordered)


class Station:
    """Takes the yardsticks, and sums them up for a stretch of the run."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self._cpu: list[float] = []
        self._disk: list[float] = []
        self._begin = _counted()

    def look(self) -> None:
        """Take both yardsticks once; about 0.1 s on a quiet machine."""
        self._cpu.append(_hash_chain())
        self._disk.append(_synced_files(self._place))

    def add(self, other: Station) -> None:
        """Take over what another one has seen."""
        self._cpu += other._cpu
        self._disk += other._disk

    def weather(self) -> Weather:
        """What was seen since this station was set up."""
        ticks, steal, busy, own = (
            now - before for now, before in zip(_counted(), self._begin, strict=True)
        )
        ticks = max(ticks, 1 / _TICKS)  # the kernel may not have counted any yet
        foreign = max(busy - own, 0.0)
        return Weather(cpu=self._cpu, disk=self._disk, steal=steal / ticks, foreign=foreign / ticks)


def _hash_chain() -> float:
    begin = time.perf_counter()
    digest = b""
    for _ in range(_HASHES):
        digest = hashlib.sha256(digest).digest()
    return time.perf_counter() - begin


def _synced_files(place: Path) -> float:
    with tempfile.TemporaryDirectory(prefix="yardstick-", dir=place) as folder:
        begin = time.perf_counter()
        for number in range(_FILES):
            file = os.open(f"{folder}/{number}", os.O_WRONLY | os.O_CREAT | os.O_EXCL)
            os.write(file, b"0" * 2048)
            os.fsync(file)
            os.close(file)
        return time.perf_counter() - begin


def _counted() -> tuple[float, float, float, float]:
    """Seconds of all processors: in all, stolen, busy, and busy for this process and those that it
    has started and waited for."""
    with open("/proc/stat") as file:
        fields = [int(word) / _TICKS for word in file.readline().split()[1:9]]
    user, nice, system, idle, waiting, interrupts, soft, steal = fields
    own = sum(
        usage.ru_utime + usage.ru_stime
        for usage in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )
    busy = user + nice + system + interrupts + soft
    return busy + idle + waiting + steal, steal, busy, own
