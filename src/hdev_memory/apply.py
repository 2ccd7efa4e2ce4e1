"""Carry out a plan: everything is judged before the first write, then one journalled batch at a
time is written, each entry under its own precondition.

What survives a crash: an intent is in the log before its effect, so whatever the machine was doing
is named there; running again judges every action anew and does what is left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice

from hdev_memory.backends.base import (
    BATCH,
    Backend,
    Change,
    Drifted,
    Failed,
    Put,
    Reader,
    Receipt,
    Remove,
    Removed,
    Scope,
    Stored,
)
from hdev_memory.core import audit, events
from hdev_memory.core.diff import (
    Create,
    Delete,
    Overwrite,
    Verdict,
    Writing,
    judge,
    needed,
    transition,
)
from hdev_memory.core.digest import NotCanonical
from hdev_memory.core.entry import Absent, Entry, Normalisation, State, Unreadable
from hdev_memory.core.plan import End, Head, Plan
from hdev_memory.errors import (
    BackendError,
    DriftError,
    HdevError,
    InterruptedEarly,
    PlanError,
)
from hdev_memory.plandir import Journal, OpenPlan


@dataclass(frozen=True)
class Drift:
    """One entry that is not what the plan says: on which side, and what it is instead."""

    key: str
    side: str
    expected: str
    found: str


@dataclass
class Outcome:
    """What a run came to; every writing action is in exactly one of the counts."""

    created: int = 0
    overwritten: int = 0
    deleted: int = 0
    already: int = 0
    bytes: int = 0
    failures: list[tuple[str, str]] = field(default_factory=list)
    left: int = 0
    stopped: str = ""

    @property
    def written(self) -> int:
        return self.created + self.overwritten + self.deleted

    @property
    def complete(self) -> bool:
        return not self.failures and not self.left


@dataclass(frozen=True)
class Run:
    """What a run needs from outside: its name, who runs it, the clock, and when to stop.

    `keep_going` goes on after an entry failed. `stop` is asked between batches.
    """

    run: str
    actor: str
    now: Callable[[], datetime]
    keep_going: bool = False
    stop: Callable[[], bool] = lambda: False


class DriftFound(DriftError):
    """Preflight found drift; nothing was written."""

    def __init__(self, drifts: Sequence[Drift]) -> None:
        self.drifts = drifts
        count = len(drifts)
        super().__init__(
            "The memory has changed since the plan was made; nothing was written.",
            why=f"{count} {'entry differs' if count == 1 else 'entries differ'} from the plan.",
            hint="Make the plan again with `hdev plan`, and review what changed.",
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
    if planned.kind != found.endpoint.kind:
        raise _other(side, f"it is a {planned.kind} {side}, this is {found.endpoint.kind}")
    if planned.store is not None and planned.store != found.endpoint.store:
        raise _other(side, "the store announces another identity than the plan's")
    if planned.capabilities.line_ends != found.capabilities.line_ends or (
        planned.capabilities.metadata != found.capabilities.metadata
    ):
        raise _other(side, "the backend treats content or metadata in another way")


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

    Raises DriftFound before the first write when anything differs; afterwards whatever goes wrong
    is in the outcome. A BackendError is raised only while nothing has been written by this run.
    """
    plan = opened.plan
    log = _Log(journal, plan, run)
    log.begin()
    try:
        verdicts = _preflight(opened, source, target, run, emit)
        _report_outside(opened, source, target, emit)
    except DriftFound as error:
        log.refuse(error, error.drifts)
        raise
    except (HdevError, KeyboardInterrupt) as error:
        log.refuse(error, ())
        raise
    outcome = Outcome(already=verdicts.count(_DONE))
    try:
        _execute(opened, source, target, verdicts, log, run, outcome, emit)
    except KeyboardInterrupt:
        outcome.stopped = "interrupted"
    except BackendError as error:
        if not outcome.written:
            log.refuse(error, ())
            raise
        outcome.stopped = str(error)
    outcome.left = plan.tail.summary.writes - (
        outcome.written + outcome.already + len(outcome.failures)
    )
    log.end(outcome)
    return outcome


_READY, _DONE = 1, 2


