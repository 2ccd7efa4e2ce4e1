"""Files that are either as they were or as they shall be; the only place that fsyncs.

Every function here works below an open folder handle where a name could be changed by somebody
else, and never follows a link in the last step. A failed fsync is final: it is not tried again on
the same descriptor, because Linux may have dropped the pages it could not write.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

STAGED_PREFIX = ".hdev-tmp-"
"""Names of files that are being written; whoever lists a store leaves them out."""


def stage(folder: int, content: bytes, *, mode: int = 0o666, sync: bool = True) -> str:
    """Write `content` under a fresh name in `folder`, and return that name.

    `mode` is subject to the umask, as for any new file.
    """
    name = STAGED_PREFIX + secrets.token_hex(8)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(name, flags, mode, dir_fd=folder)
    try:
        try:
            write_all(descriptor, content)
            if sync:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except BaseException:
        discard(folder, name)
        raise
    return name


def write_all(descriptor: int, content: bytes) -> None:
    """`os.write` until nothing is left."""
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]


def publish_new(folder: int, staged: str, name: str) -> None:
    """Give a staged file its name; raises FileExistsError when something has that name."""
    os.link(staged, name, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
    discard(folder, staged)


def publish_over(folder: int, staged: str, name: str) -> None:
    """Let a staged file take the place of `name` in one step."""
    os.rename(staged, name, src_dir_fd=folder, dst_dir_fd=folder)


def discard(folder: int, name: str) -> None:
    """Remove a staged file, if it is still there."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name, dir_fd=folder)


def sync_folder(folder: int) -> None:
    """Make the names in an open folder survive power loss."""
    os.fsync(folder)


@contextlib.contextmanager
def opened_folder(path: Path) -> Iterator[int]:
    """A handle on the folder at `path`."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def write_whole(path: Path, content: bytes) -> None:
    """Replace the file at `path`, or create it; after a crash it is the old or the new one."""
    with opened_folder(path.parent) as folder:
        staged = stage(folder, content)
        try:
            publish_over(folder, staged, path.name)
        except BaseException:
            discard(folder, staged)
            raise
        sync_folder(folder)


def append(descriptor: int, content: bytes) -> None:
    """Add to the end of a file opened with O_APPEND, durably."""
    write_all(descriptor, content)
    os.fsync(descriptor)


def try_lock(descriptor: int) -> bool:
    """Take an exclusive lock, which ends with the process; False when somebody else has it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
