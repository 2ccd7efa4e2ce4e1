"""A folder of `<key>.md` and `<key>.metadata.json`: the sidecar layout of the existing tool.

Every step below the root goes through a folder handle with O_NOFOLLOW, so that no name, and no link
put in place during the run, leads outside. Reading is one plain loop of `scandir`, `open`, `read`:
a thread or task for each file is two to ten times slower when the files are in the page cache.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import msgspec

from hdev_memory import durable
from hdev_memory.backends.base import (
    EVERYTHING,
    MAX_ENTRY_BYTES,
    PERMISSION_DENIED,
    UNATTENDED,
    Change,
    Drifted,
    Endpoint,
    Failed,
    Put,
    Receipt,
    Remove,
    Removed,
    Scope,
    Session,
    Stored,
    Whole,
    parts_of,
)
from hdev_memory.core.digest import NotCanonical, decode_object
from hdev_memory.core.entry import (
    Absent,
    Capabilities,
    Entry,
    EntryState,
    InvalidKey,
    Metadata,
    Normalisation,
    Parts,
    State,
    Unreadable,
    check_key,
    display_name,
)
from hdev_memory.errors import StoreError

CONTENT = ".md"
METADATA = ".metadata.json"
STORE_MARKER = ".hdev-store"
"""A file in the root of a store that a memory server keeps: `{"store": "<id>"}`."""

CAPABILITIES = Capabilities(
    cas="guarded",
    durability="synced",
    beside=(CONTENT + "/", METADATA + "/"),
    max_segment_bytes=255 - len(METADATA),
)

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

_ENTRY, _DOWN, _REPORT = range(3)
_Item = tuple[str, int, str, str]
"""What a folder holds: sort name, what to do with it, name on disk, reason (for _REPORT)."""


class FilesystemBackend(Whole):
    """The store in one folder; the folder need not exist for a target."""

    def __init__(self, location: str, *, must_exist: bool, sync: bool = True) -> None:
        """Raises StoreError when the folder is missing (for a source), is none, or is closed to us.

        `sync=False` gives up durability, for targets that may be thrown away.
        """
        self._path = Path(location)
        self._root: int | None = None
        self._sync = sync
        self.ignored = 0
        self.stores: set[str] = set()
        self._root = self._open_root(must_exist)
        store = self._marker(self._root) if self._root is not None else None
        self.endpoint = Endpoint(kind="filesystem", location=location, store=store)
        self.stores = {store} if store is not None else set()
        self.capabilities = CAPABILITIES
        if not sync:
            self.capabilities = msgspec.structs.replace(CAPABILITIES, durability="unknown")

    def _open_root(self, must_exist: bool) -> int | None:
        try:
            # The root itself may be reached through links: the user named it. Nothing below may.
            return os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            if not must_exist:
                return None
            raise StoreError(
                "There is no memory at the source path.",
                why=f"{self._path} does not exist.",
                hint="Check the path; nothing was created.",
            ) from None
        except NotADirectoryError:
            raise StoreError(
                "A memory store must be a folder.", why=f"{self._path} is something else."
            ) from None
        except OSError as error:
            raise StoreError(
                "The memory folder cannot be opened.", why=f"{self._path}: {error.strerror}."
            ) from None

    @staticmethod
    def _marker(folder: int) -> str | None:
        try:
            text = _read_file(folder, STORE_MARKER, 1024)
        except (OSError, _NotAFile, _TooLarge):
            return None
        with contextlib.suppress(NotCanonical, UnicodeDecodeError):
            store = decode_object(text.decode()).get("store")
            if isinstance(store, str) and store.isascii() and store.isprintable():
                return store
        return None

    def present(self) -> bool:
        """Whether the path still leads to the folder that was opened."""
        if self._root is None:
            return True
        try:
            return os.path.samestat(os.stat(self._path), os.fstat(self._root))
        except OSError:
            return False

    def close(self) -> None:
        if self._root is not None:
            os.close(self._root)
            self._root = None

    # Looking

    def keys(self, scope: Scope = EVERYTHING) -> Iterator[str]:
        for _, key, _, reason in self._walk(scope):
            if not reason:
                yield key

    def snapshot(
        self, scope: Scope, normalisation: Normalisation
    ) -> Iterator[EntryState | Unreadable]:
        for folder, key, name, reason in self._walk(scope):
            if reason:
                yield Unreadable(key=key, reason=reason)
                continue
            entry = self._read_entry(folder, key, name)
            match entry:
                case Entry():
                    try:
                        yield normalisation.entry_state(entry)
                    except NotCanonical as error:
                        yield Unreadable(key=key, reason=f"its metadata {error}")
                case Unreadable():
                    yield entry
                case Absent():  # removed since the folder was listed
                    pass

    def _walk(self, scope: Scope) -> Iterator[tuple[int, str, str, str]]:
        """(folder handle, key, last segment, reason) for every entry, sorted by key.

        Where `reason` is not empty the rest is an Unreadable. A folder sorts as its name with a
        slash, which is what makes the keys come out in the order of whole keys.
        """
        self.ignored = 0
        if self._root is None:
            return
        stack: list[tuple[int, str, Iterator[_Item]]] = []
        # Opened anew, not duplicated: duplicates share the place in the listing, and two listings
        # at once (the server's threads) would each lose names to the other.
        root = os.open(".", _FOLDER, dir_fd=self._root)
        try:
            stack.append((root, "", iter(self._list(root, "", scope))))
            while stack:
                folder, prefix, items = stack[-1]
                item = next(items, None)
                if item is None:
                    os.close(stack.pop()[0])
                    continue
                sort_name, kind, name, reason = item
                if kind == _ENTRY:
                    yield folder, prefix + name, name, ""
                elif kind == _REPORT:
                    yield folder, prefix + sort_name, "", reason
                else:
                    below = self._enter(folder, name, prefix)
                    if isinstance(below, str):
                        yield folder, prefix + sort_name, "", below
                    elif below is not None:
                        path = prefix + name + "/"
                        try:
                            stack.append((below, path, iter(self._list(below, path, scope))))
                        except BaseException:
                            os.close(below)
                            raise
        finally:
            for folder, _, _ in stack:
                os.close(folder)

    def _enter(self, folder: int, name: str, prefix: str) -> int | str | None:
        """A handle on a folder below; a reason when it became a link, None when it is gone."""
        try:
            return os.open(name, _FOLDER, dir_fd=folder)
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENOTDIR):
                return _LINK
            raise self._unlistable(prefix + name, error) from None

    def _unlistable(self, path: str, error: OSError) -> StoreError:
        place = self._path / path if path else self._path
        return StoreError(
            "A folder of the memory cannot be listed, so nothing can be said of what it holds.",
            why=f"{place}: {error.strerror}.",
            hint="Make it readable, or leave it out with --exclude.",
        )

    def _list(self, folder: int, prefix: str, scope: Scope) -> list[_Item]:
        """What a folder holds that matters, sorted."""
        contents: set[str] = set()
        sidecars: set[str] = set()
        old: list[str] = []
        items: list[_Item] = []
        try:
            with os.scandir(folder) as listing:
                for found in listing:
                    name = found.name
                    if found.is_dir(follow_symlinks=False):
                        if scope.folder(prefix + name):
                            items.append(self._folder_item(prefix, name))
                    elif name.endswith(METADATA) and name != METADATA:
                        sidecars.add(name[: -len(METADATA)])
                    elif name.endswith(CONTENT) and name != CONTENT:
                        contents.add(name[: -len(CONTENT)])
                    elif name == STORE_MARKER:
                        store = self._marker(folder)
                        self.stores |= {store} if store is not None else set()
                    elif name.startswith(durable.STAGED_PREFIX):
                        pass
                    elif found.is_symlink() and found.is_dir() and scope.folder(prefix + name):
                        items.append((display_name(name) + "/", _REPORT, name, _LINK))
                    else:
                        self.ignored += 1
                        if name.endswith(".json"):
                            old.append(name.removesuffix(".json"))
        except OSError as error:
            raise self._unlistable(prefix.rstrip("/"), error) from None
        folders = {name for _, kind, name, _ in items if kind == _DOWN}
        items.extend(_entry_item(prefix, name) for name in contents)
        for name in sidecars - contents:
            sort_name, _, _, reason = _entry_item(prefix, name)
            if not reason and name + CONTENT in folders:
                reason = f"a folder stands where its content must be ({CONTENT})"
            items.append((sort_name, _REPORT, name, reason or "has metadata but no content"))
        for name in old:
            if name not in contents and name not in sidecars and _is_old_entry(folder, name):
                self.ignored -= 1
                items.append((_entry_item(prefix, name)[0], _REPORT, name, _OLD_FORMAT))
        items = [item for item in items if item[1] == _DOWN or scope.entry(prefix + item[0])]
        items.sort()
        return items

    @staticmethod
    def _folder_item(prefix: str, name: str) -> _Item:
        try:
            # The shortest key that could lie below: the folder may take part if this one may.
            check_key(prefix + name + "/x")
        except InvalidKey as error:
            return (_escaped(name) + "/", _REPORT, name, f"the folder's name {error}")
        return (name + "/", _DOWN, name, "")

    def _read_entry(self, folder: int, key: str, name: str) -> Entry | Absent | Unreadable:
        try:
            content = _read_file(folder, name + CONTENT, MAX_ENTRY_BYTES)
        except FileNotFoundError:
            return Absent(key=key)
        except (OSError, _NotAFile, _TooLarge) as error:
            return Unreadable(key=key, reason=_why(error, "its content"))
        try:
            content.decode()
        except UnicodeDecodeError as error:
            reason = f"its content is not UTF-8 (byte {error.start})"
            return Unreadable(key=key, reason=reason)
        try:
            text = _read_file(folder, name + METADATA, MAX_ENTRY_BYTES)
        except FileNotFoundError:
            return Entry(key=key, content=content, metadata={}, note="its metadata file is missing")
        except (OSError, _NotAFile, _TooLarge) as error:
            return Unreadable(key=key, reason=_why(error, "its metadata"))
        try:
            metadata = decode_object(text.decode())
        except UnicodeDecodeError:
            return Unreadable(key=key, reason="its metadata is not UTF-8")
        except NotCanonical as error:
            return Unreadable(key=key, reason=f"its metadata {error}")
        return Entry(key=key, content=content, metadata=metadata)

    def read(self, keys: Iterable[str]) -> Iterator[Entry | Absent | Unreadable]:
        with _Cursor(self._root) as cursor:
            for key in keys:
                yield self._look(cursor, key)

    def _look(self, cursor: _Cursor, key: str) -> Entry | Absent | Unreadable:
        try:
            parent, _, name = check_key(key).rpartition("/")
        except InvalidKey as error:
            return Unreadable(key=display_name(key), reason=f"the key {error}")
        try:
            folder = cursor.go(parent)
        except FileNotFoundError:
            return Absent(key=key)
        except OSError as error:
            return Unreadable(key=key, reason=_why(error, "a folder above it"))
        entry = self._read_entry(folder, key, name)
        if isinstance(entry, Absent):
            reason = _in_the_way(folder, name)
            if reason is not None:
                return Unreadable(key=key, reason=reason)
        return entry

    def obstacle(self, key: str) -> str | None:
        with _Cursor(self._root) as cursor:
            match self._look(cursor, key):
                case Unreadable(reason=reason):
                    return f"target: {reason}"
                case _:
                    return None

    # Writing

    def parts(self, key: str, normalisation: Normalisation) -> Parts | Unreadable:
        (found,) = self.read([key])
        return parts_of(found, normalisation)

    def write(
        self,
        batch: Sequence[Change],
        normalisation: Normalisation,
        session: Session = UNATTENDED,
    ) -> Sequence[Receipt]:
        if self._root is None:
            self._create_root()
        with _Cursor(self._root) as cursor:
            staged = [self._prepare(cursor, change, normalisation) for change in batch]
            session.intend([item.change for item in staged if isinstance(item, _Staged)])
            receipts = [
                item if not isinstance(item, _Staged) else self._effect(cursor, item, normalisation)
                for item in staged
            ]
            if self._sync:
                cursor.sync()
            return receipts

    def _create_root(self) -> None:
        try:
            created = [path for path in (self._path, *self._path.parents) if not path.exists()]
            self._path.mkdir(parents=True, exist_ok=True)
            if self._sync:
                for path in created:
                    with durable.opened_folder(path.parent) as parent:
                        durable.sync_folder(parent)
        except OSError as error:
            raise StoreError(
                "The target folder cannot be created.", why=f"{self._path}: {error.strerror}."
            ) from None
        self._root = self._open_root(must_exist=True)

    def _prepare(
        self, cursor: _Cursor, change: Change, normalisation: Normalisation
    ) -> _Staged | Receipt:
        """Check the precondition and stage what will be written; nothing has a name yet."""
        refusal = self._precondition(cursor, change, normalisation)
        if refusal is not None:
            return refusal
        if isinstance(change, Remove):
            return _Staged(change, "", "")
        try:
            metadata = encode_metadata(change.metadata)
        except ValueError:
            reason = "its metadata cannot be written as JSON"
            return Failed(key=change.key, reason=reason, intact=True)
        parent, _, name = change.key.rpartition("/")
        content_name = ""
        try:
            folder = cursor.go(parent, create=True)
            mode = _mode(folder, name + CONTENT)
            content_name = durable.stage(folder, change.content, mode=mode, sync=self._sync)
            metadata_name = durable.stage(folder, metadata, mode=mode, sync=self._sync)
        except OSError as error:
            if content_name:
                durable.discard(folder, content_name)
            return Failed(key=change.key, reason=_write_reason(error), intact=True)
        return _Staged(change, content_name, metadata_name)

    def _precondition(
        self, cursor: _Cursor, change: Change, normalisation: Normalisation
    ) -> Drifted | Failed | None:
        entry = self._look(cursor, change.key)
        try:
            found = _state_of(entry, normalisation)
        except _Unknown as error:
            return Failed(key=change.key, reason=str(error), intact=True)
        if found != change.before:
            return Drifted(key=change.key, found=found)
        return None

    def _effect(self, cursor: _Cursor, staged: _Staged, normalisation: Normalisation) -> Receipt:
        """Look once more, give the staged files their names, and read back what stands there."""
        change = staged.change
        parent, _, name = change.key.rpartition("/")
        refusal = self._precondition(cursor, change, normalisation)
        try:
            folder = cursor.go(parent)
        except OSError as error:
            return Failed(key=change.key, reason=_write_reason(error), intact=False)
        if refusal is not None:
            staged.discard(folder)
            return refusal
        reason = "what was read back differs"
        try:
            cursor.dirty(parent)
            if isinstance(change, Remove):
                os.unlink(name + CONTENT, dir_fd=folder)
                durable.discard(folder, name + METADATA)
            else:
                staged.publish(folder, name)
        except FileExistsError:
            reason = "somebody else wrote it meanwhile"
        except OSError as error:
            reason = _write_reason(error)
        finally:
            staged.discard(folder)
        return self._settle(cursor, change, reason, normalisation)

    def _settle(
        self, cursor: _Cursor, change: Change, reason: str, normalisation: Normalisation
    ) -> Receipt:
        """The receipt, decided by reading what stands there now."""
        after = change.after if isinstance(change, Put) else None
        try:
            found = _state_of(self._look(cursor, change.key), normalisation)
        except _Unknown as error:
            return Failed(key=change.key, reason=f"{reason}; {error}", intact=False)
        if found == after:
            return Stored(key=change.key, state=found) if found else Removed(key=change.key)
        return Failed(key=change.key, reason=reason, intact=found == change.before)


class _Staged:
    """A change whose precondition held, and the names under which its new bytes wait."""

    def __init__(self, change: Change, content: str, metadata: str) -> None:
        self.change = change
        self._content = content
        self._metadata = metadata

    def publish(self, folder: int, name: str) -> None:
        # The sidecar first: whoever sees the content of a new entry also finds its metadata.
        if self.change.before is None:
            durable.publish_new(folder, self._metadata, name + METADATA)
            try:
                durable.publish_new(folder, self._content, name + CONTENT)
            except BaseException:
                durable.discard(folder, name + METADATA)
                raise
        else:
            durable.publish_over(folder, self._metadata, name + METADATA)
            durable.publish_over(folder, self._content, name + CONTENT)

    def discard(self, folder: int) -> None:
        for staged in (self._content, self._metadata):
            if staged:
                durable.discard(folder, staged)


class _Cursor:
    """Handles on the folders along one path, reused while keys come in order.

    It lives for one batch only, so that a folder moved away is not written to for long.
    """

    def __init__(self, root: int | None) -> None:
        self._root = root
        self._steps: list[tuple[str, int]] = []
        self._dirty: dict[str, int] = {}

    def __enter__(self) -> _Cursor:
        return self

    def __exit__(self, *error: object) -> None:
        for _, descriptor in self._steps:
            os.close(descriptor)
        for descriptor in self._dirty.values():
            os.close(descriptor)
        self._steps.clear()
        self._dirty.clear()

    def go(self, path: str, *, create: bool = False) -> int:
        """A handle on the folder at `path` below the root, reached without following links.

        Raises FileNotFoundError, or OSError for a link, a file or a closed folder on the way.
        """
        if self._root is None:
            raise FileNotFoundError(errno.ENOENT, "no such folder")
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
            self._steps.append((names[depth], os.open(names[depth], _FOLDER, dir_fd=here)))
        return self._steps[-1][1] if self._steps else self._root

    def _make(self, here: int, names: list[str], depth: int) -> None:
        try:
            os.mkdir(names[depth], dir_fd=here)
        except FileExistsError:
            return
        self._keep("/".join(names[:depth]), here)

    def dirty(self, path: str) -> None:
        """Remember that names in the folder at `path` have changed."""
        self._keep(path, self.go(path))

    def _keep(self, path: str, descriptor: int) -> None:
        if path not in self._dirty:
            self._dirty[path] = os.dup(descriptor)

    def sync(self) -> None:
        """Make every change of names since the start survive power loss."""
        for descriptor in self._dirty.values():
            durable.sync_folder(descriptor)


class _NotAFile(Exception):
    pass


class _TooLarge(Exception):
    pass


class _Unknown(Exception):
    pass


_LINK = "is a symbolic link; links are not followed"
_OLD_FORMAT = (
    "is stored in the older one-file format (.json); open it once with the tool that wrote it"
)


def encode_metadata(metadata: Metadata) -> bytes:
    """The sidecar's bytes as the existing tool writes them: indented, ASCII, no final newline."""
    import json

    return json.dumps(metadata, indent=2, ensure_ascii=True, allow_nan=False).encode()


