"""A disk that can lose its power: what the code did is recorded, and every state that a power cut
could have left is built from the record.

A file has the bytes that a reader sees and those that are durable; a folder has its names in the
same two ways. `fsync` of a file makes its bytes durable, of a folder its names, and `syncfs`
everything. A power cut keeps what is durable; of the rest it may keep anything: bytes may be
missing, cut in half or garbled; each change of names (a rename or an exchange is one change) may be
there or not. A file that is durable under a name that is not is lost.
"""

from __future__ import annotations

import os
import random
import stat
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hdev_memory import durable

Names = dict[str, int | None]
"""Names and the numbers of what they lead to; None where a name is taken away."""


@dataclass(frozen=True)
class Made:
    """Something new, without bytes or names, that the number stands for."""

    number: int
    folder: bool


@dataclass(frozen=True)
class Named:
    """Names in a folder change, all at once."""

    folder: int
    names: Names


@dataclass(frozen=True)
class Wrote:
    number: int
    content: bytes


@dataclass(frozen=True)
class Truncated:
    number: int
    size: int


@dataclass(frozen=True)
class Synced:
    """A file's bytes or a folder's names; all of them for None."""

    number: int | None


Operation = Made | Named | Wrote | Truncated | Synced


@dataclass
class File:
    seen: bytes = b""
    durable: bytes = b""


@dataclass
class Folder:
    seen: dict[str, int] = field(default_factory=dict)
    durable: dict[str, int] = field(default_factory=dict)
    pending: list[Names] = field(default_factory=list)


class Recorder(durable.Disk):
    """Does what it is told, and keeps a record of it, with numbers for files and folders.

    What is there when it begins is durable; the record of that is `begin` operations long.
    `syncs_files`, `syncs_folders` and `syncs_all` say whether it keeps its word; a disk that does
    not says that it does. From operation number `die_at` on nothing is done any more.
    """

    syncs_files = syncs_folders = syncs_all = True

    def __init__(self, root: Path) -> None:
        self.root = root
        self.operations: list[Operation] = []
        self.die_at: int | None = None
        self._numbers: dict[int, int] = {}
        self._next = 0
        self._adopt(root)
        self.operations.append(Synced(None))
        self.begin = len(self.operations)

    def _adopt(self, path: Path) -> int:
        """Take in what is there already."""
        status = path.lstat()
        number = self._new(status.st_ino, stat.S_ISDIR(status.st_mode))
        if stat.S_ISDIR(status.st_mode):
            for inside in sorted(path.iterdir()):
                self.operations.append(Named(number, {inside.name: self._adopt(inside)}))
        else:
            self.operations.append(Wrote(number, path.read_bytes()))
        return number

    def _new(self, inode: int, folder: bool) -> int:
        self._numbers[inode] = self._next
        self.operations.append(Made(self._next, folder))
        self._next += 1
        return self._numbers[inode]

    def _number(self, descriptor: int) -> int:
        return self._numbers[os.fstat(descriptor).st_ino]

    def _named(self, folder: int, name: str) -> int:
        return self._numbers[os.stat(name, dir_fd=folder, follow_symlinks=False).st_ino]

    def _alive(self) -> None:
        if self.die_at is not None and len(self.operations) >= self.die_at:
            raise PowerCut

    def create(self, folder: int, name: str, mode: int = 0o666) -> int:
        self._alive()
        descriptor = super().create(folder, name, mode)
        number = self._new(os.fstat(descriptor).st_ino, False)
        self.operations.append(Named(self._number(folder), {name: number}))
        return descriptor

    def write(self, descriptor: int, content: bytes | memoryview) -> int:
        self._alive()
        size = super().write(descriptor, content)
        self.operations.append(Wrote(self._number(descriptor), bytes(content[:size])))
        return size

    def truncate(self, descriptor: int, size: int) -> None:
        self._alive()
        super().truncate(descriptor, size)
        self.operations.append(Truncated(self._number(descriptor), size))

    def sync(self, descriptor: int) -> None:
        self._alive()
        folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        if os.fstat(descriptor).st_ino not in self._numbers:
            return  # a folder above all that is looked at
        if self.syncs_folders if folder else self.syncs_files:
            self.operations.append(Synced(self._number(descriptor)))

    def sync_filesystem(self, descriptor: int) -> None:
        self._alive()
        if self.syncs_all:
            self.operations.append(Synced(None))

    def make_folder(self, folder: int, name: str) -> None:
        self._alive()
        super().make_folder(folder, name)
        status = os.stat(name, dir_fd=folder, follow_symlinks=False)
        number = self._new(status.st_ino, True)
        self.operations.append(Named(self._number(folder), {name: number}))

    def rename_new(self, folder: int, old: str, new: str) -> None:
        self._alive()
        super().rename_new(folder, old, new)
        self._names(folder, {old: None, new: self._named(folder, new)})

    def exchange(self, folder: int, one: str, other: str) -> None:
        self._alive()
        super().exchange(folder, one, other)
        self._names(folder, {one: self._named(folder, one), other: self._named(folder, other)})

    def replace(self, folder: int, old: str, new: str) -> None:
        self._alive()
        super().replace(folder, old, new)
        self._names(folder, {old: None, new: self._named(folder, new)})

    def link(self, folder: int, old: str, new: str) -> None:
        self._alive()
        super().link(folder, old, new)
        self._names(folder, {new: self._named(folder, new)})

    def unlink(self, folder: int, name: str) -> None:
        self._alive()
        super().unlink(folder, name)
        self._names(folder, {name: None})

    def _names(self, folder: int, names: Names) -> None:
        self.operations.append(Named(self._number(folder), names))


