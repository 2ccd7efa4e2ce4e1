"""The steps that commands are put together from: open the ends, make a plan, carry it out."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import Literal

from hdev_memory import __version__, plandir, planning
from hdev_memory import apply as engine
from hdev_memory.backends import open_backend
from hdev_memory.backends.base import MAX_ENTRY_BYTES, Backend, Reader, Scope, Secret, Where
from hdev_memory.cli.context import (
    actor,
    colour,
    home,
    instant,
    note,
    note_inert,
    now,
    say,
    warn,
    width,
)
from hdev_memory.cli.eventlines import (
    ApplyEnding,
    Drift,
    Failed,
    KeptAside,
    Lines,
    PlanEnding,
    RollbackEnding,
)
from hdev_memory.cli.progress import Shown
from hdev_memory.config import EndFlags, Resolved, ResolvedEnd, Settings, resolve, span
from hdev_memory.core.approval import Counted, Statement, encode, is_principal, used
from hdev_memory.core.digest import named, sha256
from hdev_memory.core.override import Override
from hdev_memory.core.override import encode as encode_override
from hdev_memory.core.plan import End, Limits, Options, Provenance
from hdev_memory.errors import AuditError, HdevError, LockedError, PlanError, UsageError
from hdev_memory.findings import Judge
from hdev_memory.passed import Passed
from hdev_memory.review import document, markdown, metadata, reading
from hdev_memory.review.inert import inert

DEFAULT_EXPIRY = "7d"


def from_argv(*keys: str | None) -> list[Secret | None]:
    """Keys that were given on the command line, with the warning that this deserves."""
    if any(key is not None for key in keys):
        warn(
            "a key on the command line can be seen in the list of processes; "
            "HDEV_MEMORY_HTTP_API_KEY or HDEV_MEMORY_HTTP_API_KEY_FILE keep it out of there."
        )
    return [Secret(key) if key is not None else None for key in keys]


def parse_expiry(text: str, *, flag: str = "--expires") -> timedelta | None:
    """`7d`, `12h`, `30m` or `never`; raises UsageError."""
    if text == "never":
        return None
    found = span(text)
    if found is None:
        raise UsageError(
            "This is not a time span.",
            why=f"{flag} was {text!r}.",
            hint="Give for example 7d, 12h, 30m or never.",
        )
    return found


def author(settings: Settings, given: str | None) -> str | None:
    """The principal who makes a plan: given, else configured. Raises UsageError."""
    if given is not None and not is_principal(given):
        raise UsageError(
            "This is not the name of a principal.",
            why=f"--principal was {given!r}.",
            hint="Write it as it stands in allowed_signers, for example ann@example.com.",
        )
    return given if given is not None else settings.get("principal")


def parse_wait(text: str) -> float:
    """`0`, `30s` or `5m` in seconds; raises UsageError."""
    found = re.fullmatch(r"([0-9]{1,6})([sm])|0", text)
    if found is None:
        raise UsageError(
            "This is not a time to wait.",
            why=f"--lock-timeout was {text!r}.",
            hint="Give for example 30s, 5m or 0.",
        )
    return float(found.group(1) or 0) * (60 if found.group(2) == "m" else 1)


@dataclass(frozen=True)
class Wish:
    """What a plan shall do."""

    overwrite: bool = False
    delete: bool = False
    max_delete: str | None = None
    compare: Literal["content", "all"] = "all"
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    expires: str = DEFAULT_EXPIRY
    author: str | None = None
    judge: Judge | None = None

    def options(self) -> Options:
        if self.max_delete is not None:
            planning.parse_max_delete(self.max_delete)
            if not self.delete:
                raise UsageError(
                    "--max-delete says nothing without --delete.", hint="Add --delete, or drop it."
                )
        try:
            Scope(self.include, self.exclude)
        except ValueError as error:
            raise UsageError(
                "A pattern is not valid.",
                why=f"{error}.",
                hint="--include and --exclude take patterns as .gitignore does.",
            ) from None
        return Options(
            overwrite=self.overwrite,
            delete=self.delete,
            max_delete=self.max_delete,
            compare=self.compare,
            include=self.include,
            exclude=self.exclude,
            limits=Limits(max_entry_bytes=MAX_ENTRY_BYTES),
            policy=self.judge.policy if self.judge is not None else None,
        )


def one_end(
    settings: Settings, endpoint: str, api_key: str | None, *, insecure_http: bool
) -> Where:
    """Where the one endpoint of a command lies, with the key that belongs to it."""
    (key,) = from_argv(api_key)
    resolved = resolve(
        settings,
        EndFlags(),
        EndFlags(endpoint=endpoint),
        shared_api_key=key,
        insecure_http=insecure_http,
    )
    for warning in resolved.warnings:
        warn(warning)
    return resolved.target.where


@contextlib.contextmanager
def opened_ends(
    source: ResolvedEnd, target: ResolvedEnd, *, index: Path | None = None
) -> Iterator[tuple[Backend, Backend]]:
    """Both ends, open; the source must exist. `index` as in Where, for planning alone."""
    kept = str(index) if index is not None else None
    with (
        open_backend(replace(source.where, index=kept), must_exist=True) as ours,
        open_backend(replace(target.where, index=kept), must_exist=False) as theirs,
    ):
        yield ours, theirs


class Reviewer:
    """Describes a new plan, once: the file and the screen show the same rows.

    What the entries hold is read from both ends the first time. A plan is never lost because its
    review could not be read: the review then says so.
    """

    def __init__(self, ends: tuple[Backend, Backend], *, content: bool = True) -> None:
        self._ends = ends
        self.content = content
        """Whether the review shows what entries hold, so that both ends are read for it."""
        self._described: dict[str, document.Document] = {}

    def __call__(
        self, opened: plandir.OpenPlan, name: str, standing: Iterable[str] | None = None
    ) -> document.Document:
        """`standing` are the keys of the target, sorted, where they are known already."""
        which = opened.plan.plan_id
        if which not in self._described:
            looked = (
                reading.read(opened, *self._ends, standing=standing)
                if self.content
                else unread(opened)
            )
            heading = document.head(opened, name=name)
            self._described = {which: document.describe(opened, heading, looked)}
        return self._described[which]


def unread(opened: plandir.OpenPlan) -> reading.Looked:
    """What a review says of the entries when it was told to leave their contents out."""
    return reading.unread(opened, "Contents are left out of this review.")


def look(
    opened: plandir.OpenPlan,
    settings: Settings,
    source: EndFlags,
    target: EndFlags,
    *,
    shared_api_key: Secret | None,
    insecure_http: bool,
    bounds: reading.Bounds,
    only: str | None = None,
    key: str | None = None,
) -> reading.Looked:
    """What the entries of a plan hold, from the ends as an apply resolves them.

    An end that is out of reach, refuses its key or is not the plan's is no error: the review is
    there without it, and says so. Raises UsageError for flags that contradict one another.
    """
    told = any(value is not None for end in (source, target) for value in (end.path, end.url))
    try:
        resolved = resolve(
            settings,
            *ends_of(settings, opened, source, target),
            shared_api_key=shared_api_key,
            insecure_http=insecure_http,
        )
        for warning in resolved.warnings:
            warn(warning)
        with opened_ends(resolved.source, resolved.target) as ends:
            engine.check_ends(opened.plan.head, *ends)
            return reading.read(opened, *ends, bounds, only=only, key=key)
    except HdevError as error:
        if told and isinstance(error, UsageError):
            raise
        return reading.unread(opened, f"The contents could not be read. {error}")


def heading(opened: plandir.OpenPlan, settings: Settings) -> document.Heading:
    """What a review of a plan that lies in its folder says first, with log and approvals."""
    from hdev_memory.cli import policing  # ssh-keygen, git and rules, only where a review is made

    return document.head(
        opened,
        name=opened.folder.name,
        audit=audit_head(opened.folder),
        approvals=policing.standings(opened, settings),
    )


def audit_head(folder: Path) -> document.AuditHead | None:
    """Where the log of a plan stands; None where there is none. A damaged one is warned about."""
    try:
        last = plandir.last_record(folder)
    except AuditError as error:
        warn(f"{error} `hdev audit verify {folder}` tells more.")
        return None
    if last is None:
        return None
    record, head = last
    return document.AuditHead(
        seq=head.seq,
        digest=named(head.digest),
        event=inert(record.event),
        time=inert(record.time),
    )


def make_plan(
    resolved: Resolved,
    ends: tuple[Backend, Backend],
    wish: Wish,
    out: Path | None,
    plans: Path,
    *,
    review: Reviewer | None = None,
    lines: Lines | None = None,
    adapt: Callable[[planning.Request], planning.Request] = lambda request: request,
    readers: tuple[Reader, Reader] | None = None,
) -> plandir.OpenPlan:
    """Plan, write the plan's folder, and record that it was planned.

    `adapt` has the last word on what is asked for, `readers` are what is compared where that is
    less than both whole ends.
    """
    described = review if review is not None else Reviewer(ends)
    created = now()
    expiry = parse_expiry(wish.expires)
    request = planning.Request(
        options=wish.options(),
        source_label=resolved.source.label,
        target_label=resolved.target.label,
        provenance=Provenance(
            created=instant(created),
            expires=instant(created + expiry) if expiry is not None else None,
            tool=f"hdev-memory {__version__}",
            author=wish.author,
        ),
        home=str(home()),
        judge=wish.judge,
    )
    if out is None:
        stem = f"{created:%Y-%m-%d}-{resolved.source.label}-to-{resolved.target.label}"
        out = plandir.free_name(plans, stem)
    folder = out
    refuse_inside(folder, ends)
    ours, theirs = readers if readers is not None else ends
    # Of narrowed readers the keys that stand beside what is planned are not seen.
    kept = described.content and readers is None
    with Passed() as passed, Shown(lines) as shown:
        return plandir.create(
            folder,
            planning.plan(
                ours, theirs, adapt(request), shown.emit, passed=passed.add if kept else None
            ),
            lambda draft: markdown.render(described(draft, folder.name, passed if kept else None)),
            lambda plan_id: engine.make_record("planned", plan_id=plan_id, run=new_run()),
        )


def refuse_inside(folder: Path, ends: Iterable[Backend]) -> None:
    """Raise UsageError when a plan's folder would lie in a memory, where its files are entries."""
    place = os.path.realpath(folder)
    for end in ends:
        root = os.path.realpath(end.endpoint.location)
        if end.endpoint.kind == "filesystem" and os.path.commonpath([place, root]) == root:
            raise UsageError(
                "The plan's folder would lie inside a memory, whose entries it would become.",
                why=f"{folder} is in {end.endpoint.location}.",
                hint="Run it elsewhere, or give another folder with -o.",
            )


