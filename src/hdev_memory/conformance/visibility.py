"""Checks of what others see while an entry is being written."""

from __future__ import annotations

import threading
from collections.abc import Callable

from hdev_memory.backends.base import Backend, Stored
from hdev_memory.conformance.subject import Subject, broken, same
from hdev_memory.core.entry import Entry

_BLOCKS = (b"A" * 8192, b"B" * 65536)


def overwrites_seen_whole(subject: Subject) -> None:
    subject.require_atomic()
    contents = [block * 4 for block in _BLOCKS]
    state = subject.made("a", contents[0], {"side": 0})

    def flip() -> None:
        before = state
        for turn in range(1, 15):
            side = turn % 2
            put = subject.put("a", contents[side], {"side": side}, before=before)
            (receipt,) = subject.write(put)
            same(receipt, Stored(key=put.key, state=put.after), "the receipt")
            before = put.after

    def look(backend: Backend) -> None:
        found = subject.entry("a", through=backend)
        if found.content not in contents:
            broken("the whole content from before or from after", found.content)
        if found.metadata.get("side") not in (0, 1):
            broken("the whole metadata from before or from after", found.metadata)

    _watched(subject, flip, look)


def creations_seen_whole(subject: Subject) -> None:
    subject.require_atomic()
    content, metadata = _BLOCKS[1] * 4, {"k": "v"}
    wanted = subject.state(content, metadata)
    made: list[str] = []

    def create() -> None:
        for turn in range(15):
            made.append(f"c{turn}")
            subject.made(f"c{turn}", content, metadata)

    def look(backend: Backend) -> None:
        for name in made[-2:]:
            found = subject.read(name, through=backend)
            if isinstance(found, Entry):
                state = subject.normalisation.state(found.content, found.metadata)
                same(state, wanted, "what is seen of an entry while it is created")

    _watched(subject, create, look)


def _watched(subject: Subject, work: Callable[[], None], look: Callable[[Backend], None]) -> None:
    """Work, while somebody looks through another connection all the time."""
    done = threading.Event()
    errors: list[Exception] = []

    def watcher() -> None:
        try:
            with subject.connection() as other:
                while not done.is_set():
                    look(other)
        except Exception as error:  # noqa: BLE001 - carried to the thread of the check
            errors.append(error)

    thread = threading.Thread(target=watcher)
    thread.start()
    try:
        work()
    finally:
        done.set()
        thread.join()
    if errors:
        raise errors[0]
