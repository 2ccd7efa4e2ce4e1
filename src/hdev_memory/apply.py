"""Carry out a plan: everything is judged before the first write, then one journalled batch at a
time is written, each entry under its own precondition.

What survives a crash, for each batch:
  pre-images  the bytes that will be displaced are durable in the plan's backup
  intents     the log names every change of the batch, before the first of them takes effect
  effects     each part of an entry is as before or as after, durable when the batch is
  outcomes    the log says what became of each
Running again judges every action anew, finishes what was cut off, and does what is left. The same
holds for a run that was itself cut off while it resumed.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from typing import TypeVar

import msgspec

from hdev_memory.backends.base import (
    BATCH,
    GLANCE,
    Backend,
    Change,
    Drifted,
    Endpoint,
    Failed,
    Put,
    Reader,
    Receipt,
    Remove,
    Removed,
    Scope,
    Session,
    Stored,
    Transition,
    Unknown,
    state_of,
)
from hdev_memory.core import audit, events
from hdev_memory.core.diff import (
    Create,
    Delete,
    Overwrite,
    Verdict,
    Writing,
    interrupted,
    judge,
    needed,
    transition,
)
from hdev_memory.core.entry import Absent, Entry, Normalisation, Parts, State, Unreadable
from hdev_memory.core.plan import End, Head, Plan
from hdev_memory.errors import (
    DriftError,
    HdevError,
    InterruptedEarly,
    LockedError,
    PlanError,
    PolicyError,
)
from hdev_memory.plandir import UNVERIFIED, Backup, Journal, OpenPlan

LOGGED_DRIFTS = 100
"""Drifting entries of one refusal that are recorded; its reason counts them all. So a job that is
refused again and again does not fill the disk, however large its plan."""

BATCH_BYTES = 16 * 1024 * 1024
"""No batch of writes holds more content than this, but for a single larger entry. While one is
written the next is read."""

_LEFT_BEHIND = 1.0
"""Seconds that a thread nobody needs any more is waited for."""

T = TypeVar("T")


@dataclass(frozen=True)
class Drift:
    """One entry that is not what the plan says: on which side, and what it is instead."""

    key: str
    side: str
    expected: str
    found: str


@dataclass
class Outcome:
    """What a run came to; every writing action is in exactly one of the counts.

    `kept` names the files, below the target, that hold bytes which somebody else wrote meanwhile.
    `unlogged` says that the log could not take the end of the run.
    """

    created: int = 0
    overwritten: int = 0
    deleted: int = 0
    already: int = 0
    bytes: int = 0
    failures: list[tuple[str, str]] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    left: int = 0
    stopped: str = ""
    unlogged: bool = False

    @property
    def written(self) -> int:
        return self.created + self.overwritten + self.deleted

    @property
    def complete(self) -> bool:
        return not self.failures and not self.left and not self.unlogged


@dataclass(frozen=True)
class Run:
    """What a run needs from outside: its name, who runs it, the clock, and when to stop.

    `keep_going` goes on after an entry failed. `stop` is asked between batches. `remark` is written
    into the log where the run begins. `allow_unguarded` goes on where the target turns out to keep
    a weaker promise about other writers than the plan says. `wait_for_lock` is asked when somebody
    else holds the target: it waits a little, and says whether to try again.
    """

    run: str
    actor: str
    now: Callable[[], datetime]
    keep_going: bool = False
    stop: Callable[[], bool] = lambda: False
    remark: str = ""
    allow_unguarded: bool = False
    wait_for_lock: Callable[[], bool] = lambda: False


class DriftFound(DriftError):
    """Preflight found drift; nothing was written."""

    def __init__(self, drifts: Sequence[Drift], half_written: Sequence[str] = ()) -> None:
        self.drifts = drifts
        count = len(drifts)
        why = f"{count} {'entry differs' if count == 1 else 'entries differ'} from the plan."
        hint = "Make the plan again with `hdev plan`, and review what changed."
        if half_written:
            why += (
                f" An earlier run was cut off in the middle of {len(half_written)} entries, which "
                f"are half-written: {', '.join(half_written[:20])}."
            )
            hint = (
                "Put the entries that differ back as they were and apply again, or undo the plan "
                "with `hdev rollback --skip-changed`."
            )
        super().__init__(
            "The memory has changed since the plan was made; nothing was written.",
            why=why,
            hint=hint,
        )


def check_expiry(plan: Plan, now: datetime) -> None:
    """Raise PlanError when the plan has expired; the only place where a clock decides."""
    expires = plan.tail.provenance.expires
    if expires is not None and now >= datetime.fromisoformat(expires):
        raise PlanError(
            "The plan has expired.",
            why=f"It was good until {expires}.",
            hint="Make the plan again with `hdev plan`.",
        )


def check_ends(head: Head, source: Reader, target: Reader) -> None:
    """Raise PlanError when an end is not the one that the plan was made for."""
    check_end("source", head.source, source)
    check_end("target", head.target, target)


def check_end(side: str, planned: End, found: Reader) -> None:
    """Raise PlanError when this is not the end that was planned with."""
    check_endpoint(side, planned, found.endpoint)
    if planned.capabilities.line_ends != found.capabilities.line_ends or (
        planned.capabilities.metadata != found.capabilities.metadata
    ):
        raise _other(side, "the backend treats content or metadata in another way")


def check_endpoint(side: str, planned: End, found: Endpoint) -> None:
    """Raise PlanError when this is another kind of end than was planned with, or another store."""
    if planned.kind != found.kind:
        raise _other(side, f"it is a {planned.kind} {side}, this is {found.kind}")
    if planned.store is not None and planned.store != found.store:
        raise _other(side, "the store announces another identity than the plan's")


def _other(side: str, why: str) -> PlanError:
    return PlanError(
        f"The plan was made for another {side}.",
        why=f"{why[0].upper()}{why[1:]}.",
        hint=f"Give the right {side}, or make a plan for this one.",
    )


def apply(
    opened: OpenPlan,
    source: Reader,
    target: Backend,
    journal: Journal,
    run: Run,
    emit: events.Emit = events.silent,
) -> Outcome:
    """Judge everything, then execute exactly the plan.

    Raises DriftFound, LockedError or whatever else refuses before the first write; afterwards
    whatever goes wrong is in the outcome.
    """
    plan = opened.plan
    log = _Log(journal, plan, run)
    outcome = Outcome()
    with Backup(opened.folder, plan.head.normalisation) as backup:
        try:
            open_before = log.begin()
            with _held(target, plan, run):
                _check_level(plan.head, target, run)
                outcome.kept += _recover(opened, target, backup, journal, log)
                verdicts = _preflight(opened, source, target, open_before, run, emit)
                _report_outside(opened, source, target, emit)
                outcome.already = verdicts.count(_DONE)
                backup.prepare()
                job = _Job(opened, source, target, backup, log, run, outcome, emit)
                job.execute(verdicts)
        except KeyboardInterrupt:
            if not log.wrote:
                raise _refused(log, InterruptedEarly(_EARLY)) from None
            outcome.stopped = "interrupted"
        except HdevError as error:
            if not log.wrote:
                raise _refused(log, error) from None
            outcome.stopped = str(error)
    outcome.left = plan.tail.summary.writes - (
        outcome.written + outcome.already + len(outcome.failures)
    )
    try:
        log.end(outcome)
    except (HdevError, KeyboardInterrupt) as error:
        outcome.stopped, outcome.unlogged = str(error) or "interrupted", True
    return outcome


@contextlib.contextmanager
def _held(target: Backend, plan: Plan, run: Run) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        while True:
            try:
                stack.enter_context(target.hold(f"apply {plan.plan_id} run {run.run}"))
                break
            except LockedError:
                if run.stop() or not run.wait_for_lock():
                    raise
        yield


_LEVELS = ("none", "guarded", "atomic")


def _check_level(head: Head, target: Backend, run: Run) -> None:
    """Raise PolicyError when the target's writes are less safe than the plan says."""
    planned, found = head.target.capabilities.cas, target.capabilities.cas
    weaker = _LEVELS.index(found) < _LEVELS.index(planned)
    if (weaker or found == "none") and not run.allow_unguarded:
        raise PolicyError(
            "The target does not protect other writers as well as the plan says.",
            why=f"The plan says {planned}; tried out now, it is {found}.",
            hint="Make the plan again and review it, or give --allow-unguarded.",
        )