def new_run(
    *,
    keep_going: bool = False,
    stop: Stopper | None = None,
    allow_unguarded: bool = False,
    patience: Patience | None = None,
) -> engine.Run:
    """A run of this process: a fresh name, the actor, and the real clock."""
    return engine.Run(
        run=secrets.token_hex(8),
        actor=actor(),
        now=now,
        allow_unguarded=allow_unguarded,
        wait_for_lock=(patience or Patience()).again,
        keep_going=keep_going,
        stop=stop.asked if stop is not None else (lambda: False),
    )


class Stopper:
    """The first SIGINT or SIGTERM asks to stop after the batch, the second stops at once."""

    def __init__(self) -> None:
        self._asked = False

    def asked(self) -> bool:
        return self._asked

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._asked:
            raise KeyboardInterrupt
        self._asked = True

    @contextlib.contextmanager
    def installed(self) -> Iterator[Stopper]:
        kinds = (signal.SIGINT, signal.SIGTERM)
        before = {kind: signal.signal(kind, self._on_signal) for kind in kinds}
        try:
            yield self
        finally:
            for kind, handler in before.items():
                signal.signal(kind, handler)


LOCK_POLL = 0.1
"""Seconds between two looks at a lock that somebody else has."""


class Patience:
    """How long a command waits for locks, all of them together."""

    def __init__(
        self,
        seconds: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._clock = clock
        self._sleep = sleep
        self._deadline = clock() + seconds

    def again(self) -> bool:
        """Wait a little; False when there is no time left, so that trying again is no use."""
        left = self._deadline - self._clock()
        if left <= 0:
            return False
        self._sleep(min(LOCK_POLL, left))
        return True


def locked(folder: Path, patience: Patience) -> plandir.Lock:
    """The lock of a plan. Raises LockedError when patience ends."""
    while True:
        try:
            return plandir.Lock(folder)
        except LockedError:
            if not patience.again():
                raise


Durability = Literal["full", "none"]

UNSYNCED = "durability none: what is written may be lost when the power fails"


@contextlib.contextmanager
def held(opened: plandir.OpenPlan, patience: Patience | None = None) -> Iterator[plandir.Journal]:
    """The plan's journal, while no other apply can have it."""
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked(opened.folder, patience or Patience()))
            journal = stack.enter_context(plandir.Journal(opened.folder, opened.plan.plan_id))
        except OSError as error:
            raise HdevError(
                "The plan's folder cannot be written, and no run goes without its log.",
                why=f"{error.filename or opened.folder}: {error.strerror}.",
                hint="Make the folder writable, or copy it to where you may write.",
            ) from None
        if journal.torn:
            repaired = engine.make_record(
                "repaired",
                plan_id=opened.plan.plan_id,
                run=new_run(),
                reason="a torn last line was cut off and kept aside",
                evidence=journal.torn,
            )
            journal.append([repaired])
        yield journal