def writing(opened: OpenPlan) -> Iterator[Writing]:
    """The plan's writing actions, in key order."""
    for action in opened.actions():
        if isinstance(action, Create | Overwrite | Delete):
            yield action


def _batches(items: Iterable[Writing], size: int = BATCH) -> Iterator[list[Writing]]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


def _preflight(
    opened: OpenPlan, source: Reader, target: Reader, run: Run, emit: events.Emit
) -> bytearray:
    """A verdict for each writing action, one byte each; raises DriftFound when there is any drift.

    The source is looked at only where something is still to be written.
    """
    normalisation = opened.plan.head.normalisation
    total = opened.plan.tail.summary.writes
    verdicts = bytearray()
    drifts: list[Drift] = []
    for batch in _batches(writing(opened)):
        if run.stop():
            raise InterruptedEarly("Interrupted before anything was written.")
        pending: list[Create | Overwrite] = []
        for action, held in zip(batch, target.read([a.key for a in batch]), strict=True):
            current, unknown = _state(held, normalisation)
            before, _ = transition(action)
            if unknown:
                drifts.append(Drift(action.key, "target", describe(before), unknown))
                verdicts.append(_READY)
                continue
            match judge(action, current):
                case Verdict.READY:
                    verdicts.append(_READY)
                    if isinstance(action, Create | Overwrite):
                        pending.append(action)
                case Verdict.DONE:
                    verdicts.append(_DONE)
                case Verdict.DRIFT:
                    verdicts.append(_READY)
                    drifts.append(Drift(action.key, "target", describe(before), describe(current)))
        for put, held in zip(pending, source.read([a.key for a in pending]), strict=True):
            current, unknown = _state(held, normalisation)
            if unknown or current != needed(put):
                found = unknown or describe(current)
                drifts.append(Drift(put.key, "source", describe(needed(put)), found))
        emit(events.Checked(done=len(verdicts), total=total))
    if drifts:
        raise DriftFound(drifts)
    return verdicts


def _state(
    held: Entry | Absent | Unreadable, normalisation: Normalisation
) -> tuple[State | None, str]:
    """The state of what was read, or why nothing can be said of it."""
    match held:
        case Absent():
            return None, ""
        case Unreadable(reason=reason):
            return None, reason
        case Entry():
            try:
                return normalisation.state(held.content, held.metadata), ""
            except NotCanonical as error:
                return None, f"its metadata {error}"


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
    known = {"source": summary.unchanged, "target": summary.unchanged + summary.target_only}
    for side, reader in (("source", source), ("target", target)):
        planned = (action.key for action in opened.actions())
        more = _count_others(reader.keys(scope), planned) - known[side]
        if more > 0:
            emit(events.Outside(side="source" if side == "source" else "target", entries=more))


def _count_others(keys: Iterable[str], planned: Iterable[str]) -> int:
    """How many of `keys` are not `planned`; both come sorted."""
    others = 0
    names = iter(planned)
    name = next(names, None)
    for key in keys:
        while name is not None and name < key:
            name = next(names, None)
        others += key != name
    return others


def _execute(
    opened: OpenPlan,
    source: Reader,
    target: Backend,
    verdicts: bytearray,
    log: _Log,
    run: Run,
    outcome: Outcome,
    emit: events.Emit,
) -> None:
    """Write what is ready, batch by batch: first what creates and overwrites, then the deletes."""
    normalisation = opened.plan.head.normalisation
    total = opened.plan.tail.summary.writes
    for deleting in (False, True):
        ready = (
            action
            for action, verdict in zip(writing(opened), verdicts, strict=True)
            if verdict == _READY and isinstance(action, Delete) == deleting
        )
        for batch in _batches(ready):
            if run.stop():
                outcome.stopped = "interrupted"
                return
            changes, failures = _changes(batch, source, normalisation)
            by_key = {action.key: action for action in batch}
            log.intents([by_key[change.key] for change in changes])
            receipts: Sequence[Receipt] = [*failures]
            if changes and (run.keep_going or not failures):
                receipts = [*failures, *target.write(changes, normalisation)]
            log.outcomes([(by_key[receipt.key], receipt) for receipt in receipts])
            for receipt in receipts:
                _count(outcome, by_key[receipt.key], receipt)
            done = outcome.written + outcome.already + len(outcome.failures)
            emit(events.Wrote(done=done, total=total, bytes=outcome.bytes))
            if outcome.failures and not run.keep_going:
                outcome.stopped = "stopped at the first failure"
                return