def _read_file(folder: int, name: str, limit: int) -> bytes:
    # O_NONBLOCK: a FIFO under an entry's name must not stop us for ever.
    descriptor = os.open(name, _READ, dir_fd=folder)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise _NotAFile
        if status.st_size > limit:
            raise _TooLarge
        # One byte more than its size: a short read is the end of a regular file.
        content = os.read(descriptor, status.st_size + 1)
        if len(content) <= status.st_size and (content or not status.st_size):
            return content
        return _read_growing(descriptor, content, limit)
    finally:
        os.close(descriptor)


def _read_growing(descriptor: int, content: bytes, limit: int) -> bytes:
    """The rest of a file that grew while it was read."""
    parts = [content]
    size = len(content)
    while part := os.read(descriptor, 1 << 20):
        parts.append(part)
        size += len(part)
        if size > limit:
            raise _TooLarge
    return b"".join(parts)


def _why(error: Exception, what: str) -> str:
    match error:
        case _NotAFile():
            return f"{what} is not a regular file"
        case _TooLarge():
            return f"{what} is larger than {MAX_ENTRY_BYTES} bytes"
        case OSError(errno=errno.ELOOP):
            return f"{what} is a symbolic link; links are not followed"
        case OSError(errno=errno.ENOTDIR):
            return f"{what} is not a folder, or a symbolic link; links are not followed"
        case OSError():
            return f"{what} cannot be read: {error.strerror}"
        case _:
            raise error