def carry_out(
    opened: plandir.OpenPlan,
    ends: tuple[Backend, Backend],
    journal: plandir.Journal,
    *,
    policy: Callable[[], str],
    approvals: Callable[[], tuple[Counted, ...]],
    keep_going: bool = False,
    durability: Durability = "full",
    allow_unguarded: bool = False,
    patience: Patience | None = None,
    lines: Lines | None = None,
) -> tuple[engine.Outcome, plandir.Receipt]:
    """Apply, and write the receipt. Raises HdevError only where nothing was written.

    `policy` tells what the log says of it, and `approvals` which ones count; each raises what
    refuses the plan, see `policing` and `gate`.
    """
    plan = opened.plan
    remarks = [UNSYNCED] if durability == "none" else []
    with Stopper().installed() as stop:
        run = new_run(
            keep_going=keep_going,
            stop=stop,
            allow_unguarded=allow_unguarded,
            patience=patience,
        )
        try:
            engine.check_ends(plan.head, *ends)
            planning.refuse_same_store(*ends)
            engine.check_expiry(plan, now())
            lifted = policy()
            counted = approvals()
        except HdevError as error:
            refuse(journal, opened, run, error)
            raise
        if lifted:
            remarks.append(lifted)
        if counted:
            remarks.append(used(counted))
        run = replace(run, remark="; ".join(remarks))
        with Shown(lines) as shown:
            outcome = engine.apply(opened, ends[0], ends[1], journal, run, shown.emit)
        receipt = plandir.Receipt(
            format=plandir.RECEIPT_FORMAT,
            plan=plan.plan_id,
            effect=plan.tail.effect,
            target=plan.head.target.location,
            run=run.run,
            result="finished" if outcome.complete else "stopped",
            time=instant(now()),
            counts={
                "created": outcome.created,
                "overwritten": outcome.overwritten,
                "deleted": outcome.deleted,
                "already_done": outcome.already,
                "failed": len(outcome.failures),
                "left": outcome.left,
                "skipped": plan.tail.summary.skip,
                "unchanged": plan.tail.summary.unchanged,
                "blocked": plan.tail.summary.blocked,
            },
            head=journal.head,
            durability=durability,
            approvals=counted,
        )
        plandir.write_receipt(opened.folder, receipt)
    return outcome, receipt


