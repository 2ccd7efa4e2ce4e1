"""How a folder store is written: nothing is destroyed that was not expected, whoever else writes.

An entry is two files, and a change is one step for each of them. A step gives a file its name, or
takes it away, in a way that cannot destroy anything: a new file by a rename that refuses to
replace, a changed one by an exchange of names, a deleted one by a rename aside. What a step
displaced is hashed afterwards; where it is not what was expected, it is put back. (Looking first
and renaming then lost three of a hundred concurrent updates; exchanging and looking lost none.)

What survives a crash, in the order of `Batch.write`:
  staged      files under names of our own, which nobody takes for entries
  intended    the same, and the log names every change
  in effect   each file is as before or as after; displaced bytes lie under the names of our own
  synced      the same, and it stays so
Running the change again with `resumed` finishes it from any of these.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from hdev_memory import durable
from hdev_memory.backends.base import (
    PERMISSION_DENIED,
    Change,
    Drifted,
    Failed,
    Put,
    Receipt,
    Removed,
    Session,
    Stored,
    Transition,
    Unknown,
    state_of,
)
from hdev_memory.backends.filesystem_files import (
    CONTENT,
    METADATA,
    READ,
    Cursor,
    encode_metadata,
    file_digest,
    look,
)
from hdev_memory.core.diff import interrupted
from hdev_memory.core.digest import Digest, sha256
from hdev_memory.core.entry import (
    Absent,
    Entry,
    InvalidKey,
    Normalisation,
    Parts,
    Unreadable,
    check_key,
    display_name,
)


@dataclass
class _Step:
    """One file of a change: from the digest `before` to the digest `after`; None is no file.

    `staged` is the name of our own under which the new bytes wait, and to which the displaced ones
    come; empty while there is none. `label` goes into every such name.
    """

    suffix: str
    before: Digest | None
    after: Digest | None
    content: bytes | None
    label: str = ""
    staged: str = ""
    taken: bool = False


@dataclass
class _Ready:
    """A change whose precondition held, with its steps in the order in which they are taken."""

    change: Change
    steps: list[_Step]
    kept: str = ""


@dataclass(frozen=True)
class _Miss:
    """Why a change was not carried out; `foreign` where somebody else was in between."""

    reason: str
    foreign: bool = False


class _Foreign(Exception):
    """A step met something else than it expected; the text says what."""


class Batch:
    """Writes changes below one root, together."""

    def __init__(
        self,
        root: int,
        normalisation: Normalisation,
        *,
        sync: bool,
        exchanges: bool,
        alone: contextlib.AbstractContextManager[None],
    ) -> None:
        """`alone` keeps other batches out while this one takes effect."""
        self._alone = alone
        self._root = root
        self._normalisation = normalisation
        self._sync = sync
        self._exchanges = exchanges

    def write(self, batch: Sequence[Change], session: Session) -> Sequence[Receipt]:
        """As `Backend.write` promises."""
        together = durable.syncer(self._root, 2 * len(batch)) if self._sync else None
        prepared: list[_Ready | Receipt] = []
        with Cursor(self._root, together) as cursor:
            try:
                for change in batch:
                    each = self._sync and together is None
                    prepared.append(self._prepare(cursor, change, session, each))
                misses = self._commit(cursor, prepared, session, together)
            finally:
                # Also when the log, or a signal, has stopped us: what was only staged is ours.
                for item in prepared:
                    if isinstance(item, _Ready):
                        self._clear(cursor, item)
            return [
                self._settle(cursor, item, misses.get(item.change.key))
                if isinstance(item, _Ready)
                else item
                for item in prepared
            ]

    def _commit(
        self,
        cursor: Cursor,
        prepared: Sequence[_Ready | Receipt],
        session: Session,
        together: Callable[[], None] | None,
    ) -> dict[str, _Miss]:
        """Let everything that is ready take effect, and say for each key why it did not."""
        ready = [item for item in prepared if isinstance(item, _Ready)]
        if not ready:
            return {}
        if together is not None:
            try:
                together()
            except OSError as error:
                return {item.change.key: _Miss(_unsynced(error)) for item in ready}
        session.intend([item.change for item in ready])
        misses = {}
        with self._alone:
            for item in ready:
                miss = self._effect(cursor, item)
                if miss is not None:
                    misses[item.change.key] = miss
        if self._sync:
            try:
                cursor.sync()
            except OSError as error:
                # Which of them survive a power cut is not known of any.
                lost = {item.change.key: _Miss(_unsynced(error)) for item in ready}
                return {**lost, **misses}
        return misses

    # Looking and staging

    def _prepare(
        self, cursor: Cursor, change: Change, session: Session, sync: bool
    ) -> _Ready | Receipt:
        """Check the precondition and stage what will be written; nothing has a name yet."""
        found = look(cursor, change.key)
        try:
            steps = self._steps(cursor, change, found)
        except Unknown as error:
            return Failed(key=change.key, reason=str(error), intact=True)
        except ValueError:
            reason = "its metadata cannot be written as JSON"
            return Failed(key=change.key, reason=reason, intact=True)
        if isinstance(steps, Drifted):
            return steps
        ready = _Ready(change, steps)
        parent, _, name = change.key.rpartition("/")
        try:
            folder = cursor.go(parent, create=isinstance(change, Put))
            mode = _NEW_MODE if isinstance(found, Absent) else _mode(folder, name + CONTENT)
            label = f"{session.run}-{staged_label(change.key)}"
            for step in steps:
                step.label = label + _TAGS[step.suffix]
                if step.content is not None:
                    step.staged = durable.stage(
                        folder, step.content, label=step.label, mode=mode, sync=sync
                    )
        except OSError as error:
            self._clear(cursor, ready)
            return Failed(key=change.key, reason=write_reason(error), intact=True)
        return ready

    def _steps(
        self, cursor: Cursor, change: Change, found: Entry | Absent | Unreadable
    ) -> list[_Step] | Drifted:
        """What is to be done with each file; raises Unknown, or ValueError for bad metadata."""
        if change.resumed:
            parts = read_parts(cursor, change.key, self._normalisation)
            after = change.after if isinstance(change, Put) else None
            if isinstance(parts, Unreadable):
                raise Unknown(parts.reason)
            if not interrupted(change.before, after, parts):
                return Drifted(key=change.key, found=state_of(found, self._normalisation))
        else:
            state = state_of(found, self._normalisation)
            if state != change.before:
                return Drifted(key=change.key, found=state)
            parts = Parts(
                content=state.content if state is not None else None,
                metadata=state.metadata if state is not None else None,
            )
        held = found if isinstance(found, Entry) else None
        if held is not None and held.sidecar == b"":
            parts = Parts(content=parts.content, metadata=None)
        if not isinstance(change, Put):
            content = _Step(CONTENT, parts.content, None, None)
            metadata = _Step(METADATA, parts.metadata, None, None)
            return [step for step in (content, metadata) if step.before is not None]
        sidecar = change.sidecar
        if sidecar is None:
            sidecar = encode_metadata(change.metadata)
        content = _Step(CONTENT, parts.content, change.after.content, change.content)
        metadata = _Step(METADATA, parts.metadata, change.after.metadata, sidecar)
        if not sidecar:
            metadata = _Step(METADATA, parts.metadata, None, None)
        same = held is not None and held.content == change.content
        steps = [] if same and content.before == content.after else [content]
        nothing = metadata.before is None and metadata.after is None
        if not nothing and (held is None or held.sidecar != sidecar):
            # Of a new entry the sidecar comes first: whoever sees the content finds it whole.
            steps.insert(0 if parts.content is None else len(steps), metadata)
        return steps

    # Taking effect

    def _effect(self, cursor: Cursor, item: _Ready) -> _Miss | None:
        """Take the steps of a change; None when all were taken, else why not."""
        parent, _, name = item.change.key.rpartition("/")
        try:
            folder = cursor.go(parent)
            cursor.dirty(parent)
        except OSError as error:
            return _Miss(write_reason(error))
        for step in item.steps:
            try:
                self._take(folder, name + step.suffix, step)
            except (_Foreign, Unknown) as error:
                miss = _Miss(str(error), foreign=True)
            except OSError as error:
                miss = _Miss(write_reason(error))
            else:
                continue
            for taken in reversed(item.steps):
                # Where even that fails the entry is half-written, and settling says so.
                with contextlib.suppress(OSError):
                    self._put_back(folder, name + taken.suffix, taken, item)
            return miss
        return None

    def _take(self, folder: int, name: str, step: _Step) -> None:
        """Let one file take effect.

        Raises _Foreign or Unknown when it met something else than it expected; where that was
        displaced, the step counts as taken and is to be put back.
        """
        if step.before is None:
            try:
                self._new(folder, step.staged, name)
            except FileExistsError:
                raise _Foreign("somebody else wrote it meanwhile") from None
            step.staged, step.taken = "", True
            return
        try:
            if step.after is None:
                self._aside(folder, name, step)
            else:
                self._trade(folder, name, step)
        except FileNotFoundError:
            raise _Foreign("somebody else removed it meanwhile") from None
        step.taken = True
        found = file_digest(folder, step.staged, step.suffix, self._normalisation)
        if found != step.before:
            raise _Foreign("somebody else wrote it meanwhile")

    def _put_back(self, folder: int, name: str, step: _Step, item: _Ready) -> None:
        """Undo a taken step. The newest bytes of anybody else stand afterwards, older ones are
        kept aside."""
        if not step.taken:
            return
        step.taken = False
        try:
            if step.after is None:
                self._new(folder, step.staged, name)
                step.staged = ""
            elif step.before is None:
                self._aside(folder, name, step)
                if not self._is(folder, step, step.after):
                    self._new(folder, step.staged, name)
                    step.staged = ""
            else:
                self._trade(folder, name, step)
                if not self._is(folder, step, step.after):
                    self._trade(folder, name, step)
        except FileNotFoundError:
            # Somebody removed it meanwhile: that is the newest, what we displaced is older.
            pass
        except FileExistsError:
            pass  # somebody wrote it anew meanwhile: the same
        self._keep_foreign(folder, step, item)

    def _aside(self, folder: int, name: str, step: _Step) -> None:
        """Take a file's name away; it comes to lie under the step's."""
        aside = durable.staged_name(step.label)
        durable.disk.replace(folder, name, aside)
        step.staged = aside

    def _new(self, folder: int, staged: str, name: str) -> None:
        """Give a staged file its name. Raises FileExistsError where something has it."""
        if self._exchanges:
            durable.disk.rename_new(folder, staged, name)
        else:
            durable.disk.link(folder, staged, name)
            durable.discard(folder, staged)

    def _trade(self, folder: int, name: str, step: _Step) -> None:
        """Let the staged file and the one under `name` trade places.

        Where names cannot be exchanged, what is displaced is linked aside first, so that only what
        somebody writes between two system calls can be lost.
        """
        if self._exchanges:
            durable.disk.exchange(folder, step.staged, name)
            return
        aside = durable.staged_name(step.label)
        durable.disk.link(folder, name, aside)
        durable.disk.replace(folder, step.staged, name)
        step.staged = aside

    def _is(self, folder: int, step: _Step, *digests: Digest | None) -> bool:
        """Whether the bytes under the step's own name are one of these."""
        try:
            found = file_digest(folder, step.staged, step.suffix, self._normalisation)
        except Unknown:
            return False
        return found in digests

    def _keep_foreign(self, folder: int, step: _Step, item: _Ready) -> None:
        """Set aside what lies under the step's own name, unless the change accounts for it."""
        if not step.staged or self._is(folder, step, step.before, step.after, None):
            return
        parent, _, name = item.change.key.rpartition("/")
        kept = durable.keep(folder, step.staged, name)
        step.staged = ""
        item.kept = f"{parent}/{kept}" if parent else kept

    # Settling

    def _clear(self, cursor: Cursor, item: _Ready) -> None:
        """Remove what lies under our own names and the change accounts for; keep anything else.

        Looked at once more although it was hashed when it was displaced: somebody may have held
        that file open and written on.
        """
        if not any(step.staged for step in item.steps):
            return
        try:
            folder = cursor.go(item.change.key.rpartition("/")[0])
        except OSError:
            return
        for step in item.steps:
            # What cannot be removed now is removed by the next run, which finds it by its name.
            with contextlib.suppress(OSError):
                self._keep_foreign(folder, step, item)
                if step.staged:
                    durable.discard(folder, step.staged)
                    step.staged = ""

    def _settle(self, cursor: Cursor, item: _Ready, miss: _Miss | None) -> Receipt:
        """The receipt, decided by reading what stands there now."""
        change, kept = item.change, item.kept
        reason = miss.reason if miss is not None else "what was read back differs"
        after = change.after if isinstance(change, Put) else None
        try:
            found = state_of(look(cursor, change.key), self._normalisation)
        except Unknown as error:
            return Failed(key=change.key, reason=f"{reason}; {error}", intact=False, kept=kept)
        if found == after and (miss is None or miss.foreign):
            if found is not None:
                return Stored(key=change.key, state=found, kept=kept)
            return Removed(key=change.key, kept=kept)
        if found == change.before:
            return Failed(key=change.key, reason=reason, intact=True, kept=kept)
        # What was staged was read back before it had a name: what differs now is somebody else's.
        if (miss is None or miss.foreign) and not self._half(cursor, change):
            return Drifted(key=change.key, found=found, kept=kept)
        return Failed(key=change.key, reason=reason, intact=False, kept=kept)

    def _half(self, cursor: Cursor, change: Change) -> bool:
        """Whether our own change stands there in part."""
        after = change.after if isinstance(change, Put) else None
        parts = read_parts(cursor, change.key, self._normalisation)
        return isinstance(parts, Parts) and interrupted(change.before, after, parts)


