"""Run the checks on a backend, say how each went, and leave nothing behind.

Works below one fresh prefix only. What is there besides is looked at before and afterwards.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Sequence

from hdev_memory.backends.base import PERMISSION_DENIED, Change, Failed, Remove
from hdev_memory.conformance.checks import CHECKS
from hdev_memory.conformance.subject import (
    BrokenPromise,
    Check,
    NotApplicable,
    Subject,
    shown,
)
from hdev_memory.core.digest import NotCanonical
from hdev_memory.core.entry import Absent, Entry, EntryState, Value
from hdev_memory.errors import BackendError, HdevError


class Kept(Value, frozen=True, tag_field="outcome", tag="ok"):
    """The promise held; `notes` may say where less is declared than is kept."""

    check: str
    notes: tuple[str, ...] = ()


class Broken(Value, frozen=True, tag_field="outcome", tag="failed"):
    """The promise did not hold."""

    check: str
    expected: str
    found: str


class Skipped(Value, frozen=True, tag_field="outcome", tag="not applicable"):
    """The promise does not concern this backend, or could not be looked at, for this reason."""

    check: str
    reason: str
    notes: tuple[str, ...] = ()


class Left(Value, frozen=True, tag_field="outcome", tag="left"):
    """What could not be removed: entries, and names of folders without any."""

    entries: tuple[str, ...]
    folders: tuple[str, ...] = ()
    reason: str = ""


Result = Kept | Broken | Skipped
Tell = Callable[[Result | Left], None]


class Row(Value, frozen=True):
    """One line of the capability card."""

    name: str
    declared: str
    observed: str


class Summary(Value, frozen=True):
    """How a run went.

    unwritable  the reason why nothing could be written; empty where something could
    stopped     the run was asked to stop before its end
    """

    ok: int
    failed: int
    not_applicable: int
    unwritable: str = ""
    stopped: bool = False
    card: tuple[Row, ...] = ()


def run(
    subject: Subject,
    tell: Tell,
    *,
    checks: Sequence[Check] = CHECKS,
    stop: Callable[[], bool] = lambda: False,
) -> Summary:
    """Examine each check; a failing one stops nothing, `stop` is asked before each.

    Cleans up whatever happens, and tells what it could not remove. Raises BackendError when the
    backend is out of reach for good, or refuses the key.
    """
    subject.record.outside = subject.outside()
    results: list[Result] = []
    last = [check for check in checks if check.last]
    unwritable = ""

    def examine_all(chosen: Iterable[Check]) -> None:
        for check in chosen:
            if stop():
                return
            if unwritable and check.writes:
                result: Result = Skipped(check.name, f"nothing can be written: {unwritable}")
            else:
                result = examine(subject, check)
            results.append(result)
            tell(result)

    try:
        unwritable = _unwritable(subject)
        examine_all(check for check in checks if not check.last)
    finally:
        _clean_and_tell(subject, tell)
    examine_all(last)
    return Summary(
        ok=_count(results, Kept),
        failed=_count(results, Broken),
        not_applicable=_count(results, Skipped),
        unwritable=unwritable,
        stopped=len(results) < len(checks),
        card=tuple(card(subject)),
    )


def _count(results: Iterable[Result], kind: type[Result]) -> int:
    return sum(isinstance(result, kind) for result in results)


def examine(subject: Subject, check: Check) -> Result:
    """Prove one promise. Raises BackendError when the backend is out of reach for good."""
    inside = dataclasses.replace(subject, folder=f"{subject.prefix}/{check.name}")
    notes = subject.record.notes
    notes.clear()
    try:
        check.prove(inside)
    except NotApplicable as reason:
        return Skipped(check.name, str(reason), tuple(notes))
    except BrokenPromise as broken:
        return Broken(check.name, broken.expected, broken.found)
    except BackendError as error:
        _require_reachable(subject)
        return Broken(check.name, "no error", str(error))
    except HdevError as error:
        return Broken(check.name, "no error", str(error))
    except Exception as error:  # noqa: BLE001 - whatever a backend raises is its own fault
        text = f": {shown(str(error))}" if str(error) else ""
        return Broken(check.name, "no error", type(error).__name__ + text)
    return Kept(check.name, tuple(notes))


def _require_reachable(subject: Subject) -> None:
    for _ in subject.backend.read([f"{subject.prefix}/there"]):
        pass


def _unwritable(subject: Subject) -> str:
    """Why the backend lets us write nothing at all; empty where it does."""
    inside = dataclasses.replace(subject, folder=subject.prefix)
    put = inside.put("first")
    inside.record.keys.add(put.key)
    try:
        receipts = list(subject.backend.write([put], subject.normalisation))
    except BackendError:
        _require_reachable(subject)
        return ""  # the checks will say more of it
    except Exception:  # noqa: BLE001 - the same
        return ""
    denied = [r for r in receipts if isinstance(r, Failed) and r.reason == PERMISSION_DENIED]
    return PERMISSION_DENIED if denied else ""


# Cleaning


def _clean_and_tell(subject: Subject, tell: Tell) -> None:
    try:
        left = clean(subject)
    except BaseException:
        tell(Left(tuple(sorted(subject.record.keys)), reason="the cleaning was cut off"))
        raise
    if left.entries or left.folders:
        tell(left)


def clean(subject: Subject) -> Left:
    """Remove every entry below the prefix; says what is still there, or may be."""
    try:
        _remove(subject, _listed(subject))
        # What a broken listing left out is found by its key.
        rest = _standing(subject)
        for key in rest:  # one by one: a bad entry must not keep the others from being removed
            _remove(subject, _read(subject, [key]))
        subject.sweep()
        rest = _standing(subject) if rest else rest
        folders = sorted(set(subject.backend.keys(subject.scope)) - set(rest))
    except Exception as error:  # noqa: BLE001 - a broken backend may raise anything
        reason = str(error) if isinstance(error, HdevError) else type(error).__name__
        return Left(tuple(sorted(subject.record.keys)), reason=reason)
    below = subject.prefix + "/"
    return Left(tuple(rest), tuple(name for name in folders if name.startswith(below)))


def _listed(subject: Subject) -> list[Change]:
    """The removal of everything that the snapshot shows below the prefix."""
    below = subject.prefix + "/"
    return [
        Remove(key=found.key, before=found.state)
        for found in subject.backend.snapshot(subject.scope, subject.normalisation)
        if isinstance(found, EntryState) and found.key.startswith(below)
    ]


def _read(subject: Subject, keys: Sequence[str]) -> list[Change]:
    """The removal of what can be read under these keys."""
    removals: list[Change] = []
    for found in subject.backend.read(keys):
        if isinstance(found, Entry):
            # What has no canonical form is told as left.
            with contextlib.suppress(NotCanonical):
                before = subject.normalisation.state(found.content, found.metadata)
                removals.append(Remove(key=found.key, before=before))
    return removals


def _remove(subject: Subject, removals: Sequence[Change]) -> None:
    if removals:
        subject.backend.write(removals, subject.normalisation)


def _standing(subject: Subject) -> list[str]:
    """The keys of this run under which there is something."""
    found = subject.backend.read(sorted(subject.record.keys))
    return [answer.key for answer in found if not isinstance(answer, Absent)]


# The capability card


def card(subject: Subject) -> list[Row]:
    """What the backend declares, and what was seen of it."""
    capabilities = subject.capabilities
    declared: dict[str, str] = {
        "cas": capabilities.cas,
        "durability": capabilities.durability,
        "line_ends": capabilities.line_ends,
        "metadata": capabilities.metadata,
        "names": capabilities.names,
        "beside": _beside(capabilities.beside),
        "max_entry_bytes": _limit(capabilities.max_entry_bytes),
        "max_segment_bytes": _limit(capabilities.max_segment_bytes),
        "lock": "-",
    }
    observed = subject.record.observed
    return [Row(name, text, observed.get(name, "not observed")) for name, text in declared.items()]


def _beside(suffixes: Sequence[str]) -> str:
    return f"not with a key of its name and {' or '.join(suffixes)}" if suffixes else "any"


def _limit(limit: int | None) -> str:
    return f"{limit} bytes" if limit is not None else "none known"