def refuse(
    journal: plandir.Journal, opened: plandir.OpenPlan, run: engine.Run, error: HdevError
) -> None:
    """Record that an apply was refused before it began."""
    record = engine.make_record(
        "refused",
        plan_id=opened.plan.plan_id,
        run=run,
        reason=type(error).__name__,
        evidence=str(error)[:2000],
    )
    journal.append([record])


@contextlib.contextmanager
def refusals_logged(opened: plandir.OpenPlan, journal: plandir.Journal) -> Iterator[None]:
    """Record whatever refuses an apply that has recorded nothing so far.

    What carry_out refuses is recorded there, and a wrong command line refuses no plan.
    """
    head = journal.head
    try:
        yield
    except UsageError:
        raise
    except HdevError as error:
        if journal.head == head and not journal.broken:
            refuse(journal, opened, new_run(), error)
        raise


def record_approval(
    opened: plandir.OpenPlan, journal: plandir.Journal, statement: Statement, key: str
) -> None:
    """Record that somebody has decided, before the statement is put among the approvals."""
    record = engine.make_record(
        "approved" if statement.decision == "approve" else "rejected",
        plan_id=opened.plan.plan_id,
        run=new_run(),
        reason=statement.comment,
        evidence=f"{statement.principal} {key} statement {sha256(encode(statement))}",
    )
    journal.append([record])


