"""Files that are either as they were or as they shall be; the only place that changes a disk.

Every change of a file or a name that matters goes through `disk`, one thin object of system calls,
so that a test can count them, fail them, or lose their effects as a power cut does. Functions work
below an open folder handle where a name could be changed by somebody else, and never follow a link
in the last step. A failed fsync is final: it is not tried again on the same descriptor, because
Linux may have dropped the pages it could not write.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import functools
import os
import secrets
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

STAGED_PREFIX = ".hdev-tmp-"
"""Names of files that are being written, or were displaced; whoever lists a store leaves them
out."""

KEPT_PREFIX = ".hdev-kept-"
"""Names under which bytes of somebody else were set aside; only people remove them."""

PROBE = "probe"
"""The label of the files with which a filesystem is tried out; they hold nothing."""

GROUP = 32
"""From so many files on, one sync of the whole filesystem is cheaper than one for each."""

_NOREPLACE, _EXCHANGE = 1, 2  # linux/fs.h
_EXCL, _SWAP = 4, 2  # sys/stdio.h of macOS


class Disk:
    """The system calls that change what is on disk. Each raises OSError as the call does."""

    def create(self, folder: int, name: str, mode: int = 0o666) -> int:
        """A descriptor of a new empty file; `mode` is subject to the umask."""
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        return os.open(name, flags, mode, dir_fd=folder)

    def write(self, descriptor: int, content: bytes | memoryview) -> int:
        return os.write(descriptor, content)

    def truncate(self, descriptor: int, size: int) -> None:
        os.ftruncate(descriptor, size)

    def sync(self, descriptor: int) -> None:
        """Make a file's bytes, or the names in a folder, survive power loss."""
        os.fsync(descriptor)
        if sys.platform == "darwin":  # fsync there stops at the drive's cache
            fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)

    def sync_filesystem(self, descriptor: int) -> None:
        """The same for everything on the filesystem of `descriptor` (Linux only).

        Reports write errors since Linux 5.8 (syncfs(2)).
        """
        _check(_libc().syncfs(descriptor))

    def make_folder(self, folder: int, name: str) -> None:
        os.mkdir(name, dir_fd=folder)

    def rename_new(self, folder: int, old: str, new: str) -> None:
        """Rename, unless something has the new name: then FileExistsError."""
        _rename(folder, old, new, _NOREPLACE, _EXCL)

    def exchange(self, folder: int, one: str, other: str) -> None:
        """Let two files trade their names in one step."""
        _rename(folder, one, other, _EXCHANGE, _SWAP)

    def replace(self, folder: int, old: str, new: str) -> None:
        os.rename(old, new, src_dir_fd=folder, dst_dir_fd=folder)

    def link(self, folder: int, old: str, new: str) -> None:
        os.link(old, new, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)

    def unlink(self, folder: int, name: str) -> None:
        os.unlink(name, dir_fd=folder)


disk = Disk()
"""What everything here goes through."""


@functools.cache
def _libc() -> Any:
    return ctypes.CDLL(None, use_errno=True)


def _check(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _rename(folder: int, old: str, new: str, linux: int, macos: int) -> None:
    names = (folder, os.fsencode(old), folder, os.fsencode(new))
    try:
        if sys.platform == "darwin":
            _check(_libc().renameatx_np(*names, macos))
        else:
            _check(_libc().renameat2(*names, linux))
    except AttributeError:  # a C library without the call
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS)) from None


def exchanges(folder: int) -> bool:
    """Whether the filesystem of a folder keeps its word on rename_new and exchange: tried out there
    with two files of our own."""
    one, other = staged_name(PROBE), staged_name(PROBE)
    try:
        for name in (one, other):
            descriptor = disk.create(folder, name)
            try:
                disk.write(descriptor, name.encode())
            finally:
                os.close(descriptor)
        disk.exchange(folder, one, other)
        if _read(folder, one) != other.encode():
            return False
        with contextlib.suppress(FileExistsError):
            disk.rename_new(folder, one, other)
            return False
        return _read(folder, other) == one.encode()
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
            return False
        raise
    finally:
        discard(folder, one)
        discard(folder, other)


def _read(folder: int, name: str) -> bytes:
    descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    try:
        return os.read(descriptor, 4096)
    finally:
        os.close(descriptor)


def staged_name(label: str) -> str:
    """A fresh name of our own, with `label` in it."""
    return f"{STAGED_PREFIX}{label}-{secrets.token_hex(6)}"