class PowerCut(BaseException):
    """The power went: nothing that comes after it is done."""


class QuietDisk(durable.Disk):
    """A disk whose syncs cost nothing, for a run that nothing is cut off from."""

    def sync(self, descriptor: int) -> None:
        pass

    def sync_filesystem(self, descriptor: int) -> None:
        pass


Variant = tuple[str, int]
"""What becomes of that which is not durable: a word, and a seed for `mixed`."""

KILL: Variant = ("kept", 0)
CUTS: tuple[Variant, ...] = (
    ("lost", 0),
    ("empty", 0),
    ("halved", 0),
    ("garbled", 0),
    ("nameless", 0),
    ("mixed", 1),
    ("mixed", 2),
    ("mixed", 3),
)
"""lost: nothing is kept. empty, halved, garbled: names are kept, bytes are not, or not all.
nameless: bytes are kept, names are not. mixed: each as the seed has it."""


class Model:
    """What is seen and what is durable, after some operations of a record."""

    def __init__(self) -> None:
        self._all: dict[int, File | Folder] = {}

    def do(self, operation: Operation) -> None:
        match operation:
            case Made(number, folder):
                self._all[number] = Folder() if folder else File()
            case Named(number, names):
                folder = self._folder(number)
                _change(folder.seen, names)
                folder.pending.append(names)
            case Wrote(number, content):
                self._file(number).seen += content
            case Truncated(number, size):
                file = self._file(number)
                file.seen = file.seen[:size]
            case Synced(None):
                for thing in self._all.values():
                    _sync(thing)
            case Synced(number) if number is not None:
                _sync(self._all[number])

    def _folder(self, number: int) -> Folder:
        thing = self._all[number]
        assert isinstance(thing, Folder)
        return thing

    def _file(self, number: int) -> File:
        thing = self._all[number]
        assert isinstance(thing, File)
        return thing

    def after(self, variant: Variant) -> dict[str, bytes]:
        """The files, and the folders (with a slash behind them), that are there after a cut."""
        word, seed = variant
        chance = random.Random(seed)
        tree: dict[str, bytes] = {}

        def walk(number: int, path: str) -> None:
            for name, inside in sorted(_names_after(self._folder(number), word, chance).items()):
                thing = self._all[inside]
                if isinstance(thing, Folder):
                    tree[f"{path}{name}/"] = b""
                    walk(inside, f"{path}{name}/")
                else:
                    tree[path + name] = _bytes_after(thing, word, chance)

        walk(0, "")
        return tree


def _change(held: dict[str, int], names: Names) -> None:
    for name, number in names.items():
        if number is None:
            held.pop(name, None)
        else:
            held[name] = number


def _sync(thing: File | Folder) -> None:
    if isinstance(thing, Folder):
        thing.durable = dict(thing.seen)
        thing.pending.clear()
    else:
        thing.durable = thing.seen


def _names_after(folder: Folder, word: str, chance: random.Random) -> dict[str, int]:
    match word:
        case "kept" | "empty" | "halved" | "garbled":
            return folder.seen
        case "mixed":
            held = dict(folder.durable)
            for names in folder.pending:
                if chance.random() < 0.5:
                    _change(held, names)
            return held
        case _:
            return folder.durable


def _bytes_after(file: File, word: str, chance: random.Random) -> bytes:
    if file.seen == file.durable:
        return file.seen
    # What both begin with stays, whether something was added or cut off.
    kept = len(os.path.commonprefix([file.seen, file.durable]))  # noqa: RUF071 - of bytes
    half = file.seen[: kept + (len(file.seen) - kept) // 2]
    # Blocks that were never written read as zeros (a crash of ext4 or XFS leaves just that).
    ways: dict[str, Callable[[], bytes]] = {
        "kept": lambda: file.seen,
        "nameless": lambda: file.seen,
        "lost": lambda: file.durable,
        "empty": lambda: file.durable,
        "halved": lambda: half,
        "garbled": lambda: half.ljust(len(file.seen), b"\0"),
    }
    return ways[chance.choice(sorted(ways)) if word == "mixed" else word]()


def states(
    operations: Sequence[Operation], variants: Sequence[Variant], points: Collection[int]
) -> Iterator[tuple[int, Variant, dict[str, bytes]]]:
    """Every different state that a cut after that many operations could leave."""
    model = Model()
    met: set[int] = set()
    for done, operation in enumerate(operations, start=1):
        model.do(operation)
        if done not in points:
            continue
        for word, seed in variants:
            variant = (word, seed * 1_000_003 + done if seed else 0)
            tree = model.after(variant)
            mark = hash(frozenset(tree.items()))
            if mark not in met:
                met.add(mark)
                yield done, variant, tree
