"""One plan's folder: plan.json, review.md, approvals/, audit.jsonl, receipt.json, backup/."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import IO, Literal

import msgspec

from hdev_memory import durable
from hdev_memory.auditlog import AuditLog
from hdev_memory.backends.base import (
    EVERYTHING,
    Closing,
    Drifted,
    Failed,
    Put,
    Session,
    Stored,
    Unknown,
    state_of,
)
from hdev_memory.backends.filesystem import FilesystemBackend
from hdev_memory.core import audit
from hdev_memory.core.approval import (
    MAX_APPROVALS,
    MAX_SIGNATURE_BYTES,
    MAX_STATEMENT_BYTES,
    Counted,
)
from hdev_memory.core.diff import AnyAction
from hdev_memory.core.entry import Entry, EntryState, Normalisation, State, Value
from hdev_memory.core.plan import (
    MAX_LINE_BYTES,
    Head,
    Named,
    Plan,
    Tail,
    actions_of,
    decode,
    named_of,
    plan_id,
)
from hdev_memory.errors import (
    ApprovalError,
    AuditError,
    HdevError,
    LockedError,
    PartialError,
    PlanError,
    StoreError,
)

PLAN = "plan.json"
REVIEW = "review.md"
AUDIT = "audit.jsonl"
RECEIPT = "receipt.json"
LOCK = ".lock"
APPROVALS = "approvals"
SIGNATURE = ".sig"
"""Behind the name of a statement, the name of its signature."""

BACKUP = "backup"
"""A folder store of its own: every entry as it was before the plan changed it."""

_SPOOL_BYTES = 32 * 1024 * 1024


class OpenPlan(Closing):
    """A plan that was checked to its last byte, and a private copy of what was checked.

    The copy is why an edit of the file between the check and the run changes nothing; it lives in
    memory up to 32 MiB, beyond that in an unlinked temporary file.
    """

    def __init__(self, folder: Path) -> None:
        """Raises PlanError for anything but an intact plan."""
        self.folder = folder
        self._copy: IO[bytes] = tempfile.SpooledTemporaryFile(  # noqa: SIM115 - close() ends it
            max_size=_SPOOL_BYTES
        )
        try:
            self.plan = self._check(folder / PLAN)
        except BaseException:
            self._copy.close()
            raise

    def _check(self, path: Path) -> Plan:
        digest = hashlib.sha256()
        head: Head | None = None
        tail: Tail | None = None
        try:
            with path.open("rb") as file:
                for part in decode(self._copied(_lines(file), digest.update)):
                    if isinstance(part, Head):
                        head = part
                    elif isinstance(part, Tail):
                        tail = part
        except OSError as error:
            raise PlanError(
                "The plan cannot be read.",
                why=f"{path}: {error.strerror}.",
                hint="Give the plan's folder, or its plan.json.",
            ) from None
        assert head is not None
        assert tail is not None
        return Plan(head=head, tail=tail, plan_id=plan_id(digest.hexdigest()))

    def _copied(self, lines: Iterable[bytes], update: Callable[[bytes], object]) -> Iterator[bytes]:
        for line in lines:
            update(line)
            self._copy.write(line)
            yield line

    def actions(self) -> Iterator[AnyAction]:
        """The actions in key order; one iteration at a time."""
        self._copy.seek(0)
        return actions_of(_lines(self._copy))

    def named(self) -> Iterator[tuple[Named, bytes]]:
        """The key and the kind of each, and the line that `action_of` reads; as `actions`."""
        self._copy.seek(0)
        return named_of(_lines(self._copy))

    def close(self) -> None:
        self._copy.close()


def _lines(file: IO[bytes]) -> Iterator[bytes]:
    # One byte above the limit is enough for the decoder to refuse the line.
    return iter(lambda: file.readline(MAX_LINE_BYTES + 1), b"")


def load(place: Path) -> OpenPlan:
    """Open the plan in a folder, or the plan.json itself. Raises PlanError."""
    return OpenPlan(place.parent if place.name == PLAN and not place.is_dir() else place)


def create(
    folder: Path,
    lines: Iterable[bytes],
    review: Callable[[OpenPlan], str],
    record: Callable[[str], audit.Record] | None = None,
) -> OpenPlan:
    """Write a new plan folder, whole or not at all, and open what was written.

    `review` renders the plan for people once it is there; `record` gives the first record of its
    log, from the plan id. Raises HdevError when the folder exists.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise HdevError(
            "The plan's folder is not empty, and a plan is never overwritten.",
            why=f"{folder} exists.",
            hint="Give another folder with -o, or remove it.",
        )
    made = [parent for parent in folder.parents if not parent.exists()]
    try:
        durable.make_folders(folder.parent)
        draft = Path(tempfile.mkdtemp(prefix=durable.STAGED_PREFIX, dir=folder.parent))
    except OSError as error:
        _unmake(made)
        raise _not_written(folder, error) from None
    opened: OpenPlan | None = None
    try:
        durable.write_stream(draft / PLAN, iter(lines))
        opened = OpenPlan(draft)
        durable.write_stream(draft / REVIEW, iter([review(opened).encode()]))
        durable.write_stream(draft / ".gitignore", iter([b"backup/\n.lock\n"]))
        (draft / APPROVALS).mkdir()
        draft.chmod(0o777 & ~_umask())  # mkdtemp makes it private; a plan is there to be shared
        with Journal(draft) as journal:  # syncs the names in the folder, its own the last of them
            if record is not None:
                journal.append([record(opened.plan.plan_id)])
        with durable.opened_folder(folder.parent) as parent:
            durable.disk.replace(parent, draft.name, folder.name)
            durable.disk.sync(parent)
    except BaseException as error:
        if opened is not None:
            opened.close()
        shutil.rmtree(draft, ignore_errors=True)
        _unmake(made)
        if isinstance(error, OSError):
            raise _not_written(folder, error) from None
        raise
    opened.folder = folder  # its bytes were checked as they lie on disk; the rename moved them
    return opened


