"""What the entries of a folder were when their files had certain stats, from one snapshot to the
next: entries whose stats are still the same need not be read again.

An entry is taken as known where size, times of change and inode of both its files are as they were,
on the same local filesystem. One that had changed within the clock's grain before it was read is
not kept: a second change at once could leave its times as they are (git calls this racily clean).
What no stat shows cannot be seen: bytes written through a mapping of a file that stays open. So
nothing that is written rests on this: only a plan, and a server's listing, which say what there is.

The file lists the stretches of a store in the order of keys, so that it is read and written beside
the walk of the store with flat memory. It comes into its place when a snapshot is complete, by a
rename. Each part bears its digest; where that does not fit, the rest of the file is not used. It is
only used when it belongs to us and nobody else may write it. Nothing that goes wrong here is an
error: the store is then read.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import stat
import struct
import tempfile
import time
from collections import deque
from collections.abc import Container, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, NamedTuple

import msgspec

from hdev_memory.backends.base import MAX_ENTRY_BYTES, Scope
from hdev_memory.backends.filesystem_stretch import (
    LONGEST,
    Known,
    Read,
    Stats,
    StretchReader,
    look,
)
from hdev_memory.core.digest import sha256
from hdev_memory.core.entry import Normalisation, Unreadable
from hdev_memory.core.stretch import Stretch

PREFIX = ".hdev-index-"
"""How the names of these files begin; a folder store sees in them files of our own."""

KEPT_SECONDS = 30 * 24 * 3600
"""A file that was not used for so long is removed when another one is written beside it."""

_FORMAT = 1
"""To be raised with every change of what a state is, or of how it is kept here."""

_FRAME = struct.Struct(">I16s")
"""Before each part: how many bytes it has, and the beginning of their digest."""

_MAX_PART_BYTES = 64 * 1024 * 1024
_BUFFER_BYTES = 1024 * 1024


class _Part(msgspec.Struct, frozen=True, array_like=True):
    """A stretch, and the names and stats of its entries, packed so as to be compared at once."""

    seen: bytes
    stretch: Stretch


_Seen = tuple[tuple[str, ...], tuple[Stats, ...]]

_pack = msgspec.msgpack.Encoder().encode
_part = msgspec.msgpack.Decoder(_Part)
_seen = msgspec.msgpack.Decoder[_Seen](_Seen)
_pieces = msgspec.json.Decoder(list[msgspec.Raw])


def identity(
    path: Path, root: os.stat_result, scope: Scope, normalisation: Normalisation, *, tagged: bool
) -> str:
    """The name of everything, beside the entries themselves, that a snapshot depends on."""
    text = json.dumps(
        [
            _FORMAT,
            os.path.realpath(path),
            root.st_dev,
            root.st_ino,
            scope.include,
            scope.exclude,
            msgspec.to_builtins(normalisation),
            tagged,
            [LONGEST, MAX_ENTRY_BYTES],
        ]
    )
    return sha256(text.encode())


class _Old(NamedTuple):
    """A part of the file that is there: which one it is, its bytes as they stand, and their end."""

    number: int
    part: _Part
    frame: bytes
    end: int


class StatCache:
    """One snapshot's use of the file: asked for each group of entries, in the order of keys."""

    def __init__(self, folder: Path, device: int, name: str) -> None:
        """`folder` is where the file lies, `device` that of the store, `name` its `identity`."""
        self._folder = folder
        self._device = device
        self._name = PREFIX + name[:32]
        self._header = b"hdev-index/%d %s\n" % (_FORMAT, name.encode())
        self._old: IO[bytes] | None = None
        self._at = self._read = 0
        self._ahead: deque[_Old] = deque()
        self._kept = 0
        """How many parts, from the first one, this snapshot has taken over as they are."""
        self._same = len(self._header)
        """Where they end in the file."""
        self._new: IO[bytes] | None = None
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0
        self._writing = True
        self._open()

    def close(self) -> None:
        """Let go of the files; what was written is lost unless `complete` was called."""
        for file in (self._old, self._new):
            if file is not None:
                file.close()
        self._old = self._new = None

    def read(
        self,
        reader: StretchReader,
        folder: int,
        prefix: str,
        names: Sequence[str],
        listed: Container[str],
    ) -> Iterator[Read | Stretch | Unreadable]:
        """As `reader.read`, but that entries which are known are not read."""
        try:
            local = os.fstat(folder).st_dev == self._device
        except OSError:
            local = False
        if not local:
            yield from reader.read(folder, prefix, names, listed, {})
            return
        near = self._near(prefix + names[0], prefix + names[-1])
        known: Mapping[str, Known] = {}
        if near:
            stats = look(folder, names)
            if len(near) == 1 and near[0].part.seen == _pack((names, stats)):
                self._keep(near[0])
                yield near[0].part.stretch
                return
            known = _known(near, dict(zip(names, stats, strict=True)))
        for found in reader.read(folder, prefix, names, listed, known):
            if isinstance(found, Read):
                self._add(_pack(_Part(_pack((found.names, found.stats)), found.stretch)))
            yield found

    def complete(self) -> None:
        """The snapshot has come to its end: put the file in its place, where it has changed."""
        if self._new is None and self._writing and self._next() is not None:
            self._change()
        if self._new is None:
            self._touch()
            return
        with contextlib.suppress(OSError):
            self._flush()
            if self._writing:
                self._publish()
                self._prune()

    # The file that is there

    def _open(self) -> None:
        try:
            # O_NONBLOCK: a FIFO under its name must not stop us.
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            descriptor = os.open(self._folder / self._name, flags)
        except OSError:
            return
        status = os.fstat(descriptor)
        if (
            not stat.S_ISREG(status.st_mode)
            or status.st_uid != os.geteuid()
            or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        ):
            os.close(descriptor)
            return
        file = open(descriptor, "rb", buffering=_BUFFER_BYTES)  # noqa: SIM115 - `close` ends it
        with contextlib.suppress(OSError):
            if file.read(len(self._header)) == self._header:
                self._old, self._at = file, len(self._header)
                return
        file.close()

    def _near(self, first: str, last: str) -> list[_Old]:
        """The parts of the file that hold keys between these two."""
        ahead = self._ahead
        while ahead and ahead[0].part.stretch.last < first:
            ahead.popleft()
        while not ahead or ahead[-1].part.stretch.first <= last:
            found = self._next()
            if found is None:
                break
            if found.part.stretch.last >= first:
                ahead.append(found)
        return [old for old in ahead if old.part.stretch.first <= last]

    def _next(self) -> _Old | None:
        """The next part of the file; None at its end, and where it is damaged."""
        if self._old is None:
            return None
        try:
            head = self._old.read(_FRAME.size)
            size, digest = _FRAME.unpack(head)
            if size > _MAX_PART_BYTES:
                return None
            packed = self._old.read(size)
            if len(packed) != size or _sum(packed) != digest:
                return None
            part = _part.decode(packed)
        except (OSError, struct.error, msgspec.MsgspecError):
            return None
        self._at += len(head) + size
        self._read += 1
        return _Old(self._read, part, head + packed, self._at)

    # The file that is to be

    def _keep(self, old: _Old) -> None:
        if self._new is None and old.number == self._kept + 1:
            self._kept, self._same = old.number, old.end
        else:
            self._put(old.frame)

    def _add(self, packed: bytes) -> None:
        self._put(_FRAME.pack(len(packed), _sum(packed)) + packed)

    def _put(self, frame: bytes) -> None:
        if self._new is None:
            self._change()
        self._waiting.append(frame)
        self._waiting_bytes += len(frame)
        if self._waiting_bytes >= _BUFFER_BYTES:
            self._flush()

    def _change(self) -> None:
        """Begin a new file, with what has been the same until now."""
        if not self._writing:
            return
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            # Nothing is buffered in it: after a fork two processes have it, and one goes on.
            self._new = tempfile.TemporaryFile(  # noqa: SIM115 - `close` ends it
                dir=self._folder, prefix=PREFIX, buffering=0
            )
        except OSError:
            self._writing = False
            return
        if self._old is None:
            self._waiting.append(self._header)
        else:
            _copy(self._old.fileno(), self._new.fileno(), self._same)

    def _flush(self) -> None:
        if self._new is not None and self._writing:
            try:
                rest = memoryview(b"".join(self._waiting))
                while rest:
                    rest = rest[os.write(self._new.fileno(), rest) :]
            except OSError:
                self._writing = False
        self._waiting, self._waiting_bytes = [], 0

    def _publish(self) -> None:
        """Give the new file its name, in one step. Raises OSError."""
        assert self._new is not None
        draft = self._folder / f"{self._name}.{secrets.token_hex(6)}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(draft, flags, 0o600)
        try:
            try:
                _copy(self._new.fileno(), descriptor, os.fstat(self._new.fileno()).st_size)
            finally:
                os.close(descriptor)
            os.replace(draft, self._folder / self._name)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(draft)
            raise

    def _touch(self) -> None:
        """Let the file be seen to be in use."""
        if self._old is not None:
            with contextlib.suppress(OSError):
                os.utime(self._old.fileno())

    def _prune(self) -> None:
        """Remove files of this kind that nobody has used for long. Raises OSError."""
        limit = time.time() - KEPT_SECONDS
        with os.scandir(self._folder) as listing:
            for found in listing:
                if found.name.startswith(PREFIX) and found.name != self._name:
                    with contextlib.suppress(OSError):
                        if found.stat(follow_symlinks=False).st_mtime < limit:
                            os.unlink(found.path)


def _sum(packed: bytes) -> bytes:
    return bytes.fromhex(sha256(packed))[:16]


def _copy(source: int, target: int, size: int) -> None:
    """Write the first `size` bytes of one file to another. Raises OSError."""
    done = 0
    while done < size:
        piece = os.pread(source, min(_BUFFER_BYTES, size - done), done)
        if not piece:
            raise OSError("the file has become shorter")
        done += len(piece)
        rest = memoryview(piece)
        while rest:
            rest = rest[os.write(target, rest) :]


def _known(near: Sequence[_Old], looked: Mapping[str, Stats]) -> dict[str, Known]:
    """What these parts know of the entries that look as they did."""
    known: dict[str, Known] = {}
    for old in near:
        names, stats = _seen.decode(old.part.seen)
        stretch = old.part.stretch
        lines = stretch.lines.splitlines()
        metadata = _pieces.decode(stretch.metadata)
        for number, (name, its) in enumerate(zip(names, stats, strict=True)):
            if looked.get(name) == its:
                tag = stretch.tags[64 * number : 64 * (number + 1)]
                known[name] = Known(its, lines[number], bytes(metadata[number]), tag)
    return known
