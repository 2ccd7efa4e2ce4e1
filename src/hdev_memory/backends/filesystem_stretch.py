"""The entries of one folder as stretches: the loop that reading a whole store consists of.

It is written for the usual entry, two regular files with text and flat metadata, at the cost of
three system calls and one hash for each. Whatever is not usual, or changes while it is read, is
left to `read_entry`, which finds words for it.
"""

from __future__ import annotations

import contextlib
import functools
import os
import resource
import time
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import msgspec

from hdev_memory.backends.filesystem_files import (
    CONTENT,
    METADATA,
    READ,
    NotAFile,
    TooLarge,
    read_entry,
    read_rest,
    state_read,
)
from hdev_memory.core.digest import (
    NotCanonical,
    canonical_all_plain,
    canonical_json,
    decode_all_plain,
    decode_bytes,
    sha256,
)
from hdev_memory.core.entry import (
    Entry,
    EntryState,
    Normalisation,
    State,
    Unreadable,
    tag_of,
    tag_of_digest,
)
from hdev_memory.core.stretch import Stretch, is_plain, plain_line, read_line, state_line

LONGEST = 512
"""Entries in one stretch; more in one folder are several."""

GRAIN = 2_000_000_000
"""Nanoseconds within which a second change of a file may leave its timestamps as they are: two
seconds is the coarsest clock of a filesystem (FAT)."""

_ROOM = 16 * 1024
"""Bytes that are asked of a file whose size was not looked at."""

_PAGE_BLOCKS = 8
"""Blocks of 512 bytes in the least that is read of a file."""

_encode = msgspec.json.Encoder().encode
_digest = functools.lru_cache(4096)(sha256)
"""Without bookkeeping the metadata of many entries is the same."""

Stats = tuple[int, int, int, int, int, int, int, int]
"""Of both files of an entry: size, change of content, change of anything, and inode."""


_UNSETTLED = (0, 0, 0, 0, 0, 0, 0, 0)
_GONE = (-1, -1, -1, -1, -1, -1, -1, -1)


