"""A folder of `<key>.md` and `<key>.metadata.json`: the sidecar layout of the existing tool.

Every step below the root goes through a folder handle with O_NOFOLLOW, so that no name, and no link
put in place during the run, leads outside. Reading is one plain loop of `scandir`, `open`, `read`:
a thread or task for each file is two to ten times slower when the files are in the page cache.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import time
from collections.abc import Container, Generator, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from hdev_memory import durable
from hdev_memory.backends.abreast import Aside, abreast
from hdev_memory.backends.base import (
    EVERYTHING,
    MAX_ENTRY_BYTES,
    UNATTENDED,
    Change,
    Closing,
    Endpoint,
    Holder,
    Receipt,
    Scope,
    Session,
    Transition,
)
from hdev_memory.backends.filesystem_files import (
    CONTENT,
    FOLDER,
    LINK,
    METADATA,
    Cursor,
    NotAFile,
    TooLarge,
    look,
    read_file,
)
from hdev_memory.backends.filesystem_stretch import LONGEST, Read, StretchReader
from hdev_memory.backends.filesystem_write import Batch, read_parts, tidy
from hdev_memory.backends.statcache import StatCache, identity
from hdev_memory.core.digest import NotCanonical, decode_object
from hdev_memory.core.entry import (
    MAX_KEY_BYTES,
    Absent,
    Capabilities,
    Entry,
    EntryState,
    InvalidKey,
    Normalisation,
    Parts,
    Unreadable,
    check_key,
    display_name,
)
from hdev_memory.core.stretch import Stretch
from hdev_memory.errors import LockedError, StoreError, UsageError

_BRIEF_TRIES, _BRIEF_PAUSE = 5000, 0.002
"""How often, and after how many seconds, a writer that does not hold a store tries to get in."""

_OURS = ".hdev-"
"""Files of our own in a store: staged ones, and what a server keeps beside the entries."""

STORE_MARKER = ".hdev-store"
"""A file in the root of a store that a memory server keeps: `{"store": "<id>"}`."""

CAPABILITIES = Capabilities(
    cas="atomic",
    durability="synced",
    beside=(CONTENT + "/", METADATA + "/"),
    max_segment_bytes=255 - len(METADATA),
)
"""With renames that exchange two names; `guarded` where the filesystem has none."""

_EXCHANGING = frozenset({"bcachefs", "btrfs", "ext4", "f2fs", "overlay", "tmpfs", "xfs"})
"""Filesystems of Linux that are known to exchange names; a store is tried out when it is held."""

_LOCAL = _EXCHANGING | {"ext2", "ext3", "zfs"}
"""Filesystems whose stats tell of a change at once, by the clock of this machine."""

_ENTRY, _DOWN, _REPORT = range(3)
"""An entry, a folder, and what can only be reported."""

_Item = tuple[str, int, str, str]
"""What a folder holds: sort name, what to do with it, name on disk, reason (for _REPORT)."""


class _Entries(NamedTuple):
    """Entries that follow one another in a folder; `listed` are those of two regular files."""

    names: Sequence[str]
    listed: Container[str]


_Group = _Entries | _Item
"""Entries, at most LONGEST of them together; everything else by itself."""

_TELLING = 0.02
"""How much of a store must lie behind a walk before the rest is guessed from it."""


class _Open(NamedTuple):
    """A folder that a walk is in: its handle, its keys' prefix, and what is left of it, the next
    one last. It is the part of the store from `begin` on that is `width` wide, of 0 to 1, as if all
    that stands in a folder were of one size."""

    handle: int
    prefix: str
    groups: list[_Group]
    begin: float
    width: float


class FilesystemBackend(Closing):
    """The store in one folder; the folder need not exist for a target."""

    batch = 2048

    def __init__(
        self, location: str, *, must_exist: bool, sync: bool = True, index: str | None = None
    ) -> None:
        """Raises StoreError when the folder is missing (for a source), is none, or is closed to us.

        `sync=False` gives up durability, for targets that may be thrown away. `index` is a folder,
        made when it is missing, in which `stretches` and `tagged` keep what they have read for the
        next time (see `statcache`); it may be the store itself. Nothing else here relies on that.
        """
        self._index = Path(index) if index is not None else None
        self._path = Path(location)
        self._root: int | None = None
        self._sync = sync
        self._missing: str | None = None
        """A folder that a new entry needed and that was not there, since the last snapshot: keys
        are asked for in order, so that the next one mostly needs it as well."""
        self.ignored = 0
        self.expected: int | None = None
        self.stores: set[str] = set()
        self._root = self._open_root(must_exist)
        store = self._marker(self._root) if self._root is not None else None
        self.endpoint = Endpoint(kind="filesystem", location=location, store=store)
        self.stores = {store} if store is not None else set()
        self._proved = False
        self._holding = False
        self._named = False
        self.capabilities = msgspec.structs.replace(
            CAPABILITIES,
            cas="atomic" if _seems_to_exchange(self._path) else "guarded",
            durability="synced" if sync else "unknown",
        )

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
            text = read_file(folder, STORE_MARKER, 1024)
        except (OSError, NotAFile, TooLarge):
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
        for _, prefix, group in self._walk(scope):
            if isinstance(group, _Entries):
                for name in group.names:
                    yield prefix + name

    def stretches(
        self, scope: Scope, normalisation: Normalisation, *, aside: bool = False
    ) -> Iterator[Stretch | Unreadable]:
        found = self._stretches(scope, normalisation, indexed=True)
        return abreast(found, self._learnt, self._adopt) if aside else found

    def _learnt(self) -> Aside:
        return Aside(ignored=self.ignored, stores=self.stores, expected=self.expected)

    def _adopt(self, aside: Aside) -> None:
        self.ignored = aside.ignored
        self.stores |= aside.stores
        self.expected = aside.expected

    def snapshot(
        self, scope: Scope, normalisation: Normalisation
    ) -> Generator[EntryState | Unreadable, None, None]:
        for found in self._stretches(scope, normalisation):
            if isinstance(found, Stretch):
                yield from found.entries()
            else:
                yield found

    def tagged(
        self, scope: Scope, normalisation: Normalisation
    ) -> Iterator[tuple[EntryState, str] | Unreadable]:
        for found in self._stretches(scope, normalisation, indexed=True, tagged=True):
            if isinstance(found, Stretch):
                yield from found.tagged()
            else:
                yield found

    def _stretches(
        self,
        scope: Scope,
        normalisation: Normalisation,
        *,
        indexed: bool = False,
        tagged: bool = False,
    ) -> Generator[Stretch | Unreadable, None, None]:
        self._missing = None
        cache = self._statcache(scope, normalisation, tagged=tagged) if indexed else None
        reader = StretchReader(normalisation, statted=cache is not None, tagged=tagged)
        try:
            for folder, prefix, group in self._walk(scope):
                if isinstance(group, Unreadable):
                    yield group
                    continue
                found = (
                    cache.read(reader, folder, prefix, group.names, group.listed)
                    if cache is not None
                    else reader.read(folder, prefix, group.names, group.listed, {})
                )
                for item in found:
                    yield item.stretch if isinstance(item, Read) else item
            if cache is not None:
                cache.complete()
        finally:
            if cache is not None:
                cache.close()

    def _statcache(
        self, scope: Scope, normalisation: Normalisation, *, tagged: bool
    ) -> StatCache | None:
        # Elsewhere stats may come late, or by another machine's clock.
        if self._index is None or self._root is None or _filesystem(self._path) not in _LOCAL:
            return None
        root = os.fstat(self._root)
        name = identity(self._path, root, scope, normalisation, tagged=tagged)
        return StatCache(self._index, root.st_dev, name)

    def _walk(self, scope: Scope) -> Iterator[tuple[int, str, _Entries | Unreadable]]:
        """(folder handle, prefix, what stands there) for everything, sorted by key.

        A folder sorts as its name with a slash, which is what makes the keys come out in the order
        of whole keys.
        """
        self.ignored = 0
        self.expected = None
        if self._root is None:
            return
        entries = 0
        stack: list[_Open] = []
        # Opened anew, not duplicated: duplicates share the place in the listing, and two listings
        # at once (the server's threads) would each lose names to the other.
        root = os.open(".", FOLDER, dir_fd=self._root)
        try:
            stack.append(_Open(root, "", self._list(root, "", scope), 0.0, 1.0))
            while stack:
                folder, prefix, groups, begin, width = top = stack[-1]
                if not groups:
                    os.close(stack.pop().handle)
                    continue
                each = width / len(groups)
                group = groups.pop()
                stack[-1] = top._replace(begin=begin + each, width=width - each)
                if isinstance(group, _Entries):
                    entries += len(group.names)
                    if begin + each >= _TELLING:
                        self.expected = round(entries / (begin + each))
                    yield folder, prefix, group
                    continue
                sort_name, kind, name, reason = group
                below = self._enter(folder, name, prefix) if kind == _DOWN else reason
                if isinstance(below, str):
                    yield folder, prefix, Unreadable(key=prefix + sort_name, reason=below)
                elif below is not None:
                    path = prefix + name + "/"
                    try:
                        found = self._list(below, path, scope)
                    except BaseException:
                        os.close(below)
                        raise
                    stack.append(_Open(below, path, found, begin, each))
        finally:
            for opened in stack:
                os.close(opened.handle)

    def _enter(self, folder: int, name: str, prefix: str) -> int | str | None:
        """A handle on a folder below; a reason when it became a link, None when it is gone."""
        try:
            return os.open(name, FOLDER, dir_fd=folder)
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENOTDIR):
                return LINK
            raise self._unlistable(prefix + name, error) from None

    def _unlistable(self, path: str, error: OSError) -> StoreError:
        place = self._path / path if path else self._path
        return StoreError(
            "A folder of the memory cannot be listed, so nothing can be said of what it holds.",
            why=f"{place}: {error.strerror}.",
            hint="Make it readable, or leave it out with --exclude.",
        )

    def _list(self, folder: int, prefix: str, scope: Scope) -> list[_Group]:
        """What a folder holds that matters, sorted, the first at the end."""
        try:
            with os.scandir(folder) as listing:
                found = list(listing)
            files = sorted([one.name for one in found if one.is_file(follow_symlinks=False)])
            contents, sidecars = files[::2], files[1::2]
            names = [name[: -len(CONTENT)] for name in contents]
            # Nothing but entries of two regular files each, as most folders are.
            if (
                len(files) == len(found)
                and [name + CONTENT for name in names] == contents
                and [name + METADATA for name in names] == sidecars
                and not scope.narrow
                and _all_keys(prefix, names)
            ):
                names.sort()
                every = frozenset(names)
                parts = [names[i : i + LONGEST] for i in range(0, len(names), LONGEST)]
                return [_Entries(part, every) for part in reversed(parts)]
            return self._sorted_out(folder, prefix, scope, found)[::-1]
        except OSError as error:
            raise self._unlistable(prefix.rstrip("/"), error) from None

    def _sorted_out(
        self, folder: int, prefix: str, scope: Scope, listing: Sequence[os.DirEntry[str]]
    ) -> list[_Group]:
        contents: set[str] = set()
        sidecars: set[str] = set()
        odd: set[str] = set()
        old: list[str] = []
        items: list[_Item] = []
        for found in listing:
            name = found.name
            if found.is_dir(follow_symlinks=False):
                if scope.folder(prefix + name):
                    items.append(self._folder_item(prefix, name))
            elif name.endswith(METADATA) and name != METADATA:
                sidecars.add(name[: -len(METADATA)])
                if not found.is_file(follow_symlinks=False):
                    odd.add(name[: -len(METADATA)])
            elif name.endswith(CONTENT) and name != CONTENT:
                contents.add(name[: -len(CONTENT)])
                if not found.is_file(follow_symlinks=False):
                    odd.add(name[: -len(CONTENT)])
            elif name == STORE_MARKER:
                store = self._marker(folder)
                self.stores |= {store} if store is not None else set()
            elif name.startswith(_OURS) and not name.startswith(durable.KEPT_PREFIX):
                pass
            elif found.is_symlink() and found.is_dir() and scope.folder(prefix + name):
                items.append((display_name(name) + "/", _REPORT, name, LINK))
            else:
                self.ignored += 1
                if name.endswith(".json"):
                    old.append(name.removesuffix(".json"))
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
        if scope.narrow:
            items = [item for item in items if item[1] == _DOWN or scope.entry(prefix + item[0])]
        items.sort()
        return list(_grouped(items, (contents & sidecars) - odd))

    @staticmethod
    def _folder_item(prefix: str, name: str) -> _Item:
        try:
            # The shortest key that could lie below: the folder may take part if this one may.
            check_key(prefix + name + "/x")
        except InvalidKey as error:
            return (_escaped(name) + "/", _REPORT, name, f"the folder's name {error}")
        return (name + "/", _DOWN, name, "")

    def read(self, keys: Iterable[str]) -> Iterator[Entry | Absent | Unreadable]:
        with Cursor(self._root) as cursor:
            for key in keys:
                yield look(cursor, key)

    def obstacle(self, key: str) -> str | None:
        folder = key.rpartition("/")[0]
        if self._root is None or folder == self._missing:
            return None
        with Cursor(self._root) as cursor:
            found = look(cursor, key)
            if isinstance(found, Unreadable):
                return f"target: {found.reason}"
            try:
                cursor.go(folder)
            except FileNotFoundError:
                self._missing = folder
            except OSError:
                pass  # it has changed just now; the next key is looked at for itself
        return None

    def parts(self, key: str, normalisation: Normalisation) -> Parts | Unreadable:
        with Cursor(self._root) as cursor:
            return read_parts(cursor, key, normalisation)

    # Writing

    def write(
        self,
        batch: Sequence[Change],
        normalisation: Normalisation,
        session: Session = UNATTENDED,
    ) -> Sequence[Receipt]:
        self._missing = None
        if self._root is None:
            self._root = self._create_root()
        self._prove(self._root)
        self._sync_own_name(self._root)
        exchanges = self.capabilities.cas == "atomic"
        alone = contextlib.nullcontext() if self._holding else self._briefly_held(self._root)
        writer = Batch(self._root, normalisation, sync=self._sync, exchanges=exchanges, alone=alone)
        return writer.write(batch, session)

    def folders(self) -> Iterator[str]:
        """The root ("") and every folder below it that can be listed, by its path; no links."""
        if self._root is None:
            return
        for path, _, _, _ in os.fwalk(".", dir_fd=self._root, follow_symlinks=False):
            yield path[2:]

    def tidy(
        self,
        runs: Iterable[str],
        keys: Iterable[str],
        cut_off: Mapping[str, Transition],
        normalisation: Normalisation,
    ) -> Sequence[str]:
        if self._root is None:
            return ()
        return tidy(self._root, runs, keys, cut_off, normalisation, sync=self._sync)

    @contextlib.contextmanager
    def hold(self, holder: str) -> Iterator[None]:
        """An flock on the folder; it ends with the process, and is never broken.

        A store that does not exist yet cannot be held. Holding it also tries out whether its
        filesystem exchanges names, which may lower the CAS level that the capabilities declare.
        """
        if self._root is None:
            yield
            return
        # Opened anew: a lock belongs to the open file, and so does not keep ourselves out later.
        held = os.open(".", FOLDER, dir_fd=self._root)
        try:
            if not durable.try_lock(held):
                raise self._locked()
            self._prove(self._root)
            self._holding = True
            yield
        finally:
            self._holding = False
            os.close(held)

    @contextlib.contextmanager
    def _briefly_held(self, root: int) -> Iterator[None]:
        """The same for the effects of one batch whose writer does not hold the store; it waits.

        One writer that puts back what it displaced can meet anybody but a second one of its kind:
        two of them may put back each other's bytes.
        """
        held = os.open(".", FOLDER, dir_fd=root)
        try:
            for _ in range(_BRIEF_TRIES):
                if durable.try_lock(held):
                    break
                time.sleep(_BRIEF_PAUSE)
            else:
                raise self._locked()
            yield
        finally:
            os.close(held)

    def _locked(self) -> LockedError:
        return LockedError(
            "Somebody else is writing to this memory.",
            why=f"A server or another apply holds the lock on {self._path}.",
            hint="Wait for it to end, then run the command again.",
        )

    def holder(self) -> Holder | None:
        if self._root is None:
            return None
        held = os.open(".", FOLDER, dir_fd=self._root)
        try:
            if durable.try_lock(held):
                return None
            number = _locker(os.fstat(held).st_ino)
        finally:
            os.close(held)
        return Holder(name=f"process {number}" if number else "another process")

    def release(self) -> bool:
        holder = self.holder()
        if holder is None:
            return False
        raise UsageError(
            "The lock of a folder cannot be broken.",
            why=f"It belongs to {holder.name}, and ends with it.",
            hint="End that process; nothing has to be cleaned up behind it.",
        )

    def _sync_own_name(self, root: int) -> None:
        """Once: who made the folder may have been cut off before its name was durable."""
        if not self._sync or self._named:
            return
        try:
            durable.sync_name(root)
        except OSError as error:
            raise StoreError(
                "The target folder cannot be made durable.", why=f"{self._path}: {error.strerror}."
            ) from None
        self._named = True

    def _prove(self, root: int) -> None:
        if self._proved or self.capabilities.cas != "atomic":
            return
        try:
            exchanges = durable.exchanges(root)
        except OSError:
            return  # not to be written at all: each entry will say so
        self._proved = True
        if not exchanges:
            self.capabilities = msgspec.structs.replace(self.capabilities, cas="guarded")

    def _create_root(self) -> int:
        try:
            durable.make_folders(self._path, sync=self._sync)
        except OSError as error:
            raise StoreError(
                "The target folder cannot be created.", why=f"{self._path}: {error.strerror}."
            ) from None
        root = self._open_root(must_exist=True)
        assert root is not None
        return root


_OLD_FORMAT = (
    "is stored in the older one-file format (.json); open it once with the tool that wrote it"
)


def _grouped(items: Iterable[_Item], listed: set[str]) -> Iterator[_Group]:
    names: list[str] = []
    for item in items:
        if names and (item[1] != _ENTRY or len(names) == LONGEST):
            yield _Entries(names, listed)
            names = []
        if item[1] == _ENTRY:
            names.append(item[2])
        else:
            yield item
    if names:
        yield _Entries(names, listed)


def _all_keys(prefix: str, names: Sequence[str]) -> bool:
    """Whether each name surely makes a key behind `prefix`, which is part of one: asked of all at
    once, as it costs more than all else here to ask for each."""
    joined = "/" + "/".join(names) + "/"
    return (
        joined.isascii()
        and joined.isprintable()
        and "\\" not in joined
        and "/." not in joined
        and "//" not in joined
        and len(prefix.encode()) + max(map(len, names), default=0) <= MAX_KEY_BYTES
    )


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
        text = read_file(folder, name + ".json", MAX_ENTRY_BYTES)
        return {"content", "metadata"} <= decode_object(text.decode()).keys()
    except (OSError, NotAFile, TooLarge, UnicodeDecodeError, NotCanonical):
        return False


def _locker(inode: int) -> int | None:
    """The process that has an flock on an inode, where the system tells (proc_locks(5))."""
    try:
        lines = Path("/proc/locks").read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        words = line.split()
        if "FLOCK" in words and words[5].rpartition(":")[2] == str(inode):
            return int(words[4])
    return None


def _seems_to_exchange(path: Path) -> bool:
    """What the kind of filesystem says of exchanging names, without writing anything."""
    return sys.platform == "darwin" or _filesystem(path) in _EXCHANGING


def _filesystem(path: Path) -> str:
    """The kind of filesystem that a path lies on; empty where the system does not tell."""
    place = os.path.realpath(path)
    try:
        mounts = Path("/proc/self/mountinfo").read_text()
    except OSError:
        return ""
    kinds = {"": ""}
    for line in mounts.splitlines():
        left, _, right = line.partition(" - ")
        # Blanks in a mount point stand as octal escapes (proc(5)).
        point = left.split()[4].encode().decode("unicode_escape")
        if place == point or place.startswith(point.rstrip("/") + "/"):
            kinds[point] = right.split()[0]
    return kinds[max(kinds, key=len)]