def record_override(
    opened: plandir.OpenPlan, journal: plandir.Journal, statement: Override, key: str
) -> None:
    """Record that somebody has lifted findings, before the statement is put in its place."""
    record = engine.make_record(
        "overridden",
        plan_id=opened.plan.plan_id,
        run=new_run(),
        reason=inert(statement.reason)[:2000],
        evidence=f"{statement.principal} {key} statement {sha256(encode_override(statement))}",
    )
    journal.append([record])


def put_approval(opened: plandir.OpenPlan, signed: plandir.Signed) -> None:
    """Put a signed statement among the approvals. Raises HdevError."""
    try:
        plandir.write_approval(opened.folder, signed)
    except OSError as error:
        raise HdevError(
            "The statement was signed and logged, but it could not be written.",
            why=f"{error.filename or opened.folder}: {error.strerror}.",
            hint="Make the plan's folder writable, then run the command again.",
        ) from None


def record_pruned(opened: plandir.OpenPlan, journal: plandir.Journal, kept: plandir.Kept) -> None:
    """Record that the pre-images of a plan are about to be removed."""
    record = engine.make_record(
        "pruned",
        plan_id=opened.plan.plan_id,
        run=new_run(),
        evidence=f"{kept.entries} pre-images, {kept.bytes} bytes",
    )
    journal.append([record])


def record_unexpected(opened: plandir.OpenPlan, error: HdevError) -> None:
    """Record that a plan was refused because of its id, where its log can be had at once."""
    with contextlib.suppress(HdevError), held(opened) as journal:
        refuse(journal, opened, new_run(), error)


def ends_of(
    settings: Settings, opened: plandir.OpenPlan, source: EndFlags, target: EndFlags
) -> tuple[EndFlags, EndFlags]:
    """Flags for both ends of a plan: those given, else where the plan says that the ends lie."""
    head = opened.plan.head
    return (
        _planned(settings, head.source, source),
        _planned(settings, head.target, target),
    )


def _planned(settings: Settings, end: End, flags: EndFlags) -> EndFlags:
    if flags.path is not None or flags.url is not None or flags.endpoint is not None:
        # A path alone is the place of what was planned with, whether a folder or a database.
        if flags.kind is None and flags.endpoint is None and end.kind == "sqlite":
            return replace(flags, kind="sqlite")
        return flags
    if end.label in settings.environments:
        return EndFlags(endpoint=end.label, api_key=flags.api_key)
    if end.kind == "filesystem":
        return EndFlags(kind="filesystem", path=end.location, api_key=flags.api_key)
    if end.kind == "sqlite":
        return EndFlags(kind="sqlite", path=end.location, api_key=flags.api_key)
    if end.kind in ("http", "postgres"):
        return EndFlags(kind=end.kind, url=end.location, api_key=flags.api_key)
    raise PlanError("An end of this plan lived in another process and is gone.")


