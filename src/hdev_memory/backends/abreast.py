"""Read the rest of a snapshot in a process of its own, while its consumer does other things.

The process is a fork, so the snapshot goes on where it stood, with every folder handle that it
holds; a short one ends before there is a fork. The states come back through a pipe, in their order.

What the fork does: system calls that read, hashing, and msgspec; it takes no lock, prints nothing,
and ends by `os._exit`, so it is safe beside a thread that draws (and is not forked beside threads
that hash: OpenSSL has locks). Without a reader of its pipe it ends with its next write, so it
outlives neither its consumer nor its parent. Only a frame that says so ends a snapshot: one that
was cut off is an error.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import os
import signal
import struct
import sys
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import IO, NoReturn

import msgspec

from hdev_memory.core.entry import Unreadable
from hdev_memory.core.stretch import Stretch
from hdev_memory.errors import StoreError

ALONE = 256
"""Entries that are read before there is a process: it costs as much as reading a few hundred."""

Seen = Stretch | Unreadable


TOLD = 512
"""Entries after which what the process has learnt so far is told again."""


class Aside(msgspec.Struct, frozen=True):
    """What a snapshot has learnt beside its states; `expected` is how many it may come to."""

    ignored: int
    stores: set[str]
    expected: int | None = None


_WRITE_BYTES = 64 * 1024
_PIPE_BYTES = 1024 * 1024

_FRAME = struct.Struct(">cQ")
"""A frame: what it holds, and how many bytes."""

_STRETCH, _UNREADABLE, _LEARNT, _END, _ERROR = b"s", b"u", b"l", b"e", b"x"

_encode = msgspec.msgpack.Encoder().encode
_stretch = msgspec.msgpack.Decoder(Stretch)
_unreadable = msgspec.msgpack.Decoder(Unreadable)
_aside = msgspec.msgpack.Decoder(Aside)


def abreast(
    states: Generator[Seen, None, None], learnt: Callable[[], Aside], adopt: Callable[[Aside], None]
) -> Iterator[Seen]:
    """The same states, the later ones read by a process of its own where that is possible.

    `learnt` is asked in that process now and then, the last time when the snapshot is complete, and
    `adopt` is given the answer in this one. Raises what the snapshot raises, and StoreError when
    the process was ended.
    """
    read = 0
    for state in states:
        read += state.count if isinstance(state, Stretch) else 1
        yield state
        if read >= ALONE:
            break
    forked = _fork(states, learnt) if read >= ALONE else None
    if forked is None:
        yield from states
        return
    pid, pipe = forked
    ended = False
    try:
        # Its handles on folders; the fork has its own.
        states.close()
        with open(pipe, "rb") as frames:
            yield from _received(frames, adopt)
        ended = True
    finally:
        if not ended:
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _fork(
    states: Generator[Seen, None, None], learnt: Callable[[], Aside]
) -> tuple[int, int] | None:
    """A process that reads on, and the pipe from it; None where there shall or can be none."""
    # Without SIGCHLD the process could not be waited for, and its number would not stay its own.
    if (
        sys.platform != "linux"
        or len(os.sched_getaffinity(0)) < 2
        or signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN
    ):
        return None
    try:
        reading, writing = os.pipe()
    except OSError:
        return None
    # A signal between the fork and the line that keeps it from its parent's code would run that.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        with warnings.catch_warnings():
            # Python 3.12 and later warn of threads; see above why ours do no harm.
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
        if pid == 0:
            _send(writing, reading, mask, states, learnt)
    except OSError:
        os.close(reading)
        return None
    finally:
        os.close(writing)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    return pid, reading


def _send(
    writing: int,
    reading: int,
    mask: Iterable[int],
    states: Iterator[Seen],
    learnt: Callable[[], Aside],
) -> NoReturn:
    """Write every frame, and end this process, whatever happens."""
    try:
        # They often go to the whole group. The parent ends this process when it acts on one, and
        # must not meet its end before; a parent that is gone is met at the next write.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        os.close(reading)
        gc.freeze()  # nothing of the parent's is to be finalised here, nor its pages touched
        with contextlib.suppress(OSError):
            fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        waiting = bytearray()
        for kind, content in _frames(states, learnt):
            waiting += _FRAME.pack(kind, len(content)) + content
            if len(waiting) >= _WRITE_BYTES or kind in (_END, _ERROR):
                rest = memoryview(bytes(waiting))
                while rest:
                    rest = rest[os.write(writing, rest) :]
                waiting.clear()
    finally:
        os._exit(0)  # also where nobody reads any more


def _frames(states: Iterator[Seen], learnt: Callable[[], Aside]) -> Iterator[tuple[bytes, bytes]]:
    try:
        count = told = 0
        for state in states:
            yield _STRETCH if isinstance(state, Stretch) else _UNREADABLE, _encode(state)
            count += state.count if isinstance(state, Stretch) else 1
            if count - told >= TOLD:
                told = count
                yield _LEARNT, _encode(learnt())
    except Exception as error:  # noqa: BLE001 - it is raised again in the parent
        import pickle

        yield _ERROR, pickle.dumps(error)
    else:
        yield _END, _encode(learnt())


def _received(frames: IO[bytes], adopt: Callable[[Aside], None]) -> Iterator[Seen]:
    while True:
        head = frames.read(_FRAME.size)
        if len(head) < _FRAME.size:
            raise _cut_off()
        kind, size = _FRAME.unpack(head)
        content = frames.read(size)
        if len(content) < size:
            raise _cut_off()
        if kind == _STRETCH:
            yield _stretch.decode(content)
        elif kind == _UNREADABLE:
            yield _unreadable.decode(content)
        elif kind in (_LEARNT, _END):
            adopt(_aside.decode(content))
            if kind == _END:
                return
        else:
            import pickle

            raise pickle.loads(content)  # noqa: S301 - it comes from a fork of ourselves


def _cut_off() -> StoreError:
    return StoreError(
        "A memory was not read to its end.",
        why="The process that was reading it has been ended, perhaps for want of memory.",
        hint="Run the command again.",
    )
