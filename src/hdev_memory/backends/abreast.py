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
import itertools
import os
import signal
import struct
import sys
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import IO, NoReturn

import msgspec

from hdev_memory.core.entry import EntryState, Unreadable
from hdev_memory.errors import StoreError

ALONE = 256
"""Entries that are read before there is a process: it costs as much as reading a few hundred."""

Seen = EntryState | Unreadable


class Aside(msgspec.Struct, frozen=True):
    """What a snapshot has learnt beside its states, once it is complete."""

    ignored: int
    stores: set[str]


_FRAME_BYTES = 64 * 1024
_PIPE_BYTES = 1024 * 1024

_FRAME = struct.Struct(">cQ")
"""A frame: what it holds, and how many bytes."""

_STATES, _UNREADABLE, _END, _ERROR = b"s", b"u", b"e", b"x"

_ARRAY = struct.Struct(">BI")
_encoder = msgspec.msgpack.Encoder()
_states = msgspec.msgpack.Decoder(list[EntryState])
_unreadable = msgspec.msgpack.Decoder(list[Unreadable])
_aside = msgspec.msgpack.Decoder(Aside)


def abreast(
    states: Generator[Seen, None, None], learnt: Callable[[], Aside], adopt: Callable[[Aside], None]
) -> Iterator[Seen]:
    """The same states, the later ones read by a process of its own where that is possible.

    `learnt` is asked in that process when the snapshot is complete, and `adopt` is given the answer
    in this one. Raises what the snapshot raises, and StoreError when the process was ended.
    """
    read = 0
    for state in itertools.islice(states, ALONE):
        read += 1
        yield state
    forked = _fork(states, learnt) if read == ALONE else None
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
        for kind, content in _frames(states, learnt):
            rest = memoryview(_FRAME.pack(kind, len(content)) + content)
            while rest:
                rest = rest[os.write(writing, rest) :]
    finally:
        os._exit(0)  # also where nobody reads any more


def _frames(
    states: Iterator[Seen], learnt: Callable[[], Aside]
) -> Iterator[tuple[bytes, bytes | bytearray]]:
    error: Exception | None = None
    content = bytearray(_ARRAY.size)
    kind, count = _STATES, 0

    def full() -> tuple[bytes, bytearray]:
        _ARRAY.pack_into(content, 0, 0xDD, count)  # msgpack's array of so many
        return kind, content

    try:
        for state in states:
            its = _STATES if type(state) is EntryState else _UNREADABLE
            if len(content) >= _FRAME_BYTES or its != kind:
                yield full()
                content, kind, count = bytearray(_ARRAY.size), its, 0
            _encoder.encode_into(state, content, -1)
            count += 1
    except Exception as caught:  # noqa: BLE001 - it is raised again in the parent
        error = caught
    yield full()
    if error is None:
        yield _END, _encoder.encode(learnt())
    else:
        import pickle

        yield _ERROR, pickle.dumps(error)


def _received(frames: IO[bytes], adopt: Callable[[Aside], None]) -> Iterator[Seen]:
    while True:
        head = frames.read(_FRAME.size)
        if len(head) < _FRAME.size:
            raise _cut_off()
        kind, size = _FRAME.unpack(head)
        content = frames.read(size)
        if len(content) < size:
            raise _cut_off()
        if kind == _STATES:
            yield from _states.decode(content)
        elif kind == _UNREADABLE:
            yield from _unreadable.decode(content)
        elif kind == _END:
            adopt(_aside.decode(content))
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