def _changes(
    batch: Sequence[Writing], source: Reader, normalisation: Normalisation
) -> tuple[list[Change], list[Failed]]:
    """The changes of a batch, their content read from the source and checked once more."""
    puts = [action for action in batch if isinstance(action, Create | Overwrite)]
    entries = dict(zip((a.key for a in puts), source.read([a.key for a in puts]), strict=True))
    changes: list[Change] = []
    failures: list[Failed] = []
    for action in batch:
        if isinstance(action, Delete):
            changes.append(Remove(key=action.key, before=action.before))
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
                )
            )
        else:
            reason = f"the source changed during the run: {unknown or describe(current)}"
            failures.append(Failed(key=action.key, reason=reason, intact=True))
    return changes, failures


def _count(outcome: Outcome, action: Writing, receipt: Receipt) -> None:
    reason = _failure(action, receipt)
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


def _failure(action: Writing, receipt: Receipt) -> str | None:
    """Why the receipt is no success; None when the entry stands as planned."""
    _, after = transition(action)
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
            return reason if intact else f"{reason}; look at this entry, it may be damaged"


class _Log:
    """Writes the run's records; one durable append for each call."""

    def __init__(self, journal: Journal, plan: Plan, run: Run) -> None:
        self._journal = journal
        self._plan = plan
        self._run = run

    def record(
        self,
        event: audit.Event,
        *,
        action: Writing | None = None,
        observed: State | None = None,
        reason: str = "",
        evidence: str = "",
    ) -> audit.Record:
        return make_record(
            event,
            plan_id=self._plan.plan_id,
            run=self._run,
            action=action,
            observed=observed,
            reason=reason,
            evidence=evidence,
        )

    def begin(self) -> None:
        records = []
        again = any(record.event in ("started", "resumed") for record in self._journal.records)
        records.append(self.record("resumed" if again else "started"))
        self._journal.append(records)

    def refuse(self, error: BaseException, drifts: Sequence[Drift]) -> None:
        refused = self.record("refused", reason=type(error).__name__, evidence=_short(str(error)))
        found = [
            self.record("drift", reason=_short(f"{drift.side} {drift.key}: {drift.found}"))
            for drift in drifts
        ]
        self._journal.append([*found, refused])

    def intents(self, actions: Sequence[Writing]) -> None:
        self._journal.append([self.record("intent", action=action) for action in actions])

    def outcomes(self, receipts: Sequence[tuple[Writing, Receipt]]) -> None:
        self._journal.append([self._outcome(action, receipt) for action, receipt in receipts])

    def _outcome(self, action: Writing, receipt: Receipt) -> audit.Record:
        reason = _failure(action, receipt)
        match receipt:
            case Stored(state=state):
                event: audit.Event = "done" if reason is None else "failed"
                observed: State | None = state
            case Removed():
                event, observed = "done" if reason is None else "failed", None
            case Drifted(found=found):
                event, observed = "done" if reason is None else "drift", found
            case Failed():
                event, observed = "failed", None
        return self.record(
            event,
            action=action,
            observed=observed,
            reason=_short(reason or ""),
            evidence="read-back",
        )

    def end(self, outcome: Outcome) -> None:
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
) -> audit.Record:
    """One record of a run, not yet chained."""
    before, after = transition(action) if action is not None else (None, None)
    return audit.Record(
        seq=1,
        prev=audit.GENESIS,
        time=run.now().strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z",
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
    right, wrong = 0, []
    for batch in _batches(writing(opened)):
        for action, held in zip(batch, target.read([a.key for a in batch]), strict=True):
            _, after = transition(action)
            current, unknown = _state(held, normalisation)
            if unknown or current != after:
                wrong.append(Mismatch(action.key, describe(after), unknown or describe(current)))
            else:
                right += 1
        emit(events.Checked(done=right + len(wrong), total=total))
    return right, wrong