_EARLY = "Interrupted before anything was written."


def _refused(log: _Log, error: HdevError) -> HdevError:
    log.refuse(error, error.drifts if isinstance(error, DriftFound) else ())
    return error


def _recover(
    opened: OpenPlan, target: Backend, backup: Backup, journal: Journal, log: _Log
) -> Sequence[str]:
    """Clear away what earlier runs left; the names under which foreign bytes were kept."""
    runs = {record.run for record in journal.records} - {log.run.run}
    if not any(record.event in ("started", "resumed") for record in journal.records[:-1]):
        return ()
    # Only a run that logged its intent can have displaced anything; of any other run whatever lies
    # there was staged by itself, and may be damaged.
    cut_off: dict[str, dict[str, Transition]] = {}
    for key, intent in journal.open.items():
        cut_off.setdefault(intent.run, {})[key] = (intent.before, intent.after)
    idle = runs - cut_off.keys()
    backup.tidy(runs, (action.key for action in writing(opened)))
    kept: list[str] = []
    for names, changes in [(idle, {}), *(([run], cut_off[run]) for run in cut_off)]:
        keys = (action.key for action in writing(opened))
        kept += target.tidy(names, keys, changes, opened.plan.head.normalisation)
    log.kept(kept)
    return kept


_READY, _DONE, _CUT_OFF = 1, 2, 3