def _unmake(made: Iterable[Path]) -> None:
    """Remove the folders above a plan that did not come to be, as far as they are empty."""
    with contextlib.suppress(OSError):
        for parent in made:
            parent.rmdir()


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def _not_written(folder: Path, error: OSError) -> HdevError:
    return HdevError(
        "The plan cannot be written.",
        why=f"{folder}: {error.strerror}.",
        hint="Run it where you may write, or give `hdev plan` another folder with -o.",
    )


def free_name(plans: Path, stem: str) -> Path:
    """The first of `stem`, `stem-2`, `stem-3`, … that does not exist in `plans`."""
    candidate, number = plans / stem, 2
    while candidate.exists():
        candidate, number = plans / f"{stem}-{number}", number + 1
    return candidate


def last_record(folder: Path) -> tuple[audit.Record, audit.Headmark] | None:
    """The last whole record of a plan's log, and the log's head; None where there is no log.

    Looks at the end of the file alone. Raises AuditError when it is no record.
    """
    try:
        with (folder / AUDIT).open("rb") as file:
            length = file.seek(0, os.SEEK_END)
            file.seek(max(0, length - 2 * audit.MAX_LINE_BYTES))
            end = file.read()
    except OSError:
        return None
    whole = end[: end.rfind(b"\n") + 1]
    if not whole:
        return None
    return audit.head_of(whole[whole.rfind(b"\n", 0, -1) + 1 :])


class Receipt(Value, frozen=True):
    """What a run came to, and the head of the log behind it: the anchor of `audit verify`.

    `approvals` are those that counted for it. `durability` is `none` where the run was told not to
    sync what it wrote into the target.
    """

    format: str
    plan: str
    effect: str
    target: str
    run: str
    result: str
    time: str
    counts: dict[str, int]
    head: audit.Headmark
    durability: Literal["full", "none"] = "full"
    approvals: tuple[Counted, ...] = ()


def write_receipt(folder: Path, receipt: Receipt) -> None:
    """Replace the receipt of an earlier run. Raises PartialError: the entries are written then.

    The signature of the earlier one goes first: it would not fit the new one, and that looks as if
    somebody had changed it.
    """
    text = msgspec.json.format(msgspec.json.encode(receipt), indent=2)
    try:
        with durable.opened_folder(folder) as above:
            durable.discard(above, RECEIPT + SIGNATURE)
        durable.write_whole(folder / RECEIPT, text + b"\n")
    except (OSError, KeyboardInterrupt) as error:
        cause = error.strerror if isinstance(error, OSError) else "stopped by a signal"
        raise PartialError(
            "The run has ended, but its receipt could not be written.",
            why=f"{folder / RECEIPT}: {cause}.",
            hint=f"The audit log is complete; keep its head: {receipt.head}",
        ) from None