def check_expected(opened: plandir.OpenPlan, expect: str | None) -> None:
    """Raise PlanError when the plan is not the one whose id was given."""
    if expect is None:
        return
    if re.fullmatch(r"sha256:[0-9a-f]{64}", expect) is None:
        raise UsageError(
            "This is not a plan id.",
            why="--expect takes sha256: and 64 hex digits.",
            hint="Copy the whole id from the review, where `hdev show` prints it.",
        )
    if expect != opened.plan.plan_id:
        raise PlanError(
            "This is not the plan that was expected.",
            why=f"It is {opened.plan.plan_id}.",
            hint="Review it again with `hdev show`; somebody may have replaced it.",
        )


def already_finished(
    opened: plandir.OpenPlan, ends: tuple[Backend, Backend], journal: plandir.Journal
) -> bool:
    """Whether the plan was finished before and still stands.

    Raises PlanError when it was finished and the target has changed since: a plan is not replayed.
    """
    runs = [record for record in journal.records if record.event in ("finished", "stopped")]
    if not runs or runs[-1].event != "finished":
        return False
    _, wrong = engine.verify(opened, ends[1])
    if not wrong:
        return True
    raise PlanError(
        "This plan was finished before, and the target has changed since.",
        why=f"It was finished at {runs[-1].time}; {len(wrong)} entries differ now.",
        hint="Make a new plan, or give --again to execute this one once more.",
    )


SHOWN_DRIFTS = 50
"""Drifting entries that are told on stderr; the log and the event lines have all."""


def tell_drift(
    error: engine.DriftFound,
    opened: plandir.OpenPlan,
    ends: tuple[Backend, Backend],
    lines: Lines | None = None,
) -> None:
    """All drift at once: on stderr, and as event lines."""
    keys = dict.fromkeys(drift.key for drift in error.drifts)
    differ = _between(opened, keys, *ends)
    for drift in error.drifts if lines is not None else ():
        assert lines is not None
        lines.emit(Drift(**vars(drift), metadata=differ.get(drift.key, ())))
    for drift in error.drifts[:SHOWN_DRIFTS]:
        note(f"Drift: {drift.side} {drift.key}")
        tell_states(drift.expected, drift.found, differ.get(drift.key, ()))
    if len(error.drifts) > SHOWN_DRIFTS:
        note(f"… and {len(error.drifts) - SHOWN_DRIFTS} more.")


def compared_with_source(
    opened: plandir.OpenPlan,
    settings: Settings,
    source: EndFlags,
    target: Backend,
    wrong: Iterable[engine.Mismatch],
) -> dict[str, tuple[str, ...]]:
    """What tells the metadata of these entries from the source's, where it can be opened here."""
    keys = [mismatch.key for mismatch in wrong]
    if not keys:
        return {}
    try:
        where = resolve(settings, source, source).source.where
        with open_backend(where, must_exist=True) as ours:
            engine.check_end("source", opened.plan.head.source, ours)
            return _between(opened, keys, ours, target)
    except HdevError:
        note("Note: the source is out of reach here, so differences of metadata are not shown.")
        return {}


def _between(
    opened: plandir.OpenPlan, keys: Iterable[str], source: Reader, target: Reader
) -> dict[str, tuple[str, ...]]:
    try:
        hidden = reading.Withheld(opened).entry
        return metadata.between(keys, source, target, opened.plan.head.normalisation, hidden)
    except HdevError as error:
        note(f"Note: differences of metadata cannot be shown. {error}")
        return {}