def writing(opened: OpenPlan) -> Iterator[Writing]:
    """The plan's writing actions, in key order."""
    for action in opened.actions():
        if isinstance(action, Create | Overwrite | Delete):
            yield action


def batches(items: Iterable[Writing], size: int = BATCH) -> Iterator[list[Writing]]:
    """The items in lists of `size`, the last one shorter."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


@contextlib.contextmanager
def _ahead(items: Iterator[T], target: Backend) -> Iterator[Iterator[T]]:
    """The same items; while one of them is used the next is made, where that saves time.

    A target in this process would only share its processor with that.
    """
    if target.endpoint.kind not in _ELSEWHERE:
        yield items
        return
    with contextlib.closing(_made_aside(items)) as made:
        yield made


_ELSEWHERE = ("http", "postgres")
"""Kinds of targets that work in processes of their own."""


def _made_aside(items: Iterator[T]) -> Generator[T, None, None]:
    """The same items, each made in a thread while the one before is used."""
    wanted: queue.SimpleQueue[bool] = queue.SimpleQueue()
    made: queue.SimpleQueue[tuple[T, ...] | BaseException] = queue.SimpleQueue()

    def make() -> None:
        while wanted.get():
            try:
                made.put(tuple(islice(items, 1)))
            except BaseException as error:  # noqa: BLE001 - it is raised where the item is taken
                made.put(error)

    thread = threading.Thread(target=make, name="hdev-ahead", daemon=True)
    thread.start()
    try:
        wanted.put(True)
        while True:
            try:
                found = made.get(timeout=GLANCE)
            except queue.Empty:
                continue
            if isinstance(found, BaseException):
                raise found
            if not found:
                return
            wanted.put(True)
            yield found[0]
    finally:
        wanted.put(False)
        thread.join(_LEFT_BEHIND)


def _bounded(
    items: Iterable[tuple[Writing, bool]], size: int
) -> Iterator[list[tuple[Writing, bool]]]:
    """Batches of `size` at most, and of BATCH_BYTES of content."""
    batch: list[tuple[Writing, bool]] = []
    content = 0
    for action, resumed in items:
        before, after = transition(action)
        own = max(state.bytes for state in (before, after) if state is not None)
        if batch and (len(batch) == size or content + own > BATCH_BYTES):
            yield batch
            batch, content = [], 0
        batch.append((action, resumed))
        content += own
    if batch:
        yield batch


def _preflight(
    opened: OpenPlan,
    source: Reader,
    target: Backend,
    cut_off: Mapping[str, audit.Record],
    run: Run,
    emit: events.Emit,
) -> bytearray:
    """A verdict for each writing action, one byte each; raises DriftFound when there is any drift.

    The source is looked at only where something is still to be written.
    """
    normalisation = opened.plan.head.normalisation
    total = opened.plan.tail.summary.writes
    verdicts = bytearray()
    drifts: list[Drift] = []
    half: list[str] = []
    size = 0
    emit(events.Checked(done=0, total=total, bytes=0))

    def looked_at() -> Iterator[list[tuple[Writing, int, State | None, str]]]:
        for batch in batches(writing(opened), target.batch):
            found = target.read([action.key for action in batch])
            yield [
                (action, _size(held), *_state(held, normalisation))
                for action, held in zip(batch, found, strict=True)
            ]

    with _ahead(looked_at(), target) as windows:
        for looked in windows:
            if run.stop():
                raise InterruptedEarly(_EARLY)
            pending: list[Create | Overwrite] = []
            for action, read, current, unknown in looked:
                size += read
                verdict = Verdict.DRIFT if unknown else judge(action, current)
                if verdict is Verdict.DRIFT and _was_cut_off(
                    action, target, cut_off, normalisation
                ):
                    verdicts.append(_CUT_OFF)
                    half.append(action.key)
                else:
                    verdicts.append(_DONE if verdict is Verdict.DONE else _READY)
                    if verdict is Verdict.DRIFT:
                        before, _ = transition(action)
                        found = unknown or describe(current)
                        drifts.append(Drift(action.key, "target", describe(before), found))
                        continue
                if isinstance(action, Create | Overwrite) and verdict is not Verdict.DONE:
                    pending.append(action)
            for put, held in zip(pending, source.read([a.key for a in pending]), strict=True):
                size += _size(held)
                current, unknown = _state(held, normalisation)
                if unknown or current != needed(put):
                    found = unknown or describe(current)
                    drifts.append(Drift(put.key, "source", describe(needed(put)), found))
            emit(events.Checked(done=len(verdicts), total=total, bytes=size))
    if drifts:
        raise DriftFound(drifts, half)
    return verdicts


def _size(held: Entry | Absent | Unreadable) -> int:
    """Bytes of content that were read."""
    return len(held.content) if isinstance(held, Entry) else 0


def _was_cut_off(
    action: Writing,
    target: Backend,
    cut_off: Mapping[str, audit.Record],
    normalisation: Normalisation,
) -> bool:
    """Whether an earlier run began this very change, and what stands there is a part of it."""
    intent = cut_off.get(action.key)
    if intent is None or (intent.before, intent.after) != transition(action):
        return False
    parts = target.parts(action.key, normalisation)
    return isinstance(parts, Parts) and interrupted(intent.before, intent.after, parts)


def _state(
    held: Entry | Absent | Unreadable, normalisation: Normalisation
) -> tuple[State | None, str]:
    """The state of what was read, or why nothing can be said of it."""
    try:
        return state_of(held, normalisation), ""
    except Unknown as error:
        return None, str(error)


def describe(state: State | None) -> str:
    """A state in words for people, short enough for a line."""
    if state is None:
        return "absent"
    return f"content {state.content[:12]} metadata {state.metadata[:12]} ({state.bytes} bytes)"


def _report_outside(opened: OpenPlan, source: Reader, target: Reader, emit: events.Emit) -> None:
    """Say how many entries each end holds now that the plan did not see."""
    options = opened.plan.head.options
    summary = opened.plan.tail.summary
    scope = Scope(options.include, options.exclude)
    in_source, in_target = _Others(source.keys(scope)), _Others(target.keys(scope))
    for action in opened.actions():
        in_source.beside(action.key)
        in_target.beside(action.key)
    more = in_source.all() - summary.unchanged
    if more > 0:
        emit(events.Outside(side="source", entries=more))
    more = in_target.all() - summary.unchanged - summary.target_only
    if more > 0:
        emit(events.Outside(side="target", entries=more))


class _Others:
    """Counts the keys of a sorted listing that are not planned."""

    def __init__(self, keys: Iterable[str]) -> None:
        self._keys = iter(keys)
        self._key = next(self._keys, None)
        self._count = 0

    def beside(self, planned: str) -> None:
        """The next planned key; they come sorted as well."""
        while self._key is not None and self._key < planned:
            self._count += 1
            self._key = next(self._keys, None)
        if self._key == planned:
            self._key = next(self._keys, None)

    def all(self) -> int:
        """How many there are, once every planned key has gone by."""
        rest = 0 if self._key is None else 1 + sum(1 for _ in self._keys)
        return self._count + rest


_Prepared = tuple[list[tuple[Writing, bool]], list[Change], list[Receipt]]
"""A batch, each with whether it was cut off; the changes; what became of those without one."""


@dataclass(frozen=True)
class _Job:
    """The second half of a run: writing what preflight found ready."""

    opened: OpenPlan
    source: Reader
    target: Backend
    backup: Backup
    log: _Log
    run: Run
    outcome: Outcome
    emit: events.Emit

    def execute(self, verdicts: bytearray) -> None:
        """Write batch by batch: first what creates and overwrites, then the deletes."""
        self._tell()
        with _ahead(self._prepared(verdicts), self.target) as prepared:
            for batch, changes, receipts in prepared:
                if self.run.stop():
                    self.outcome.stopped = "interrupted"
                    return
                self._write(batch, changes, receipts)
                if self.outcome.failures and not self.run.keep_going:
                    self.outcome.stopped = "stopped at the first failure"
                    return

    def _prepared(self, verdicts: bytearray) -> Iterator[_Prepared]:
        """The batches, in their order, with what the source has for each."""
        normalisation = self.opened.plan.head.normalisation
        for deleting in (False, True) if self.opened.plan.tail.summary.delete else (False,):
            ready = (
                (action, verdict == _CUT_OFF)
                for action, verdict in zip(writing(self.opened), verdicts, strict=True)
                if verdict != _DONE and isinstance(action, Delete) == deleting
            )
            for batch in _bounded(ready, self.target.batch):
                yield batch, *self._changes(batch, normalisation)

    def _write(
        self,
        batch: Sequence[tuple[Writing, bool]],
        changes: Sequence[Change],
        receipts: list[Receipt],
    ) -> None:
        """One batch: pre-images, intents, effects, outcomes."""
        normalisation = self.opened.plan.head.normalisation
        by_key = {action.key: action for action, _ in batch}
        changes, refused = self._keep_pre_images(changes, normalisation)
        receipts += refused
        failed = any(self._failure(by_key[receipt.key], receipt) for receipt in receipts)
        if changes and (self.run.keep_going or not failed):

            def intend(ready: Sequence[Change]) -> None:
                self.log.intents([by_key[change.key] for change in ready])

            session = Session(run=self.run.run, plan=self.opened.plan.plan_id, intend=intend)
            receipts += self.target.write(changes, normalisation, session)
        told = [(by_key[r.key], r, self._failure(by_key[r.key], r)) for r in receipts]
        self.log.outcomes(told)
        for action, receipt, reason in told:
            _count(self.outcome, action, receipt, reason)
        self._tell()

    def _tell(self) -> None:
        done = self.outcome.written + self.outcome.already + len(self.outcome.failures)
        total = self.opened.plan.tail.summary.writes
        self.emit(events.Wrote(done=done, total=total, bytes=self.outcome.bytes))

    def _changes(
        self, batch: Sequence[tuple[Writing, bool]], normalisation: Normalisation
    ) -> tuple[list[Change], list[Receipt]]:
        """The changes of a batch, their content read from the source and checked once more."""
        puts = [action.key for action, _ in batch if not isinstance(action, Delete)]
        entries = dict(zip(puts, self.source.read(puts), strict=True))
        changes: list[Change] = []
        failures: list[Receipt] = []
        for action, resumed in batch:
            if isinstance(action, Delete):
                changes.append(Remove(key=action.key, before=action.before, resumed=resumed))
                continue
            entry = entries[action.key]
            current, unknown = _state(entry, normalisation)
            if isinstance(entry, Entry) and current == needed(action):
                before, _ = transition(action)
                changes.append(
                    Put(
                        key=action.key,
                        content=entry.content,
                        metadata=entry.metadata,
                        before=before,
                        after=action.after,
                        sidecar=entry.sidecar,
                        resumed=resumed,
                    )
                )
            else:
                reason = f"the source changed during the run: {unknown or describe(current)}"
                failures.append(Failed(key=action.key, reason=reason, intact=not resumed))
        return changes, failures

    def _keep_pre_images(
        self, changes: Sequence[Change], normalisation: Normalisation
    ) -> tuple[list[Change], list[Receipt]]:
        """Keep what the changes will displace; those whose pre-image is durable, and the rest.

        Of a change that was cut off the pre-image was kept before its intent was logged.
        """
        refused: dict[str, Receipt] = {}
        fresh = [c for c in changes if c.before is not None and not c.resumed]
        entries: list[tuple[Entry, State]] = []
        for change, held in zip(fresh, self.target.read([c.key for c in fresh]), strict=True):
            current, unknown = _state(held, normalisation)
            if unknown:
                refused[change.key] = Failed(key=change.key, reason=unknown, intact=True)
            elif isinstance(held, Entry) and current is not None and current == change.before:
                entries.append((held, current))
            else:
                refused[change.key] = Drifted(key=change.key, found=current)
        for key, reason in self.backup.keep(entries, self.run.run).items():
            refused[key] = Failed(key=key, reason=reason, intact=True)
        for change in changes:
            before = change.before if change.resumed else None
            if before is not None and not self.backup.holds(change.key, before):
                reason = "its pre-image is not in the backup"
                refused[change.key] = Failed(key=change.key, reason=reason, intact=False)
        return [c for c in changes if c.key not in refused], list(refused.values())

    def _failure(self, action: Writing, receipt: Receipt) -> str | None:
        """Why the receipt is no success; None when the entry stands as planned."""
        before, after = transition(action)
        match receipt:
            case Stored(state=state):
                return None if state == after else "the target stored something else"
            case Removed():
                return None if after is None else "the target removed the entry"
            case Drifted(found=found):
                if judge(action, found) is Verdict.DONE:
                    return None
                return f"changed in the target during the run: {describe(found)}"
            case Failed(reason=reason, intact=intact):
                if intact:
                    return reason
                where = ""
                if before is not None:
                    where = f"; as it was before, it is in {self.backup.path / action.key}.md"
                return f"{reason}; look at this entry, it may be damaged{where}"


def _count(outcome: Outcome, action: Writing, receipt: Receipt, reason: str | None) -> None:
    if receipt.kept:
        outcome.kept.append(receipt.kept)
    if reason is not None:
        outcome.failures.append((action.key, reason))
    elif isinstance(receipt, Drifted):
        outcome.already += 1
    elif isinstance(action, Create):
        outcome.created += 1
        outcome.bytes += action.after.bytes
    elif isinstance(action, Overwrite):
        outcome.overwritten += 1
        outcome.bytes += action.after.bytes
    else:
        outcome.deleted += 1


class _Log:
    """Writes the run's records; one durable append for each call.

    `wrote` is True from the first intent on: from then on something may have changed.
    """

    def __init__(self, journal: Journal, plan: Plan, run: Run) -> None:
        self._journal = journal
        self._plan = plan
        self.run = run
        self.wrote = False

    def record(
        self,
        event: audit.Event,
        *,
        action: Writing | None = None,
        observed: State | None = None,
        reason: str = "",
        evidence: str = "",
        time: str = "",
    ) -> audit.Record:
        return make_record(
            event,
            plan_id=self._plan.plan_id,
            run=self.run,
            action=action,
            observed=observed,
            reason=reason,
            evidence=evidence,
            time=time,
        )

    def begin(self) -> Mapping[str, audit.Record]:
        """Record the beginning; the intents of earlier runs whose outcome is not known."""
        again = any(record.event in ("started", "resumed") for record in self._journal.records)
        event: audit.Event = "resumed" if again else "started"
        self._journal.append([self.record(event, evidence=self.run.remark)])
        return dict(self._journal.open)

    def refuse(self, error: BaseException, drifts: Sequence[Drift]) -> None:
        if self._journal.broken:
            return
        refused = self.record("refused", reason=type(error).__name__, evidence=_short(str(error)))
        self._journal.append([*map(self._drift, drifts[:LOGGED_DRIFTS]), refused])

    def _drift(self, drift: Drift) -> audit.Record:
        found = self.record(
            "drift",
            reason=_short(f"{drift.side}: {drift.found}"),
            evidence=_short(f"planned: {drift.expected}"),
        )
        return msgspec.structs.replace(found, key=drift.key)

    def kept(self, names: Sequence[str]) -> None:
        """Record that bytes of somebody else, found where an earlier run was cut off, were kept."""
        self._journal.append(
            [self.record("repaired", reason="foreign bytes were kept", evidence=n) for n in names]
        )

    def intents(self, actions: Sequence[Writing]) -> None:
        time = _instant(self.run)
        records = [self.record("intent", action=action, time=time) for action in actions]
        self._journal.append(records)
        self.wrote = True

    def outcomes(self, receipts: Sequence[tuple[Writing, Receipt, str | None]]) -> None:
        time = _instant(self.run)
        self._journal.append([self._outcome(*told, time) for told in receipts])

    def _outcome(
        self, action: Writing, receipt: Receipt, reason: str | None, time: str
    ) -> audit.Record:
        evidence = "read-back"
        match receipt:
            case Stored(state=state):
                event: audit.Event = "done" if reason is None else "failed"
                observed: State | None = state
            case Removed():
                event, observed = "done" if reason is None else "failed", None
            case Drifted(found=found):
                event, observed = "done" if reason is None else "drift", found
            case Failed(intact=intact):
                event, observed = "failed", None
                evidence = "read-back" if intact else UNVERIFIED
        if receipt.kept:
            reason = f"{reason or 'somebody else wrote meanwhile'}; kept as {receipt.kept}"
        return self.record(
            event,
            action=action,
            observed=observed,
            reason=_short(reason or ""),
            evidence=evidence,
            time=time,
        )

    def end(self, outcome: Outcome) -> None:
        if self._journal.broken:
            return  # the outcome says so; the next run finds the log as far as it got
        numbers = (
            f"created {outcome.created}, overwritten {outcome.overwritten}, deleted "
            f"{outcome.deleted}, already done {outcome.already}, failed {len(outcome.failures)}, "
            f"left {outcome.left}"
        )
        event: audit.Event = "finished" if outcome.complete else "stopped"
        self._journal.append([self.record(event, reason=_short(outcome.stopped), evidence=numbers)])


def make_record(
    event: audit.Event,
    *,
    plan_id: str,
    run: Run,
    action: Writing | None = None,
    observed: State | None = None,
    reason: str = "",
    evidence: str = "",
    time: str = "",
) -> audit.Record:
    """One record of a run, not yet chained, of this time; of now where none is given."""
    before, after = transition(action) if action is not None else (None, None)
    return audit.Record(
        seq=1,
        prev=audit.GENESIS,
        time=time or _instant(run),
        event=event,
        run=run.run,
        plan=plan_id,
        actor=run.actor,
        action=type(action).__name__.lower() if action is not None else "",
        key=action.key if action is not None else "",
        before=before,
        after=after,
        observed=observed,
        reason=reason,
        evidence=evidence,
    )


def _instant(run: Run) -> str:
    return run.now().strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


def _short(text: str, limit: int = 2000) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


@dataclass(frozen=True)
class Mismatch:
    """An entry of the target that is not as the plan leaves it."""

    key: str
    expected: str
    found: str


def verify(
    opened: OpenPlan, target: Reader, emit: events.Emit = events.silent
) -> tuple[int, list[Mismatch]]:
    """Re-read the target: how many entries stand as the plan leaves them, and those that do not."""
    normalisation = opened.plan.head.normalisation
    total = opened.plan.tail.summary.writes
    right, wrong, size = 0, [], 0
    emit(events.Checked(done=0, total=total, bytes=0))
    for batch in batches(writing(opened)):
        for action, held in zip(batch, target.read([a.key for a in batch]), strict=True):
            size += _size(held)
            _, after = transition(action)
            current, unknown = _state(held, normalisation)
            if unknown or current != after:
                wrong.append(Mismatch(action.key, describe(after), unknown or describe(current)))
            else:
                right += 1
        emit(events.Checked(done=right + len(wrong), total=total, bytes=size))
    return right, wrong