RECEIPT_FORMAT = "hdev-receipt/1"
_MAX_RECEIPT_BYTES = 1024 * 1024


class ReceiptFile(Value, frozen=True):
    """A receipt with its very bytes, which are what is signed; `signature` is None for none."""

    path: str
    raw: bytes
    receipt: Receipt
    signature: bytes | None


def read_receipt(path: Path) -> ReceiptFile:
    """A receipt, and the signature beside it. Raises AuditError when the file is no receipt."""
    try:
        raw = _read_bounded(path, _MAX_RECEIPT_BYTES)
        receipt = msgspec.json.decode(raw, type=Receipt)
        if receipt.format != RECEIPT_FORMAT:
            raise msgspec.ValidationError("its format is not known")
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise AuditError(
            "The receipt cannot be read.",
            why=f"{path}: {reason}.",
            hint="Give the receipt.json that a run wrote, unchanged.",
        ) from None
    signature = None
    try:
        with contextlib.suppress(FileNotFoundError):
            signature = _read_bounded(path.with_name(path.name + SIGNATURE), MAX_SIGNATURE_BYTES)
    except OSError as error:
        raise AuditError(
            "The receipt's signature cannot be read.", why=f"{path}{SIGNATURE}: {error.strerror}."
        ) from None
    return ReceiptFile(str(path), raw, receipt, signature)


def _read_bounded(path: Path, limit: int) -> bytes:
    # A pipe may be given; one that nobody writes into is empty, and holds nothing up.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:
        os.set_blocking(descriptor, True)
        content = file.read(limit + 1)
    if len(content) > limit:
        raise OSError(errno.EFBIG, f"it is longer than {limit} bytes")
    return content


def write_signature(path: Path, signature: bytes) -> None:
    """Put a signature beside the file that it signs, durably. Raises OSError."""
    durable.write_whole(path.with_name(path.name + SIGNATURE), signature)


UNVERIFIED = "unverified"
"""The evidence of a failure after which nothing is known of the entry: its intent stays open."""


class Journal(AuditLog[audit.Record]):
    """The audit log of one plan, open for appending; the file is the journal of apply as well.

    records   the beginnings and ends of earlier runs
    rejections   what was logged of statements that reject the plan
    open      key -> the intent of a change whose outcome is not known
    """

    def __init__(self, folder: Path, plan: str | None = None) -> None:
        """As of any log; where a `plan` id is given, a record about another one is damage."""
        self._plan = plan
        self.records: list[audit.Record] = []
        self.rejections: list[audit.Record] = []
        self.open: dict[str, audit.Record] = {}
        super().__init__(folder / AUDIT, audit.Record)

    def _note(self, record: audit.Record, end: int) -> None:
        if self._plan is not None and record.plan != self._plan:
            raise AuditError(
                "The audit log belongs to another plan.",
                why=f"Record {record.seq} is about {record.plan}.",
                hint="Put the plan's own log back; it is what tells how far it got.",
            )
        match record.event:
            case "started" | "resumed" | "finished" | "stopped" | "planned":
                self.records.append(record)
            case "rejected":
                self.rejections.append(record)
            case "intent":
                self.open[record.key] = record
            case "done" | "drift" if record.action:  # drift that preflight found ends no intent
                self.open.pop(record.key, None)
            case "failed" if record.evidence != UNVERIFIED:
                self.open.pop(record.key, None)