def _write_reason(error: OSError) -> str:
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return PERMISSION_DENIED
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "No space left on target"
    if error.errno in (errno.ELOOP, errno.ENOTDIR):
        return "a folder above it is a symbolic link or a file; links are not followed"
    return f"cannot be written: {error.strerror}"


def _state_of(entry: Entry | Absent | Unreadable, normalisation: Normalisation) -> State | None:
    match entry:
        case Absent():
            return None
        case Unreadable(reason=reason):
            raise _Unknown(reason)
        case Entry():
            try:
                return normalisation.state(entry.content, entry.metadata)
            except NotCanonical as error:
                raise _Unknown(f"its metadata {error}") from None


def _in_the_way(folder: int, name: str) -> str | None:
    """What stands under an absent entry's names and is not part of an entry."""
    suffixes: tuple[str, ...] = (CONTENT, METADATA)
    for suffix in suffixes:
        try:
            status = os.stat(name + suffix, dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError:
            continue
        except OSError as error:
            return _why(error, "its place")
        if suffix == METADATA and stat.S_ISREG(status.st_mode):
            return "has metadata but no content"
        return f"something that is no file stands where its {suffix} file must be"
    return None


def _mode(folder: int, name: str) -> int:
    try:
        return stat.S_IMODE(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return 0o666


def _entry_item(prefix: str, name: str) -> _Item:
    try:
        check_key(prefix + name)
    except InvalidKey as error:
        return (_escaped(name + CONTENT), _REPORT, name, f"its name {error}")
    return (name, _ENTRY, name, "")


def _escaped(name: str) -> str:
    """A display name that no key can equal, because a backslash is in no key."""
    shown = display_name(name)
    return shown if shown != name else f"\\u{{{ord(name[0]):x}}}{name[1:]}"


def _is_old_entry(folder: int, name: str) -> bool:
    try:
        text = _read_file(folder, name + ".json", MAX_ENTRY_BYTES)
        return {"content", "metadata"} <= decode_object(text.decode()).keys()
    except (OSError, _NotAFile, _TooLarge, UnicodeDecodeError, NotCanonical):
        return False