_PROBES = f"{durable.STAGED_PREFIX}{durable.PROBE}-"

_TAGS = {CONTENT: "c", METADATA: "m"}
"""The last letter of a staged file's label: which part of the entry it is."""


def _unsynced(error: OSError) -> str:
    return f"cannot be made durable: {error.strerror}"


def read_parts(cursor: Cursor, key: str, normalisation: Normalisation) -> Parts | Unreadable:
    """What each file of an entry is, whatever the other is."""
    try:
        parent, _, name = check_key(key).rpartition("/")
    except InvalidKey as error:
        return Unreadable(key=display_name(key), reason=f"the key {error}")
    try:
        folder = cursor.go(parent)
    except FileNotFoundError:
        return Parts(content=None, metadata=None)
    except OSError as error:
        return Unreadable(key=key, reason=write_reason(error))
    try:
        return Parts(
            content=file_digest(folder, name + CONTENT, CONTENT, normalisation),
            metadata=file_digest(folder, name + METADATA, METADATA, normalisation),
        )
    except Unknown as error:
        return Unreadable(key=key, reason=str(error))


def staged_label(key: str) -> str:
    """What a staged file's name says of its key: enough to find it again, short, and a name."""
    return sha256(key.encode())[:16]


def tidy(
    root: int,
    runs: Iterable[str],
    keys: Iterable[str],
    cut_off: Mapping[str, Transition],
    normalisation: Normalisation,
    *,
    sync: bool,
) -> list[str]:
    """As `Backend.tidy` promises."""
    prefixes = tuple(f"{durable.STAGED_PREFIX}{run}-" for run in runs)
    by_label = {staged_label(key): key for key in cut_off}
    kept: list[str] = []
    together = durable.syncer(root, 2 * len(cut_off)) if sync else None
    with Cursor(root, together) as cursor:
        for parent in sorted({"", *(key.rpartition("/")[0] for key in keys)}):
            try:
                folder = cursor.go(parent)
            except OSError:
                continue  # nothing of ours can lie where there is no folder
            for name in _names(folder):
                if name.startswith(_PROBES):
                    durable.discard(folder, name)
                if not name.startswith(prefixes):
                    continue
                label = name.rpartition("-")[0].rpartition("-")[2]
                key = by_label.get(label[:-1])
                suffix = METADATA if label.endswith(_TAGS[METADATA]) else CONTENT
                if key is None or _accounted(folder, name, suffix, cut_off[key], normalisation):
                    durable.discard(folder, name)
                else:
                    about = durable.keep(folder, name, key.rpartition("/")[2])
                    kept.append(f"{parent}/{about}" if parent else about)
        if sync:
            for key in cut_off:
                _sync_entry(cursor, key, each=together is None)
            cursor.sync()
    return kept


