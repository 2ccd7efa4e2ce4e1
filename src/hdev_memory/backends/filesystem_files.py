"""The two files of an entry in a folder: how they are reached, read, and told apart."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import stat
from collections.abc import Callable

import msgspec

from hdev_memory import durable
from hdev_memory.backends.base import MAX_ENTRY_BYTES, Unknown
from hdev_memory.core.digest import (
    Digest,
    NotCanonical,
    decode_bytes,
    sha256,
)
from hdev_memory.core.entry import (
    Absent,
    Entry,
    EntryState,
    InvalidKey,
    Metadata,
    Normalisation,
    Unreadable,
    check_key,
    display_name,
    metadata_digest,
)

CONTENT = ".md"
METADATA = ".metadata.json"

READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

LINK = "is a symbolic link; links are not followed"


class NotAFile(Exception):
    """Something that is no regular file has the name."""


class TooLarge(Exception):
    """The file is larger than anything that is read."""


class Cursor:
    """Handles on the folders along one path, reused while keys come in order.

    It lives for one batch only, so that a folder moved away is not written to for long.
    """

    def __init__(self, root: int | None, together: Callable[[], None] | None = None) -> None:
        """`together` syncs everything below the root at once, where there is such a thing."""
        self._root = root
        self._together = together
        self._steps: list[tuple[str, int]] = []
        self._here: str | None = None
        """The path of the last of the steps; None where it is not known."""
        self._dirty: dict[str, int] = {}
        self._changed = False

    def __enter__(self) -> Cursor:
        return self

    def __exit__(self, *error: object) -> None:
        for _, descriptor in self._steps:
            os.close(descriptor)
        for descriptor in self._dirty.values():
            os.close(descriptor)
        self._steps.clear()
        self._dirty.clear()
        self._here = None

    def go(self, path: str, *, create: bool = False) -> int:
        """A handle on the folder at `path` below the root, reached without following links.

        Raises FileNotFoundError, or OSError for a link, a file or a closed folder on the way.
        """
        if path == self._here:
            return self._steps[-1][1]
        if self._root is None:
            raise FileNotFoundError(errno.ENOENT, "no such folder")
        self._here = None
        names = path.split("/") if path else []
        same = 0
        while same < min(len(names), len(self._steps)) and self._steps[same][0] == names[same]:
            same += 1
        while len(self._steps) > same:
            os.close(self._steps.pop()[1])
        for depth in range(same, len(names)):
            here = self._steps[-1][1] if self._steps else self._root
            if create:
                self._make(here, names, depth)
            self._steps.append((names[depth], os.open(names[depth], FOLDER, dir_fd=here)))
        if not self._steps:
            return self._root
        self._here = path
        return self._steps[-1][1]

    def _make(self, here: int, names: list[str], depth: int) -> None:
        with contextlib.suppress(FileExistsError):
            durable.disk.make_folder(here, names[depth])

    def dirty(self, path: str) -> None:
        """Remember that names in the folder at `path` have changed.

        Those above it count as well: who made a folder may have been cut off before its name was
        durable, and what lies in it would be lost with it.
        """
        self.go(path)
        self._changed = True
        if self._together is not None:
            return
        assert self._root is not None
        self._remember("", self._root)
        above = ""
        for name, descriptor in self._steps:
            above += name + "/"
            self._remember(above, descriptor)

    def _remember(self, path: str, descriptor: int) -> None:
        if path not in self._dirty:
            if len(self._dirty) == _MOST_DIRTY:
                self._sync_each()
            self._dirty[path] = os.dup(descriptor)

    def sync(self) -> None:
        """Make every change of names since the last call survive power loss."""
        if self._together is not None and self._changed:
            self._together()
        self._sync_each()
        self._changed = False

    def _sync_each(self) -> None:
        while self._dirty:
            _, descriptor = self._dirty.popitem()
            try:
                durable.disk.sync(descriptor)
            finally:
                os.close(descriptor)


_MOST_DIRTY = 100
"""Folders that are remembered by a handle; with more of them they are synced at once."""


def encode_metadata(metadata: Metadata) -> bytes:
    """The sidecar's bytes as the existing tool writes them: indented, ASCII, no final newline.

    Raises ValueError for what JSON cannot hold.
    """
    try:
        # Indented in a second step: the encoder of Python that indents is ten times slower.
        return msgspec.json.format(_compact(metadata).encode(), indent=2)
    except msgspec.DecodeError:
        raise ValueError("it holds half of a surrogate pair, which is no text") from None


_compact = json.JSONEncoder(ensure_ascii=True, allow_nan=False).encode


def look(cursor: Cursor, key: str) -> Entry | Absent | Unreadable:
    """Read an entry by its key."""
    try:
        parent, _, name = check_key(key).rpartition("/")
    except InvalidKey as error:
        return Unreadable(key=display_name(key), reason=f"the key {error}")
    try:
        folder = cursor.go(parent)
    except FileNotFoundError:
        return Absent(key=key)
    except OSError as error:
        return Unreadable(key=key, reason=why(error, "a folder above it"))
    entry = read_entry(folder, key, name)
    if isinstance(entry, Absent):
        reason = _in_the_way(folder, name)
        if reason is not None:
            return Unreadable(key=key, reason=reason)
    return entry


def read_entry(folder: int, key: str, name: str) -> Entry | Absent | Unreadable:
    """Read the entry `name` in an open folder; absent when it has no content file."""
    try:
        content = read_file(folder, name + CONTENT, MAX_ENTRY_BYTES)
    except FileNotFoundError:
        return Absent(key=key)
    except (OSError, NotAFile, TooLarge) as error:
        return Unreadable(key=key, reason=why(error, "its content"))
    try:
        if not content.isascii():
            content.decode()
    except UnicodeDecodeError as error:
        return Unreadable(key=key, reason=f"its content is not UTF-8 (byte {error.start})")
    try:
        sidecar = read_file(folder, name + METADATA, MAX_ENTRY_BYTES)
    except FileNotFoundError:
        note = "its metadata file is missing"
        return Entry(key=key, content=content, metadata={}, note=note, sidecar=b"")
    except (OSError, NotAFile, TooLarge) as error:
        return Unreadable(key=key, reason=why(error, "its metadata"))
    try:
        metadata = decode_bytes(sidecar)
    except UnicodeDecodeError:
        return Unreadable(key=key, reason="its metadata is not UTF-8")
    except NotCanonical as error:
        return Unreadable(key=key, reason=f"its metadata {error}")
    return Entry(key=key, content=content, metadata=metadata, sidecar=sidecar)


def state_read(
    found: Entry | Absent | Unreadable, normalisation: Normalisation
) -> EntryState | Absent | Unreadable:
    """The state of what was read; an entry whose metadata has no canonical form is unreadable."""
    if not isinstance(found, Entry):
        return found
    try:
        return normalisation.entry_state(found)
    except NotCanonical as error:
        return Unreadable(key=found.key, reason=f"its metadata {error}")


def file_digest(folder: int, file: str, suffix: str, normalisation: Normalisation) -> Digest | None:
    """The digest of one part of an entry: of the file `file` taken for its CONTENT or METADATA.

    None where there is no such file. Raises Unknown where it cannot be told.
    """
    what = "its content" if suffix == CONTENT else "its metadata"
    try:
        found = read_file(folder, file, MAX_ENTRY_BYTES)
        if suffix == CONTENT:
            return sha256(normalisation.content(found))
        return metadata_digest(normalisation.metadata(decode_bytes(found)))
    except FileNotFoundError:
        return None
    except (OSError, NotAFile, TooLarge) as error:
        raise Unknown(why(error, what)) from None
    except UnicodeDecodeError:
        raise Unknown(f"{what} is not UTF-8") from None
    except NotCanonical as error:
        raise Unknown(f"{what} {error}") from None


def read_file(folder: int, name: str, limit: int) -> bytes:
    """The bytes of a regular file. Raises OSError, NotAFile or TooLarge."""
    # O_NONBLOCK: a FIFO under an entry's name must not stop us for ever.
    descriptor = os.open(name, READ, dir_fd=folder)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise NotAFile
        if status.st_size > limit:
            raise TooLarge
        # One byte more than its size: a short read is the end of a regular file.
        content = os.read(descriptor, status.st_size + 1)
        if len(content) <= status.st_size and (content or not status.st_size):
            return content
        return _read_growing(descriptor, content, limit)
    finally:
        os.close(descriptor)


def read_rest(descriptor: int, content: bytes) -> bytes:
    """The whole of an open file of which `content` was read; as `read_file` otherwise."""
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise NotAFile
    if status.st_size > MAX_ENTRY_BYTES:
        raise TooLarge
    more = os.read(descriptor, max(0, status.st_size - len(content)) + 1) if content else b""
    if len(content) + len(more) == status.st_size:
        return content + more
    return _read_growing(descriptor, content + more, MAX_ENTRY_BYTES)


def _read_growing(descriptor: int, content: bytes, limit: int) -> bytes:
    """The rest of a file that grew while it was read."""
    parts = [content]
    size = len(content)
    while part := os.read(descriptor, 1 << 20):
        parts.append(part)
        size += len(part)
        if size > limit:
            raise TooLarge
    return b"".join(parts)


def why(error: Exception, what: str) -> str:
    """What is wrong with a file, in words for people."""
    match error:
        case NotAFile():
            return f"{what} is not a regular file"
        case TooLarge():
            return f"{what} is larger than {MAX_ENTRY_BYTES} bytes"
        case OSError(errno=errno.ELOOP):
            return f"{what} is a symbolic link; links are not followed"
        case OSError(errno=errno.ENOTDIR):
            return f"{what} is not a folder, or a symbolic link; links are not followed"
        case OSError():
            return f"{what} cannot be read: {error.strerror}"
        case _:
            raise error


def _in_the_way(folder: int, name: str) -> str | None:
    """What stands under an absent entry's names and is not part of an entry."""
    for suffix in (CONTENT, METADATA):
        try:
            status = os.stat(name + suffix, dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError:
            continue
        except OSError as error:
            return why(error, "its place")
        if suffix == METADATA and stat.S_ISREG(status.st_mode):
            return "has metadata but no content"
        return f"something that is no file stands where its {suffix} file must be"
    return None
