"""Processes that write to a store beside us and respect no lock."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from hdev_memory import durable


@contextlib.contextmanager
def beside(rival: Callable[..., None], *rest: Any) -> Iterator[Callable[[], Any]]:
    """Run `rival(connection, *rest)` in another process; the value stops it and gets its report.

    The rival says once that it is ready, and goes on until it is told to stop.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=rival, args=(theirs, *rest), daemon=True)
    process.start()
    theirs.close()
    try:
        assert ours.recv() == "ready"

        def stop() -> Any:
            ours.send("stop")
            return ours.recv()

        yield stop
    finally:
        process.kill()
        process.join()
        ours.close()


def replacing(told: Connection, store: str, name: str) -> None:
    """Keep replacing a file by an exchange of names, and report what was displaced, in order."""
    displaced = []
    with durable.opened_folder(Path(store)) as folder:
        told.send("ready")
        while not told.poll():
            (Path(store) / "rival").write_bytes(f"rival {len(displaced)}".encode())
            with contextlib.suppress(FileNotFoundError):
                durable.disk.exchange(folder, "rival", name)
                displaced.append((Path(store) / "rival").read_bytes())
    told.send(displaced)


def flipping(told: Connection, store: str, outside: str) -> None:
    """Keep turning the folder `a` of a store into a link that leads outside, and back."""
    os.symlink(outside, os.path.join(store, "aside"))
    flips = 0
    with durable.opened_folder(Path(store)) as folder:
        told.send("ready")
        while not told.poll():
            durable.disk.exchange(folder, "a", "aside")
            flips += 1
    told.send(flips)
