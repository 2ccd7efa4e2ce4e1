"""What changed from one plan to another: the frame, and each action that differs.

Plans are sorted by key, so both are read side by side; only the differences of their frames are
held. The first and the last line of each rendering are the totals.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Literal

import msgspec

from hdev_memory.core.diff import AnyAction
from hdev_memory.core.entry import Value
from hdev_memory.plandir import OpenPlan
from hdev_memory.review import terminal
from hdev_memory.review.inert import spaced
from hdev_memory.review.markdown import fenced
from hdev_memory.review.reading import kind_of

FORMAT = "hdev-diff/1"

How = Literal["new", "gone", "kind", "states", "reason"]

WORDS: dict[How, str] = {
    "new": "only in the second plan",
    "gone": "only in the first plan",
    "kind": "of another kind",
    "states": "with other digests",
    "reason": "for another reason",
}
_SYMBOLS: dict[How, str] = {"new": "+", "gone": "-", "kind": "!", "states": "~", "reason": "="}
_STYLES: dict[How, str] = {
    "new": "green",
    "gone": "red",
    "kind": "bold magenta",
    "states": "yellow",
    "reason": "dim",
}


class Fact(Value, frozen=True):
    """A value of the frame that differs; JSON texts, None where only the other plan has it."""

    path: str
    before: str | None
    after: str | None

    @property
    def line(self) -> str:
        """For people, inert."""
        return spaced(f"{self.path}: {self.before or 'nothing'} -> {self.after or 'nothing'}")


class Change(Value, frozen=True):
    """A key whose actions differ; at least one of them is there."""

    key: str
    how: How
    before: AnyAction | None
    after: AnyAction | None


class Comparison(Value, frozen=True):
    """Two plans as wholes, and how many of their actions differ in which way."""

    before: str
    after: str
    same_effect: bool
    facts: tuple[Fact, ...]
    counts: dict[How, int]


def compare(before: OpenPlan, after: OpenPlan) -> Comparison:
    """Compare two plans; reads the actions of both once."""
    counts: dict[How, int] = dict.fromkeys(WORDS, 0)
    for change in changes(before, after):
        counts[change.how] += 1
    return Comparison(
        before=before.plan.plan_id,
        after=after.plan.plan_id,
        same_effect=before.plan.tail.effect == after.plan.tail.effect,
        facts=tuple(_facts(before, after)),
        counts=counts,
    )


def changes(before: OpenPlan, after: OpenPlan) -> Iterator[Change]:
    """The actions that differ, in key order."""
    ours, theirs = before.actions(), after.actions()
    one, other = next(ours, None), next(theirs, None)
    while one is not None or other is not None:
        if other is None or (one is not None and one.key < other.key):
            assert one is not None
            yield Change(key=one.key, how="gone", before=one, after=None)
            one = next(ours, None)
        elif one is None or other.key < one.key:
            yield Change(key=other.key, how="new", before=None, after=other)
            other = next(theirs, None)
        else:
            if one != other:
                yield Change(key=one.key, how=_how(one, other), before=one, after=other)
            one, other = next(ours, None), next(theirs, None)


def _how(one: AnyAction, other: AnyAction) -> How:
    if type(one) is not type(other):
        return "kind"
    return "reason" if msgspec.structs.replace(one, reason=other.reason) == other else "states"


def _facts(before: OpenPlan, after: OpenPlan) -> Iterator[Fact]:
    one, other = _frame(before), _frame(after)
    for path in dict.fromkeys([*one, *other]):
        if one.get(path) != other.get(path):
            yield Fact(path=path, before=one.get(path), after=other.get(path))


def _frame(opened: OpenPlan) -> dict[str, str]:
    """The values around the actions by their path; a finding stands for itself."""
    plan = opened.plan
    found = dict(_leaves("", {**_plain(plan.head), **_plain(plan.tail)}))
    del found["findings"]
    for finding in plan.tail.findings:
        found[f"finding {_json(_plain(finding))}"] = "there"
    return found


def _leaves(path: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _leaves(f"{path}.{name}" if path else name, item)
    else:
        yield path, _json(value)


def _plain(value: Any) -> dict[str, Any]:
    plain: dict[str, Any] = msgspec.to_builtins(value)
    return plain


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def totals(comparison: Comparison) -> str:
    """The sentence that stands first and last, in words of ours alone."""
    effect = "The effect is the same" if comparison.same_effect else "THE EFFECT DIFFERS"
    parts = [f"{count} {WORDS[how]}" for how, count in comparison.counts.items() if count]
    told = f"of the actions, {', '.join(parts)}" if parts else "all actions are the same"
    return f"{effect}; {told}."


def as_terminal(
    comparison: Comparison, found: Iterator[Change], look: terminal.Look
) -> Iterator[str]:
    """Lines for a terminal."""
    style = "bold" if comparison.same_effect else "bold red"
    yield from terminal.folded(totals(comparison), look, style)
    yield f"first   {comparison.before}"
    yield f"second  {comparison.after}"
    for fact in comparison.facts:
        yield from terminal.beside(look, "  * ", fact.line, "", "bold")
    for change in found:
        how = _STYLES[change.how]
        yield from terminal.beside(look, f"  {_SYMBOLS[change.how]} ", spaced(change.key), how, how)
        for line in _told(change):
            yield from terminal.beside(look, "      ", line, "dim")
    yield from terminal.folded(totals(comparison), look, style)


def as_markdown(comparison: Comparison, found: Iterator[Change]) -> Iterator[str]:
    """Lines of Markdown; foreign text stands in fences only."""
    yield "# What changed between two plans"
    yield ""
    yield f"**{totals(comparison)}**"
    yield ""
    yield fenced([f"first   {comparison.before}", f"second  {comparison.after}"])
    for title, lines in (
        ("The plans as wholes", [fact.line for fact in comparison.facts]),
        ("The actions", [line for change in found for line in _lines(change)]),
    ):
        if lines:
            yield f"\n## {title}\n"
            yield fenced(lines)
    yield ""
    yield f"**{totals(comparison)}**"


def _lines(change: Change) -> Iterator[str]:
    yield f"{_SYMBOLS[change.how]} {spaced(change.key)}"
    yield from (f"    {line}" for line in _told(change))


def as_json(comparison: Comparison, found: Iterator[Change]) -> Iterator[str]:
    """One JSON document in lines, ASCII only, one change on each."""
    head = {"format": FORMAT, **_plain(comparison)}
    yield json.dumps(head)[:-1] + ', "changes": ['
    separator = ""
    for change in found:
        yield separator + json.dumps(_plain(change))
        separator = ","
    yield "]}"


def _told(change: Change) -> Iterator[str]:
    """What differs, in inert lines."""
    match change.how:
        case "new" | "gone":
            action = change.after or change.before
            assert action is not None
            yield f"{kind_of(action)}, {WORDS[change.how]}"
        case "kind":
            assert change.before is not None
            assert change.after is not None
            yield f"{kind_of(change.before)} -> {kind_of(change.after)}"
        case "states" | "reason":
            one, other = (dict(_leaves("", _plain(a))) for a in (change.before, change.after))
            for path in dict.fromkeys([*one, *other]):
                if one.get(path) != other.get(path):
                    yield Fact(path=path, before=one.get(path), after=other.get(path)).line