class Backup(Closing):
    """The pre-images of a plan: a folder store of every entry as it was before it was changed."""

    def __init__(self, folder: Path, normalisation: Normalisation) -> None:
        self.path = folder / BACKUP
        self._normalisation = normalisation
        self._store = FilesystemBackend(str(self.path), must_exist=False)

    def keep(self, entries: Sequence[tuple[Entry, State]], run: str) -> dict[str, str]:
        """Make these entries durable here, and say for each key why that was not possible.

        One that an earlier run has kept stays as it is, and one that it was cut off in is finished;
        the names of both are made durable, because nobody knows whether they were.
        """
        changes = [
            Put(
                key=entry.key,
                content=entry.content,
                metadata=entry.metadata,
                before=None,
                after=state,
                sidecar=entry.sidecar,
                resumed=True,
            )
            for entry, state in entries
        ]
        if not changes:
            return {}
        failed: dict[str, str] = {}
        wanted = {change.key: change.after for change in changes}
        for receipt in self._store.write(changes, self._normalisation, Session(run=run)):
            match receipt:
                case Stored():
                    pass
                case Drifted(key=key, found=found) if found == wanted[key]:
                    pass
                case Failed(key=key, reason=reason):
                    failed[key] = f"its pre-image cannot be kept: {reason}"
                case _:
                    failed[receipt.key] = "another pre-image of it is there already"
        return failed

    def prepare(self) -> None:
        """Make the folder, so that a rollback finds it even where nothing had to be kept."""
        try:
            durable.make_folders(self.path)
        except OSError as error:
            raise StoreError(
                "The folder for pre-images cannot be made, and nothing is overwritten without.",
                why=f"{self.path}: {error.strerror}.",
                hint="Make room or give access, then run the command again.",
            ) from None

    def holds(self, key: str, state: State) -> bool:
        """Whether the pre-image of this entry is here, and is what it must be."""
        (found,) = self._store.read([key])
        try:
            return state_of(found, self._normalisation) == state
        except Unknown:
            return False

    def tidy(self, runs: Iterable[str], keys: Iterable[str]) -> None:
        """Remove what earlier runs have staged here and not finished."""
        self._store.tidy(runs, keys, {}, self._normalisation)

    def close(self) -> None:
        self._store.close()


class Kept(Value, frozen=True):
    """The pre-images of one plan. `finished` is when its last run ended well; empty when it did
    not, or has not ended."""

    folder: str
    entries: int
    bytes: int
    finished: str


def with_backups(place: Path) -> Iterator[Path]:
    """The folders of plans that keep pre-images: `place` itself, or those in it, sorted."""
    if (place / PLAN).is_file():
        folders = [place]
    else:
        folders = sorted(path.parent for path in place.glob(f"*/{PLAN}"))
    yield from (folder for folder in folders if (folder / BACKUP).is_dir())


def kept(opened: OpenPlan) -> Kept:
    """What a plan keeps. Raises AuditError for a damaged log."""
    size = 0
    entries = 0
    normalisation = opened.plan.head.normalisation
    with FilesystemBackend(str(opened.folder / BACKUP), must_exist=True) as store:
        for found in store.snapshot(EVERYTHING, normalisation):
            entries += 1
            size += found.state.bytes if isinstance(found, EntryState) else 0
    return Kept(
        folder=str(opened.folder),
        entries=entries,
        bytes=size,
        finished=finished(record for record, _ in read_audit(opened.folder)),
    )


def finished(records: Iterable[audit.Record]) -> str:
    """When the last run ended well; empty when it did not, or has not ended."""
    runs = ("started", "resumed", "finished", "stopped")
    last = None
    for record in records:
        if record.event in runs:
            last = record
    return last.time if last is not None and last.event == "finished" else ""


def prune(folder: Path) -> None:
    """Remove the pre-images of a plan. Raises HdevError where that is not possible."""
    try:
        shutil.rmtree(folder / BACKUP)
    except OSError as error:
        raise HdevError(
            "The pre-images cannot be removed.", why=f"{error.filename}: {error.strerror}."
        ) from None


def read_audit(
    folder: Path, plan: str | None = None
) -> Iterator[tuple[audit.Record, audit.Headmark]]:
    """The records of a plan's log, checked one by one; see `audit.verify`. Raises AuditError."""
    path = folder / AUDIT
    try:
        with path.open("rb") as file:
            lines = iter(lambda: file.readline(audit.MAX_LINE_BYTES + 1), b"")
            yield from audit.verify(lines, plan)
    except OSError as error:
        raise AuditError(
            "The audit log cannot be read.", why=f"{path}: {error.strerror}."
        ) from None