def _sync_entry(cursor: Cursor, key: str, *, each: bool) -> None:
    """Remember the folder of an entry that was cut off, and sync its files when `each` is to be."""
    parent, _, name = key.rpartition("/")
    try:
        folder = cursor.go(parent)
        cursor.dirty(parent)
    except OSError:
        return
    for suffix in (CONTENT, METADATA) if each else ():
        try:
            descriptor = os.open(name + suffix, READ, dir_fd=folder)
        except OSError:
            continue
        try:
            durable.disk.sync(descriptor)
        finally:
            os.close(descriptor)


def _names(folder: int) -> Iterator[str]:
    with os.scandir(folder) as listing:
        yield from sorted(found.name for found in listing)


def _accounted(
    folder: int, name: str, suffix: str, ends: Transition, normalisation: Normalisation
) -> bool:
    states = [end for end in ends if end is not None]
    wanted = {end.content if suffix == CONTENT else end.metadata for end in states}
    try:
        return file_digest(folder, name, suffix, normalisation) in wanted
    except Unknown:
        return False


def write_reason(error: OSError) -> str:
    """Why something could not be written, in words for people."""
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return PERMISSION_DENIED
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "No space left on target"
    if error.errno in (errno.ELOOP, errno.ENOTDIR):
        return "a folder above it is a symbolic link or a file; links are not followed"
    return f"cannot be written: {error.strerror}"


_NEW_MODE = 0o666


def _mode(folder: int, name: str) -> int:
    try:
        return stat.S_IMODE(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return _NEW_MODE