def tell_plan(
    opened: plandir.OpenPlan,
    review: Reviewer,
    settings: Settings,
    lines: Lines,
    status: int,
    *,
    undoes: str | None = None,
) -> None:
    """The review of a plan that was just made, and what to do with it.

    `undoes` is the id of the plan that it rolls back.
    """
    summary = opened.plan.tail.summary
    place, plan_id = str(opened.folder), opened.plan.plan_id
    effect = opened.plan.tail.effect
    lines.emit(
        PlanEnding(status, place, plan_id, effect, summary)
        if undoes is None
        else RollbackEnding(status, place, plan_id, effect, summary, undoes)
    )
    if lines.on_stdout:
        return
    from hdev_memory.review import terminal  # rich, which is slow to import, only where it draws

    described = review(opened, opened.folder.name)
    say(terminal.render(described, width=width(), colour=colour(sys.stdout)))
    say(_next(opened, settings, status))


def _next(opened: plandir.OpenPlan, settings: Settings, status: int) -> str:
    """What to do with a plan that was just made."""
    if status == REFUSED:
        return f"The policy refuses it: hdev policy check {opened.folder} tells why."
    if not opened.plan.tail.summary.writes:
        return "Nothing to do."
    soft = sum(one.level == "soft" for one in opened.plan.tail.findings)
    if soft:
        return f"Next: hdev policy override {opened.folder}, as {soft} of its findings are soft."
    approvals = settings.approvals
    policy = opened.plan.head.options.policy
    asked = (approvals is not None and approvals.requirement.asked) or (
        policy is not None and policy.require_approvals is not None
    )
    return f"Next: hdev {'approve' if asked else 'apply'} {opened.folder}"


REFUSED = 5


def status_of(opened: plandir.OpenPlan, otherwise: int) -> int:
    """How a command that has made a plan exits: 5 where no apply will ever carry it out."""
    hard = any(one.level == "hard" for one in opened.plan.tail.findings)
    return REFUSED if hard else otherwise


def tell_states(expected: str, found: str, differ: tuple[str, ...]) -> None:
    """What was planned, what there is, and what tells its metadata from the source's."""
    note(f"  planned  {expected}")
    note(f"  found    {found}")
    for line in differ:
        note_inert(f"  metadata, target -> source: {line}")


def apply_ending(
    opened: plandir.OpenPlan,
    outcome: engine.Outcome,
    receipt: plandir.Receipt,
    signed: str | HdevError | None,
) -> ApplyEnding:
    """`signed` is the fingerprint of the key, why there is no signature, or None for not asked."""
    return ApplyEnding(
        exit=0 if outcome.complete and not isinstance(signed, HdevError) else 4,
        plan=str(opened.folder),
        plan_id=opened.plan.plan_id,
        result="finished" if outcome.complete else "stopped",
        counts=receipt.counts,
        durability=receipt.durability,
        head=str(receipt.head),
        signed_with=signed if isinstance(signed, str) else None,
    )


def print_outcome(
    opened: plandir.OpenPlan, outcome: engine.Outcome, receipt: plandir.Receipt
) -> None:
    """What a run came to, and the head of the log, which anchors it when kept elsewhere."""
    done = (
        f"{outcome.created} created, {outcome.overwritten} overwritten, {outcome.deleted} deleted"
    )
    if outcome.already:
        done += f", {outcome.already} already done"
    if outcome.complete:
        say(f"Applied: {done}.")
    else:
        say(f"Stopped: {done}, {len(outcome.failures)} failed, {outcome.left} left.")
        if outcome.stopped:
            say(inert(f"Reason: {outcome.stopped}."))
        say(f"Next: hdev apply {opened.folder}   (goes on where this run stopped)")
    if receipt.durability == "none":
        say(f"Not synced ({UNSYNCED}).")
    say(f"Audit head {receipt.head}")


def tell_failures(outcome: engine.Outcome, lines: Lines) -> None:
    """Each entry that failed: on stderr, and as an event line."""
    for key, reason in outcome.failures:
        note(f"Failed: {key}: {reason}")
        lines.emit(Failed(key=key, reason=reason))
    for name in outcome.kept:
        note(f"Kept: somebody else wrote meanwhile; those bytes are in {name} below the target.")
        lines.emit(KeptAside(name=name))
