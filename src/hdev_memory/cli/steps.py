"""The steps that commands are put together from: open the ends, make a plan, carry it out."""

from __future__ import annotations

import contextlib
import re
import secrets
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import Literal

from hdev_memory import __version__, plandir, planning
from hdev_memory import apply as engine
from hdev_memory.backends import open_backend
from hdev_memory.backends.base import MAX_ENTRY_BYTES, Backend, Scope, Secret
from hdev_memory.cli.context import actor, home, instant, note, now, print_json, say, warn
from hdev_memory.cli.progress import Shown
from hdev_memory.config import EndFlags, Resolved, ResolvedEnd, Settings
from hdev_memory.core.plan import End, Limits, Options, Provenance
from hdev_memory.errors import HdevError, PartialError, PlanError, UsageError
from hdev_memory.review import document, markdown
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


def parse_expiry(text: str) -> timedelta | None:
    """`7d`, `12h`, `30m` or `never`; raises UsageError."""
    if text == "never":
        return None
    found = re.fullmatch(r"([1-9]\d{0,5})([dhm])", text)
    if found is None:
        raise UsageError(
            "This is not a time span.",
            why=f"--expires was {text!r}.",
            hint="Give for example 7d, 12h, 30m or never.",
        )
    unit = {"d": "days", "h": "hours", "m": "minutes"}[found.group(2)]
    return timedelta(**{unit: int(found.group(1))})


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
        )


@contextlib.contextmanager
def opened_ends(source: ResolvedEnd, target: ResolvedEnd) -> Iterator[tuple[Backend, Backend]]:
    """Both ends, open; the source must exist."""
    with (
        open_backend(source.where, must_exist=True) as ours,
        open_backend(target.where, must_exist=False) as theirs,
    ):
        yield ours, theirs


def make_plan(
    resolved: Resolved, ends: tuple[Backend, Backend], wish: Wish, out: Path | None, plans: Path
) -> plandir.OpenPlan:
    """Plan, write the plan's folder, and record that it was planned."""
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
        ),
        home=str(home()),
    )
    if out is None:
        stem = f"{created:%Y-%m-%d}-{resolved.source.label}-to-{resolved.target.label}"
        out = plandir.free_name(plans, stem)
    folder = out
    with Shown() as shown:
        lines = planning.plan(ends[0], ends[1], request, shown.emit)
        opened = plandir.create(
            folder,
            lines,
            lambda draft: markdown.render(document.describe(draft, name=folder.name)),
        )
    with plandir.Journal(folder) as journal:
        record = engine.make_record("planned", plan_id=opened.plan.plan_id, run=new_run())
        journal.append([record])
    return opened


def new_run(*, keep_going: bool = False, stop: Stopper | None = None) -> engine.Run:
    """A run of this process: a fresh name, the actor, and the real clock."""
    return engine.Run(
        run=secrets.token_hex(8),
        actor=actor(),
        now=now,
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


@contextlib.contextmanager
def held(opened: plandir.OpenPlan) -> Iterator[plandir.Journal]:
    """The plan's journal, while no other apply can have it."""
    with (
        plandir.Lock(opened.folder),
        plandir.Journal(opened.folder, opened.plan.plan_id) as journal,
    ):
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
    keep_going: bool = False,
) -> tuple[engine.Outcome, plandir.Receipt]:
    """Apply, and write the receipt. Raises PartialError when it is stopped by force."""
    plan = opened.plan
    with Stopper().installed() as stop:
        run = new_run(keep_going=keep_going, stop=stop)
        begin = journal.head
        try:
            engine.check_ends(plan.head, *ends)
            planning.refuse_same_store(*ends)
            engine.check_expiry(plan, now())
        except HdevError as error:
            refuse(journal, opened, run, error)
            raise
        try:
            with Shown() as shown:
                outcome = engine.apply(opened, ends[0], ends[1], journal, run, shown.emit)
        except KeyboardInterrupt:
            if journal.head == begin:  # not one write has begun
                raise
            raise PartialError(
                "The run was stopped at once, in the middle of its writes.",
                why="A second signal came before the batch had ended.",
                hint=f"Run hdev apply {opened.folder} to go on; it looks at every entry again.",
            ) from None
        receipt = plandir.Receipt(
            format="hdev-receipt/1",
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
        return flags
    if end.label in settings.environments:
        return EndFlags(endpoint=end.label, api_key=flags.api_key)
    if end.kind == "filesystem":
        return EndFlags(kind="filesystem", path=end.location, api_key=flags.api_key)
    if end.kind == "http":
        return EndFlags(kind="http", url=end.location, api_key=flags.api_key)
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


def print_drift(error: engine.DriftFound, *, json: bool) -> None:
    """All drift at once, on stderr; on stdout as JSON when asked for."""
    if json:
        drifts = [vars(drift) for drift in error.drifts]
        print_json({"type": "refused", "reason": "drift", "drift": drifts})
    for drift in error.drifts[:SHOWN_DRIFTS]:
        note(f"Drift: {drift.side} {drift.key}")
        note(f"  planned  {drift.expected}")
        note(f"  found    {drift.found}")
    if len(error.drifts) > SHOWN_DRIFTS:
        note(f"… and {len(error.drifts) - SHOWN_DRIFTS} more.")


def print_outcome(
    opened: plandir.OpenPlan,
    outcome: engine.Outcome,
    receipt: plandir.Receipt,
    *,
    json: bool,
) -> None:
    """What a run came to, and the head of the log, which anchors it when kept elsewhere."""
    if json:
        print_json(
            {
                "type": "summary",
                "plan_id": opened.plan.plan_id,
                "result": receipt.result,
                "counts": receipt.counts,
                "failures": [{"key": key, "reason": why} for key, why in outcome.failures],
                "head": str(receipt.head),
            }
        )
        return
    for key, reason in outcome.failures:
        note(f"Failed: {key}: {reason}")
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
    say(f"Audit head {receipt.head}")
