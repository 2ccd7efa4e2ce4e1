"""What a policy finds in a plan, and whether the plan may run.

Several policies can judge one plan: each is asked, and of two that find the same the graver level
holds. So the stricter wins, and asking one more policy never allows anything.
"""

from __future__ import annotations

import fnmatch
import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import msgspec

from hdev_memory.core.approval import Group, Requirement, seconds
from hdev_memory.core.diff import AnyAction, Create, Delete, Overwrite, transition
from hdev_memory.core.digest import canonical_json, named, sha256
from hdev_memory.core.entry import State, Value
from hdev_memory.core.plan import Finding, Instant, Plan, Summary
from hdev_memory.core.rules import (
    LEVELS,
    RULES,
    Level,
    MaxDelete,
    MaxOverwrite,
    Policy,
    RequireApprovals,
    Rule,
    span_seconds,
)

Part = Literal["key", "content", "metadata"]
"""What of an entry a detector looks at."""

Cas = Literal["none", "guarded", "atomic"]
_CAS: tuple[Cas, ...] = ("none", "guarded", "atomic")

AHEAD = 300
"""Seconds that the clock of whoever made a plan may be ahead of ours."""


class Facts(Value, frozen=True):
    """What the rules ask of a plan as a whole: `cas` is the target's level, as far as it is known,
    `held` how many entries it held, `source` and `target` are the names of the environments."""

    summary: Summary
    held: int
    source: str
    target: str
    cas: Cas
    created: Instant


def weaker(one: Cas, other: Cas) -> Cas:
    """The weaker of two levels of protection against other writers."""
    return min(one, other, key=_CAS.index)


def held(summary: Summary) -> int:
    """How many entries the target held when a plan was made, as the plan says."""
    return (
        summary.overwrite + summary.delete + summary.skip + summary.unchanged + summary.target_only
    )


def by_share(policy: Policy) -> bool:
    """Whether a limit of a policy is a share of what the target holds."""
    limits = (policy.max_delete, policy.max_overwrite)
    return any(rule is not None and rule.limit.endswith("%") for rule in limits)


def facts_of(plan: Plan) -> Facts:
    return Facts(
        summary=plan.tail.summary,
        held=held(plan.tail.summary),
        source=plan.head.source.label,
        target=plan.head.target.label,
        cas=plan.head.target.capabilities.cas,
        created=plan.tail.provenance.created,
    )


class Hit(Value, frozen=True):
    """What a detector has found in a text: on which line of it, and what, without quoting it."""

    line: int
    what: str


def finding(
    rule: str,
    level: Level,
    text: str,
    *,
    about: Sequence[str | int],
    key: str | None = None,
    line: int | None = None,
) -> Finding:
    """A finding, named by the digest of its rule, its place, and what it is `about`.

    Neither level nor wording is part of that name: another policy finds the same thing.
    """
    name = sha256(b"hdev-finding/1\n" + canonical_json([rule, key, line, list(about)]))
    return Finding(rule=rule, level=level, key=key, text=text, line=line, digest=name)


def of_plan(policy: Policy, facts: Facts, now: Instant) -> Iterator[Finding]:
    """What is found in a plan as a whole."""
    summary = facts.summary
    if policy.max_delete is not None:
        yield from _too_many("max_delete", policy.max_delete, summary.delete, facts.held, "deletes")
    if policy.max_overwrite is not None:
        rule = policy.max_overwrite
        yield from _too_many("max_overwrite", rule, summary.overwrite, facts.held, "overwrites")
    if policy.min_cas is not None and _CAS.index(facts.cas) < _CAS.index(policy.min_cas.minimum):
        yield finding(
            "min_cas",
            policy.min_cas.level,
            f"The target's level is {facts.cas}; {policy.min_cas.minimum} is asked for.",
            about=[facts.cas],
        )
    if policy.allowed_promotions is not None and not any(
        _leads(promotion, facts) for promotion in policy.allowed_promotions.promotions
    ):
        yield finding(
            "allowed_promotions",
            policy.allowed_promotions.level,
            f"No promotion leads from {facts.source} to {facts.target}.",
            about=[facts.source, facts.target],
        )
    if policy.max_plan_age is not None:
        yield from _too_old(policy.max_plan_age.span, policy.max_plan_age.level, facts, now)