class Signed(Value, frozen=True):
    """A statement and its signature as they lie in a plan's folder; neither has been checked."""

    name: str
    statement: bytes
    signature: bytes


class Stray(Value, frozen=True):
    """Something among the approvals that is no pair of statement and signature."""

    name: str
    why: str


_MAX_APPROVAL_FILES = 4 * MAX_APPROVALS


def read_approvals(folder: Path) -> Iterator[Signed | Stray]:
    """What lies among a plan's approvals, by name. A missing folder holds none.

    No link is followed, and nothing is read beyond its limit. Raises ApprovalError when the folder
    cannot be read or holds more than anybody would put there.
    """
    try:
        above = os.open(
            folder / APPROVALS, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        )
    except FileNotFoundError:
        return  # git keeps no empty folder
    except OSError as error:
        raise _unreadable_approvals(folder, f"{error.strerror}") from None
    try:
        names = list(islice(_approval_names(above), _MAX_APPROVAL_FILES + 1))
        statements = sorted(name for name in names if name.endswith(".json"))
        if len(names) > _MAX_APPROVAL_FILES or len(statements) > MAX_APPROVALS:
            raise _unreadable_approvals(folder, f"It holds more than {MAX_APPROVALS} statements")
        signatures = {name + SIGNATURE for name in statements}
        for name in statements:
            try:
                statement = _read_file(above, name, MAX_STATEMENT_BYTES)
                signature = _read_file(above, name + SIGNATURE, MAX_SIGNATURE_BYTES)
            except FileNotFoundError:
                yield Stray(os.fsencode(name).decode(errors="replace"), "it is not signed")
            except OSError as error:
                yield Stray(
                    os.fsencode(name).decode(errors="replace"),
                    f"it or its signature cannot be read: {error.strerror}",
                )
            else:
                yield Signed(name, statement, signature)
        for name in sorted(set(names) - signatures - set(statements)):
            yield Stray(os.fsencode(name).decode(errors="replace"), "it is no approval")
    except OSError as error:
        raise _unreadable_approvals(folder, f"{error.strerror}") from None
    finally:
        os.close(above)


def _approval_names(above: int) -> Iterator[str]:
    with os.scandir(above) as found:
        for entry in found:
            if entry.name != ".gitkeep" and not entry.name.startswith(durable.STAGED_PREFIX):
                yield entry.name


def _read_file(above: int, name: str, limit: int) -> bytes:
    """A regular file of at most `limit` bytes, without following a link or waiting for a pipe."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with open(os.open(name, flags, dir_fd=above), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "it is no file")
        content = file.read(limit + 1)
    if len(content) > limit:
        raise OSError(errno.EFBIG, f"it is longer than {limit} bytes")
    return content


def _unreadable_approvals(folder: Path, why: str) -> ApprovalError:
    return ApprovalError(
        "The plan's approvals cannot be read.",
        why=f"{folder / APPROVALS}: {why}.",
        hint="Look at that folder; it holds a statement and a signature for each approval.",
    )


def write_approval(folder: Path, approval: Signed) -> None:
    """Put an approval into a plan's folder, durably; its signature first, so that no statement is
    ever without one. Raises OSError."""
    place = folder / APPROVALS
    if place.is_symlink():
        raise OSError(errno.ELOOP, "it is a link", str(place))
    durable.make_folders(place)
    durable.write_whole(place / (approval.name + SIGNATURE), approval.signature)
    durable.write_whole(place / approval.name, approval.statement)


class Lock(Closing):
    """One apply at a time for a plan folder; it ends with the process, and is never broken."""

    def __init__(self, folder: Path) -> None:
        """Raises LockedError when another process holds it, StoreError when there can be none."""
        try:
            self._descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise StoreError(
                "The plan's folder cannot be locked.",
                why=f"{folder / LOCK}: {error.strerror}.",
                hint="An apply writes its audit log there: give access to the folder.",
            ) from None
        if not durable.try_lock(self._descriptor):
            os.close(self._descriptor)
            raise LockedError(
                "Another apply of this plan is running.",
                why=f"It holds {folder / LOCK}.",
                hint="Wait for it to end, then run the command again.",
            )

    def close(self) -> None:
        os.close(self._descriptor)