def _blocks_read() -> int:
    """The blocks of 512 bytes that this process has had from disks so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_inblock


def _read_ahead(folder: int, names: Sequence[str]) -> None:
    """Have the files of these entries brought into the page cache, all of them at once.

    The disk is asked and not waited for, and no error is one here: the loop comes by afterwards.
    """
    if not hasattr(os, "posix_fadvise"):
        return
    for name in names:
        for suffix in (CONTENT, METADATA):
            with contextlib.suppress(OSError):
                file = os.open(name + suffix, READ, dir_fd=folder)
                try:
                    os.posix_fadvise(file, 0, _ROOM, os.POSIX_FADV_WILLNEED)
                finally:
                    os.close(file)


class Known(NamedTuple):
    """What was found in an entry when its files had these stats."""

    stats: Stats
    line: bytes
    metadata: bytes
    tag: str


class Read(NamedTuple):
    """A stretch, the names of its entries, and the stats of each: all 0 where the next look must
    not rely on them, which is so for an entry that changed just before it was read."""

    stretch: Stretch
    names: tuple[str, ...]
    stats: tuple[Stats, ...]


def look(folder: int, names: Iterable[str]) -> list[Stats]:
    """The stats of these entries, as they are now; all -1 where there are none."""
    found: list[Stats] = []
    for name in names:
        try:
            one = os.stat(name + CONTENT, dir_fd=folder, follow_symlinks=False)
            two = os.stat(name + METADATA, dir_fd=folder, follow_symlinks=False)
        except OSError:
            found.append(_GONE)
        else:
            found.append(_numbers(one, two))
    return found


class StretchReader:
    """Reads entries of open folders into stretches."""

    def __init__(
        self, normalisation: Normalisation, *, statted: bool = False, tagged: bool = False
    ) -> None:
        """`statted` gathers the stats of what is read, `tagged` the tags of the entries."""
        self._normalisation = normalisation
        self._statted = statted
        self._tagged = tagged
        self._cold = False
        """Whether the files of the last folder were not in the page cache."""
        self._blocks = _blocks_read()

    def read(
        self,
        folder: int,
        prefix: str,
        names: Sequence[str],
        listed: Container[str],
        known: Mapping[str, Known],
    ) -> Iterator[Read | Unreadable]:
        """The entries of these names below `prefix`, in their order.

        `listed` are those that were two regular files when the folder was listed. Of `known` ones
        nothing is read: their stats are the caller's affair. Who is gone is left out.
        """
        # Before anything is looked at, so that no change after it can seem older than it is.
        settled = time.time_ns() - GRAIN
        if self._cold:
            _read_ahead(folder, [name for name in names if name not in known])
        asked = [name for name in names if name in listed and name not in known]
        usual = self._usual(self._taken(folder, asked, settled))
        if len(usual.names) == len(names):
            yield _made(prefix, usual, {})
            self._look_back(len(names))
            return
        read = {row[0]: row for row in zip(*usual, strict=True)}
        found: list[_Row] = []
        notes: dict[str, str] = {}
        for name in names:
            if name in known:
                found.append(_row_of(name, known[name]))
                continue
            if name in read:
                found.append(read[name])
                continue
            entry = read_entry(folder, prefix + name, name)
            state = state_read(entry, self._normalisation)
            if isinstance(state, EntryState):
                assert isinstance(entry, Entry)
                tag = tag_of(entry.content, entry.metadata) if self._tagged else ""
                found.append((name, *_parts(state), tag, _UNSETTLED))
                if state.note:
                    notes[state.key] = state.note
            elif isinstance(state, Unreadable):
                if found:
                    yield _made(prefix, _Found(*zip(*found, strict=True)), notes)
                    found, notes = [], {}
                yield state
        if found:
            yield _made(prefix, _Found(*zip(*found, strict=True)), notes)
        self._look_back(len(names))

    def _look_back(self, entries: int) -> None:
        """Tell whether so many entries, just read, were in the page cache."""
        # By blocks, not by time: a busy machine makes a warm loop wait as well. An entry is two
        # pages at least: where few of them are missing, asking costs more than it brings.
        blocks = _blocks_read()
        self._cold = blocks - self._blocks >= _PAGE_BLOCKS * entries
        self._blocks = blocks

    def _taken(self, folder: int, names: Sequence[str], settled: int) -> _Taken:
        """The bytes of entries as they mostly are; any other is left out."""
        taken = _Taken([], [], [], [], [], [])
        for name in names:
            try:
                content, one = self._file(folder, name + CONTENT)
                sidecar, two = self._file(folder, name + METADATA)
                if not content.isascii():
                    content.decode()
            except (OSError, NotAFile, TooLarge, UnicodeDecodeError):
                continue
            taken.names.append(name)
            taken.sidecars.append(sidecar)
            exact = sha256(content)
            taken.exact.append(exact)
            if self._normalisation.line_ends == "exact":
                taken.contents.append(exact)
            else:
                content = self._normalisation.content(content)
                taken.contents.append(sha256(content))
            taken.sizes.append(len(content))
            taken.stats.append(
                _UNSETTLED if one is None or two is None else _settled(one, two, settled)
            )
        return taken

    def _file(self, folder: int, name: str) -> tuple[bytes, os.stat_result | None]:
        """A file's bytes, and its stats where they are gathered.

        A pipe or device that took a name since the folder was listed can be taken for a file: it
        would have to hand out less than was asked for, but something. Raises what `read_rest` does.
        """
        file = os.open(name, READ, dir_fd=folder)
        try:
            stats = os.fstat(file) if self._statted else None
            found = os.read(file, _ROOM)
            # Less than was asked for is the end of a regular file; nothing may be a pipe.
            return found if 0 < len(found) < _ROOM else read_rest(file, found), stats
        finally:
            os.close(file)

    def _usual(self, taken: _Taken) -> _Found:
        """Those of them whose metadata is sound."""
        metadata = decode_all_plain(taken.sidecars)
        if metadata is not None:  # all at once takes half the time
            tags = [""] * len(metadata)
            if self._tagged:
                tags = list(map(tag_of_digest, taken.exact, metadata))
            for its in metadata:
                for bookkept in self._normalisation.bookkeeping:
                    its.pop(bookkept, None)
            canonical = canonical_all_plain(metadata)
            digests = [_digest(one) for one in canonical]
            return _Found(
                taken.names, taken.contents, digests, taken.sizes, canonical, tags, taken.stats
            )
        rows: list[_Row] = []
        for name, content, size, sidecar, exact, stats in zip(*taken, strict=True):
            try:
                alone = decode_bytes(sidecar)
                tag = tag_of_digest(exact, alone) if self._tagged else ""
                kept = self._normalisation.metadata(alone)
                digest = _digest(canonical_json(kept))
            except (NotCanonical, UnicodeDecodeError):
                continue
            rows.append((name, content, digest, size, _encode(kept), tag, stats))
        return _Found(*zip(*rows, strict=True)) if rows else _NOTHING


class _Taken(NamedTuple):
    """Entries as columns: names, digests and sizes of their normalised contents, sidecars, digests
    of their contents as they are, and stats."""

    names: list[str]
    contents: list[str]
    sizes: list[int]
    sidecars: list[bytes]
    exact: list[str]
    stats: list[Stats]


class _Found(NamedTuple):
    """Entries as columns: names, digests of contents and of metadata, sizes of contents, metadata,
    tags and stats."""

    names: Sequence[str]
    contents: Sequence[str]
    digests: Sequence[str]
    sizes: Sequence[int]
    metadata: Sequence[bytes]
    tags: Sequence[str]
    stats: Sequence[Stats]


_Row = tuple[str, str, str, int, bytes, str, Stats]
"""One entry of `_Found`."""

_NOTHING = _Found((), (), (), (), (), (), ())


def _settled(one: os.stat_result, two: os.stat_result, before: int) -> Stats:
    changed = max(one.st_mtime_ns, one.st_ctime_ns, two.st_mtime_ns, two.st_ctime_ns)
    return _numbers(one, two) if changed < before else _UNSETTLED


def _numbers(one: os.stat_result, two: os.stat_result) -> Stats:
    return (
        one.st_size,
        one.st_mtime_ns,
        one.st_ctime_ns,
        one.st_ino,
        two.st_size,
        two.st_mtime_ns,
        two.st_ctime_ns,
        two.st_ino,
    )


def _parts(found: EntryState) -> tuple[str, str, int, bytes]:
    state = found.state
    return state.content, state.metadata, state.bytes, _encode(found.metadata)


def _row_of(name: str, known: Known) -> _Row:
    _, state = read_line(known.line)
    return (
        name,
        state.content,
        state.metadata,
        state.bytes,
        known.metadata,
        known.tag,
        known.stats,
    )


def _made(prefix: str, found: _Found, notes: dict[str, str]) -> Read:
    names = found.names
    states = zip(names, found.contents, found.digests, found.sizes, strict=True)
    if is_plain(prefix + "".join(names)):
        lines = "".join(
            [
                plain_line(prefix + name, content, digest, size)
                for name, content, digest, size in states
            ]
        ).encode()
    else:
        lines = b"".join(
            [
                state_line(prefix + name, State(content=content, metadata=digest, bytes=size))
                for name, content, digest, size in states
            ]
        )
    stretch = Stretch(
        first=prefix + names[0],
        last=prefix + names[-1],
        count=len(names),
        size=sum(found.sizes),
        lines=lines,
        metadata=b"[" + b",".join(found.metadata) + b"]",
        notes=notes,
        tags="".join(found.tags),
    )
    return Read(stretch, tuple(names), tuple(found.stats))
