"""What an apply and a plan see of a server: `python -m tests.benchmarks.snapshot URL ENTRIES`."""

from __future__ import annotations

import os
import sys

from hdev_memory.backends import open_backend
from hdev_memory.backends.base import EVERYTHING, Secret, Where
from hdev_memory.core.entry import EntryState, Normalisation


def main(url: str, entries: int) -> None:
    """Read one snapshot to its end; raises when it does not have so many entries."""
    key = Secret(os.environ["HDEV_MEMORY_HTTP_API_KEY"])
    where = Where(kind="http", location=url, key=key)
    with open_backend(where, must_exist=True) as backend:
        snapshot = backend.snapshot(EVERYTHING, Normalisation())
        seen = sum(isinstance(state, EntryState) for state in snapshot)
    if seen != entries:
        raise RuntimeError(f"{seen} of {entries} entries in the snapshot")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