def stage(
    folder: int, content: bytes, *, label: str = "file", mode: int = 0o666, sync: bool = True
) -> str:
    """Write `content` under a fresh name with `label` in it, and return that name.

    What was written is read again: a write that only says that it was done is an OSError here.
    `mode` is subject to the umask, as for any new file.
    """
    name = staged_name(label)
    descriptor = disk.create(folder, name, mode)
    try:
        try:
            write_all(descriptor, content)
            if sync:
                disk.sync(descriptor)
            if os.pread(descriptor, len(content) + 1, 0) != content:
                raise OSError(errno.EIO, "what was written does not read back")
        finally:
            os.close(descriptor)
    except BaseException:
        with contextlib.suppress(OSError):
            discard(folder, name)
        raise
    return name


def write_all(descriptor: int, content: bytes) -> None:
    """Write until nothing is left."""
    view = memoryview(content)
    while view:
        view = view[disk.write(descriptor, view) :]


def discard(folder: int, name: str) -> None:
    """Remove a staged file, if it is still there."""
    with contextlib.suppress(FileNotFoundError):
        disk.unlink(folder, name)


def keep(folder: int, name: str, about: str) -> str:
    """Set a staged file aside for people, and return the name under which it is kept."""
    short = about.encode()[:120].decode(errors="ignore")
    kept = f"{KEPT_PREFIX}{short}-{secrets.token_hex(4)}"
    disk.replace(folder, name, kept)
    return kept


@contextlib.contextmanager
def opened_folder(path: Path) -> Iterator[int]:
    """A handle on the folder at `path`."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def make_folders(path: Path, *, sync: bool = True) -> None:
    """Make a folder and those above it, durably; nothing when it is there.

    The name of the last that is there already is synced as well: who made it may have been cut off
    before that.
    """
    missing = []
    while not path.is_dir():
        missing.append(path.name)
        path = path.parent
    if missing and sync:
        with opened_folder(path) as last:
            sync_name(last)
    for name in reversed(missing):
        with opened_folder(path) as parent:
            with contextlib.suppress(FileExistsError):
                disk.make_folder(parent, name)
            if sync:
                disk.sync(parent)
        path = path / name


def sync_name(folder: int) -> None:
    """Make the name of an open folder durable, where the folder above it may be read."""
    try:
        above = os.open("..", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=folder)
    except PermissionError:
        return  # then it is not ours, and nor is that name
    try:
        disk.sync(above)
    finally:
        os.close(above)


def write_whole(path: Path, content: bytes, *, mode: int = 0o666) -> None:
    """Replace the file at `path`, or create it; after a crash it is the old or the new one.

    `mode` is subject to the umask, as for any new file.
    """
    with opened_folder(path.parent) as folder:
        staged = stage(folder, content, mode=mode)
        try:
            disk.replace(folder, staged, path.name)
        except BaseException:
            discard(folder, staged)
            raise
        disk.sync(folder)


def append(descriptor: int, content: bytes) -> None:
    """Add to the end of a file opened with O_APPEND, durably, and read it again.

    Raises OSError as well where it does not stand there: a write that only says that it was done,
    or somebody else who writes to the same end.
    """
    end = os.fstat(descriptor).st_size
    write_all(descriptor, content)
    disk.sync(descriptor)
    if os.pread(descriptor, len(content) + 1, end) != content:
        raise OSError(errno.EIO, "what was written does not read back")


def write_stream(path: Path, parts: Iterator[bytes]) -> None:
    """Write a new file from its parts, durably; its name is not synced."""
    with opened_folder(path.parent) as folder:
        descriptor = disk.create(folder, path.name)
        try:
            for part in buffered(parts):
                write_all(descriptor, part)
            disk.sync(descriptor)
        finally:
            os.close(descriptor)


def replace_stream(path: Path, parts: Iterator[bytes]) -> None:
    """Replace the file at `path`, or create it, from its parts; else it stays as it was."""
    draft = path.with_name(staged_name("file"))
    with opened_folder(path.parent) as folder:
        try:
            write_stream(draft, parts)
            disk.replace(folder, draft.name, path.name)
        except BaseException:
            with contextlib.suppress(OSError):
                discard(folder, draft.name)
            raise
        disk.sync(folder)


def buffered(parts: Iterator[bytes], size: int = 1 << 20) -> Iterator[bytes]:
    """The same bytes in pieces of about `size`."""
    waiting: list[bytes] = []
    length = 0
    for part in parts:
        waiting.append(part)
        length += len(part)
        if length >= size:
            yield b"".join(waiting)
            waiting, length = [], 0
    if waiting:
        yield b"".join(waiting)


def try_lock(descriptor: int) -> bool:
    """Take an exclusive lock, which ends with the process; False when somebody else has it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def syncer(descriptor: int, files: int) -> Callable[[], None] | None:
    """One sync for many files, where that is to be had; None where each is to be synced."""
    if files >= GROUP and sys.platform == "linux":
        return lambda: disk.sync_filesystem(descriptor)
    return None