def _too_many(
    name: str, rule: MaxDelete | MaxOverwrite, count: int, held: int, what: str
) -> Iterator[Finding]:
    number = rule.limit.removesuffix("%")
    share = number != rule.limit
    if count > (held * int(number) // 100 if share else int(number)):
        text = f"The plan {what} {count} of {held} entries; the limit is {rule.limit}."
        yield finding(name, rule.level, text, about=[count, held] if share else [count])


def _leads(promotion: str, facts: Facts) -> bool:
    source, _, target = promotion.partition(" -> ")
    return fnmatch.fnmatchcase(facts.source, _literal(source)) and fnmatch.fnmatchcase(
        facts.target, _literal(target)
    )


def _literal(name: str) -> str:
    """The pattern of a name in which only a lone `*` stands for others."""
    return name if name == "*" else name.replace("[", "[[]").replace("*", "[*]").replace("?", "[?]")


def _too_old(span: str, level: Level, facts: Facts, now: Instant) -> Iterator[Finding]:
    age = seconds(now) - seconds(facts.created)
    if age > (span_seconds(span) or 0):
        text = f"The plan was made at {facts.created}, longer ago than {span}."
        yield finding("max_plan_age", level, text, about=["old", facts.created])
    elif age < -AHEAD:
        text = f"The plan says that it was made at {facts.created}, which is yet to come."
        yield finding("max_plan_age", level, text, about=["early", facts.created])


def of_action(
    policy: Policy, action: AnyAction, protected: Callable[[str], bool]
) -> Iterator[Finding]:
    """What is found in one action; `protected` says whether the policy's patterns match a key."""
    if not isinstance(action, Create | Overwrite | Delete):
        return
    _, after = transition(action)
    rule = policy.protected_keys
    verb = type(action).__name__.lower()
    if rule is not None and verb in rule.actions and protected(action.key):
        yield finding(
            "protected_keys",
            rule.level,
            f"The key is protected, and the plan would {verb} it.",
            key=action.key,
            about=[verb, *_named(after)],
        )
    limit = policy.max_entry_bytes
    if limit is not None and after is not None and after.bytes > limit.limit:
        yield finding(
            "max_entry_bytes",
            limit.level,
            f"Its content has {after.bytes} bytes; the limit is {limit.limit}.",
            key=action.key,
            about=_named(after),
        )


def of_hits(
    name: str, rule: Rule, key: str, source: State, hits: Iterable[tuple[Part, Hit]]
) -> Iterator[Finding]:
    """What detectors have found in the parts of an entry.

    The entry's digests are among the names of the findings: another secret in the same place is
    another finding. Only lines of the content are told.
    """
    for part, hit in hits:
        where = f"Line {hit.line}" if part == "content" else f"Its {part}"
        yield finding(
            name,
            rule.level,
            f"{where}: {hit.what}.",
            key=key,
            line=hit.line if part == "content" else None,
            about=[*_named(source), part, hit.what],
        )


def _named(state: State | None) -> list[str | int]:
    return [] if state is None else [state.content, state.metadata]


BUDGET = 10 * 1024
"""Bytes of findings of one rule that a plan lists one by one: they all stand on one line of it."""


@dataclass
class _Told:
    """The findings of one rule: those listed, and what is known of the rest."""

    listed: dict[str, Finding] = field(default_factory=dict)
    room: int = BUDGET
    rest: int = 0
    level: Level = "advisory"
    names: hashlib._Hash = field(default_factory=lambda: hashlib.sha256(b"hdev-findings/1\n"))


class Gathered:
    """The findings of a plan, in bounded memory.

    Beyond its budget a rule's findings become one, whose name covers each of them.
    """

    def __init__(self) -> None:
        self._rules: dict[str, _Told] = {name: _Told() for name in RULES}

    def add(self, findings: Iterable[Finding]) -> None:
        """Take in what several policies find in one place; of the same finding the graver level."""
        here: dict[str, Finding] = {}
        for found in findings:
            assert found.digest is not None
            here[found.digest] = graver(here.get(found.digest), found)
        for name, found in here.items():
            told = self._rules[found.rule]
            told.room -= len(msgspec.json.encode(found))
            if told.room >= 0 and not told.rest:
                told.listed[name] = graver(told.listed.get(name), found)
            else:
                told.rest += 1
                told.level = max(told.level, found.level, key=LEVELS.index)
                told.names.update(f"{name}\n".encode())

    def result(self) -> tuple[Finding, ...]:
        """All findings, rule by rule."""
        return tuple(found for name in RULES for found in self._of(name))

    def _of(self, name: str) -> Iterator[Finding]:
        told = self._rules[name]
        yield from told.listed.values()
        if told.rest:
            yield Finding(
                rule=name,
                level=told.level,
                key=None,
                text=f"And {told.rest} more of this rule, too many to be listed.",
                digest=told.names.hexdigest(),
            )


def graver(one: Finding | None, other: Finding) -> Finding:
    """Of one finding of two policies the one with the graver level."""
    if one is None or LEVELS.index(other.level) > LEVELS.index(one.level):
        return other
    return one


def united(*several: Iterable[Finding]) -> tuple[Finding, ...]:
    """The findings of several looks at one plan, each once; notes of no rule are left out."""
    found: dict[str, Finding] = {}
    for findings in several:
        for one in findings:
            if one.digest is not None:
                found[one.digest] = graver(found.get(one.digest), one)
    return tuple(found.values())


def refusing(findings: Iterable[Finding], lifted: Iterable[str] = ()) -> tuple[Finding, ...]:
    """The findings that keep a plan from running, where these are lifted: no hard one ever is."""
    free = set(lifted)
    return tuple(
        one
        for one in findings
        if one.digest is not None
        and (one.level == "hard" or (one.level == "soft" and one.digest not in free))
    )


def explained(one: Finding) -> str:
    """A finding in one line of foreign text, with the name by which an override calls it."""
    where = f" {one.key}:" if one.key is not None else ""
    name = f" ({named(one.digest)})" if one.digest is not None else ""
    return f"{one.level} {one.rule}:{where} {one.text}{name}"


def required(asked: Requirement, policies: Iterable[Policy]) -> Requirement:
    """The requirement of the project and of policies together; each can only ask for more."""
    for policy in policies:
        if policy.require_approvals is not None:
            asked = _both(asked, policy.require_approvals)
    return asked


def _both(asked: Requirement, rule: RequireApprovals) -> Requirement:
    ages = [age for age in (asked.max_age, rule.max_age and span_seconds(rule.max_age)) if age]
    groups = dict(asked.groups)
    for name, group in rule.groups.items():
        free, number = f"policy {name}", 2
        while free in groups:  # two groups of one name are asked for both
            free, number = f"policy {name} {number}", number + 1
        groups[free] = Group(principals=group.principals, require=group.require)
    return Requirement(
        count=max(asked.count, rule.count),
        groups=groups,
        exclude_author=asked.exclude_author or rule.exclude_author,
        bind="plan" if "plan" in (asked.bind if asked.asked else "effect", rule.bind) else "effect",
        max_age=min(ages) if ages else None,
    )
