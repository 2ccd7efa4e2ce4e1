"""What policies find: by cases, and by what must hold of all policies and plans."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hdev_memory.core import policy as judging
from hdev_memory.core import rules
from hdev_memory.core.approval import Group, Requirement
from hdev_memory.core.diff import Create, Delete, Overwrite, Skip
from hdev_memory.core.entry import State
from hdev_memory.core.plan import Finding, Summary

NOW = "2026-06-01T12:00:00Z"


def state(text: str, size: int = 1) -> State:
    from hdev_memory.core.digest import sha256

    return State(content=sha256(text.encode()), metadata="0" * 64, bytes=size)


def summary(**counts: int) -> Summary:
    names = Summary.__struct_fields__
    return Summary(**{name: counts.get(name, 0) for name in names})


FACTS = judging.Facts(
    summary=summary(), held=0, source="staging", target="production", cas="atomic", created=NOW
)


def plan_findings(text: str, **facts: Any) -> list[Finding]:
    policy = rules.decode(text, "p")
    facts["held"] = judging.held(facts.get("summary", FACTS.summary))
    return list(judging.of_plan(policy, msgspec.structs.replace(FACTS, **facts), NOW))


# A policy, what a plan is, and whether something is found.
CASES: dict[str, tuple[str, dict[str, Any], bool]] = {
    "deletes at the limit": (
        "max_delete.limit = 2", {"summary": summary(delete=2)}, False),
    "deletes above it": (
        "max_delete.limit = 2", {"summary": summary(delete=3)}, True),
    "no deletes with a limit of none": (
        "max_delete.limit = 0", {"summary": summary(create=9)}, False),
    "a share of the target": (
        'max_delete.limit = "10%"', {"summary": summary(delete=2, unchanged=18)}, False),
    "more than the share": (
        'max_delete.limit = "10%"', {"summary": summary(delete=2, unchanged=17)}, True),
    "a share counts what only the target has": (
        'max_delete.limit = "10%"', {"summary": summary(delete=1, target_only=9)}, False),
    "all of the target": (
        'max_delete.limit = "100%"', {"summary": summary(delete=7)}, False),
    "overwrites at the limit": (
        "max_overwrite.limit = 2", {"summary": summary(overwrite=2)}, False),
    "overwrites above it": (
        "max_overwrite.limit = 2", {"summary": summary(overwrite=3)}, True),
    "creates are no overwrites": (
        "max_overwrite.limit = 0", {"summary": summary(create=3)}, False),
    "a target as safe as asked": ('min_cas.minimum = "guarded"', {"cas": "guarded"}, False),
    "a safer target": ('min_cas.minimum = "guarded"', {"cas": "atomic"}, False),
    "a less safe target": ('min_cas.minimum = "atomic"', {"cas": "guarded"}, True),
    "an unsafe target": ('min_cas.minimum = "guarded"', {"cas": "none"}, True),
    "the safest unless given": ("min_cas = {}", {"cas": "guarded"}, True),
    "a promotion that is listed": (
        'allowed_promotions.promotions = ["a -> b", "staging -> production"]', {}, False),
    "one that is not": (
        'allowed_promotions.promotions = ["dev -> production"]', {}, True),
    "the way back": (
        'allowed_promotions.promotions = ["production -> staging"]', {}, True),
    "from anywhere": ('allowed_promotions.promotions = ["* -> production"]', {}, False),
    "a star within a name is a name": (
        'allowed_promotions.promotions = ["* -> prod*"]', {}, True),
    "brackets within a name are a name": (
        'allowed_promotions.promotions = ["[s]taging -> production"]', {}, True),
    "a young plan": (
        'max_plan_age.span = "1h"', {"created": "2026-06-01T11:00:00Z"}, False),
    "an old plan": (
        'max_plan_age.span = "1h"', {"created": "2026-06-01T10:59:59Z"}, True),
    "a plan from a clock that is a little ahead": (
        'max_plan_age.span = "1h"', {"created": "2026-06-01T12:05:00Z"}, False),
    "a plan from the future": (
        'max_plan_age.span = "1h"', {"created": "2026-06-01T12:05:01Z"}, True),
    "approvals are asked for elsewhere": ("require_approvals.count = 9", {}, False),
    "no rules": ("", {"summary": summary(delete=99), "cas": "none"}, False),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_rule_finds_it_or_not(case):
    text, facts, found = CASES[case]

    assert bool(plan_findings(f"[rules]\n{text}\n", **facts)) is found


ACTIONS: dict[str, tuple[str, Any, list[str]]] = {
    "a protected key": (
        'protected_keys.patterns = ["p/*"]', Delete(key="p/a", before=state("x"), reason=""),
        ["protected_keys"]),
    "another key": (
        'protected_keys.patterns = ["p/*"]', Delete(key="q/a", before=state("x"), reason=""), []),
    "protected from other actions": (
        'protected_keys = { patterns = ["p/*"], actions = ["overwrite"] }',
        Delete(key="p/a", before=state("x"), reason=""), []),
    "what is skipped is not touched": (
        'protected_keys.patterns = ["*"]',
        Skip(key="p/a", before=state("x"), source=state("y"), reason=""), []),
    "an entry of the greatest length": (
        "max_entry_bytes.limit = 9", Create(key="a", after=state("x", 9), reason=""), []),
    "a longer entry": (
        "max_entry_bytes.limit = 9", Create(key="a", after=state("x", 10), reason=""),
        ["max_entry_bytes"]),
    "a longer one that is overwritten by a short one": (
        "max_entry_bytes.limit = 9",
        Overwrite(key="a", before=state("x", 99), after=state("y", 9), reason=""), []),
    "a longer one that is deleted": (
        "max_entry_bytes.limit = 9", Delete(key="a", before=state("x", 99), reason=""), []),
}  # fmt: skip


@pytest.mark.parametrize("case", ACTIONS)
def test_a_rule_finds_it_in_an_action_or_not(case):
    text, action, names = ACTIONS[case]
    policy = rules.decode(f"[rules]\n{text}\n", "p")
    found = list(judging.of_action(policy, action, lambda key: key.startswith("p/")))

    assert [one.rule for one in found] == names
    assert all(one.key == action.key and one.digest for one in found)


def hits(key: str, content: str, *found: judging.Hit) -> list[Finding]:
    parts: list[tuple[judging.Part, judging.Hit]] = [("content", hit) for hit in found]
    return list(judging.of_hits("secrets", rules.Secrets(), key, state(content), parts))


def test_another_secret_in_the_same_place_is_another_finding():
    (one,) = hits("a", "one secret", judging.Hit(line=3, what="a token"))
    (other,) = hits("a", "another", judging.Hit(line=3, what="a token"))

    assert (one.key, one.line, one.text) == (other.key, other.line, other.text)
    assert one.digest != other.digest


def test_neither_level_nor_limit_changes_the_name_of_a_finding():
    (soft,) = plan_findings(
        '[rules.max_delete]\nlevel = "soft"\nlimit = 2', summary=summary(delete=9)
    )
    (hard,) = plan_findings("[rules.max_delete]\nlimit = 1", summary=summary(delete=9))

    assert soft.digest == hard.digest
    assert judging.united([soft], [hard]) == (hard,)
    assert judging.united([hard], [soft]) == (hard,)


def test_only_soft_findings_are_lifted_and_only_by_their_own_name():
    (soft,) = plan_findings(
        '[rules.max_delete]\nlevel = "soft"\nlimit = 2', summary=summary(delete=9)
    )
    hard = msgspec.structs.replace(soft, level="hard")
    advisory = msgspec.structs.replace(soft, level="advisory")

    assert judging.refusing([soft]) == (soft,)
    assert judging.refusing([soft], [soft.digest]) == ()
    assert judging.refusing([soft], ["0" * 64]) == (soft,)
    assert judging.refusing([hard], [soft.digest]) == (hard,)
    assert judging.refusing([advisory]) == ()


def many(count: int) -> list[Finding]:
    return [
        one for n in range(count) for one in hits(f"k{n:05}", "x", judging.Hit(line=1, what="y"))
    ]


def gathered(findings: list[Finding]) -> tuple[Finding, ...]:
    all_of = judging.Gathered()
    for one in findings:
        all_of.add([one])
    return all_of.result()


def test_more_findings_than_a_plan_lists_become_one_whose_name_covers_all():
    found = many(3000)
    told = gathered(found)
    last = msgspec.structs.replace(found[-1], digest="f" * 64)

    assert told[-1].key is None
    assert told[-1].level == "hard"
    assert f"And {3000 - len(told) + 1} more" in told[-1].text
    assert len(msgspec.json.encode(told)) < 12 * 1024
    assert gathered([*found[:-1], last])[-1].digest != told[-1].digest
    assert gathered(found[:-1])[-1].digest != told[-1].digest
    assert gathered(found) == told


def test_findings_of_all_rules_together_fit_on_a_line_of_a_plan():
    from hdev_memory.core.plan import MAX_LINE_BYTES

    all_of = judging.Gathered()
    for name in rules.RULES:
        for number in range(100):
            one = judging.finding(name, "hard", "t" * 200, about=[number], key='"' * 1024)
            all_of.add([one])

    assert len(msgspec.json.encode(all_of.result())) < MAX_LINE_BYTES * 2
    content = [one for one in all_of.result() if one.rule in KEYED]
    assert len(msgspec.json.encode(content)) < MAX_LINE_BYTES - 8 * 1024


KEYED = (*rules.CONTENT_RULES, "protected_keys", "max_entry_bytes")

LEVELS = st.sampled_from(rules.LEVELS)
POLICIES = st.builds(
    rules.Policy,
    max_delete=st.none()
    | st.builds(rules.MaxDelete, level=LEVELS, limit=st.integers(0, 5).map(str)),
    max_overwrite=st.none()
    | st.builds(rules.MaxOverwrite, level=LEVELS, limit=st.integers(0, 100).map(lambda n: f"{n}%")),
    max_entry_bytes=st.none()
    | st.builds(rules.MaxEntryBytes, level=LEVELS, limit=st.integers(0, 5)),
    protected_keys=st.none()
    | st.builds(rules.ProtectedKeys, level=LEVELS, patterns=st.just(("p",))),
    min_cas=st.none()
    | st.builds(rules.MinCas, level=LEVELS, minimum=st.sampled_from(["guarded", "atomic"])),
)
STATES = st.builds(state, st.sampled_from("ab"), st.integers(0, 6))
KINDS = st.one_of(
    st.builds(Create, key=st.just(""), after=STATES, reason=st.just("")),
    st.builds(Overwrite, key=st.just(""), before=STATES, after=STATES, reason=st.just("")),
    st.builds(Delete, key=st.just(""), before=STATES, reason=st.just("")),
)
PLANS = st.lists(KINDS, max_size=8).map(
    lambda actions: [
        msgspec.structs.replace(action, key=f"{'pq'[number % 2]}{number}")
        for number, action in enumerate(actions)
    ]
)


def judged(policies: list[rules.Policy], actions: list[Any], unchanged: int = 0) -> Any:
    counts = {"create": 0, "overwrite": 0, "delete": 0}
    all_of = judging.Gathered()
    for action in actions:
        counts[type(action).__name__.lower()] += 1
        all_of.add(
            found
            for policy in policies
            for found in judging.of_action(policy, action, lambda key: key.startswith("p"))
        )
    facts = replace_facts(summary(**counts, unchanged=unchanged))
    all_of.add(found for policy in policies for found in judging.of_plan(policy, facts, NOW))
    return all_of.result()


def replace_facts(counts: Summary) -> judging.Facts:
    return msgspec.structs.replace(FACTS, summary=counts, held=judging.held(counts), cas="guarded")


@given(POLICIES, POLICIES, PLANS, st.integers(0, 5))
def test_one_more_policy_never_allows_what_was_refused(one, other, actions, unchanged):
    alone = judged([one], actions, unchanged)
    together = judged([one, other], actions, unchanged)
    levels = {found.digest: found.level for found in together}

    for found in alone:
        assert rules.LEVELS.index(levels[found.digest]) >= rules.LEVELS.index(found.level)
    assert len(judging.refusing(together)) >= len(judging.refusing(alone))
    assert {f.digest for f in together} == {
        f.digest for f in judged([other, one], actions, unchanged)
    }


def stricter(policy: rules.Policy, name: str) -> rules.Policy:
    """The policy with one rule made stricter: a graver level, and a lower limit."""
    rule = getattr(policy, name)
    if rule is None:
        return policy
    changes: dict[str, Any] = {"level": rules.LEVELS[min(2, rules.LEVELS.index(rule.level) + 1)]}
    if isinstance(rule, rules.MaxDelete):
        changes["limit"] = str(max(0, int(rule.limit) - 1))
    if isinstance(rule, rules.MaxOverwrite):
        changes["limit"] = f"{int(rule.limit[:-1]) // 2}%"
    if isinstance(rule, rules.MaxEntryBytes):
        changes["limit"] = max(0, rule.limit - 1)
    if isinstance(rule, rules.MinCas):
        changes["minimum"] = "atomic"
    return msgspec.structs.replace(policy, **{name: msgspec.structs.replace(rule, **changes)})


@given(POLICIES, PLANS, st.integers(0, 5), st.sampled_from(list(rules.RULES)))
def test_making_a_rule_stricter_never_turns_refused_into_allowed(policy, actions, unchanged, name):
    before = judged([policy], actions, unchanged)
    after = judged([stricter(policy, name)], actions, unchanged)

    assert {f.digest for f in judging.refusing(before)} <= {
        f.digest for f in judging.refusing(after)
    }


@given(POLICIES, PLANS, KINDS)
def test_one_more_action_takes_no_finding_of_an_entry_away(policy, actions, more):
    added = [*actions, msgspec.structs.replace(more, key="z")]
    of_entries = {f.digest for f in judged([policy], actions) if f.key is not None}

    assert of_entries <= {f.digest for f in judged([policy], added)}


def test_approvals_of_policies_only_ever_add_to_those_of_the_project():
    asked = Requirement(count=2, bind="effect", exclude_author=False, max_age=3_600)
    policy = rules.decode(
        '[rules.require_approvals]\ncount = 1\nbind = "plan"\nmax_age = "2h"\n'
        '[rules.require_approvals.groups.ops]\nprincipals = ["ann"]\n',
        "p",
    )
    both = judging.required(asked, [policy])
    twice = judging.required(both, [policy])

    assert judging.required(asked, [rules.Policy()]) == asked
    assert both == Requirement(
        count=2,
        groups={"policy ops": Group(principals=("ann",), require=1)},
        exclude_author=True,
        bind="plan",
        max_age=3_600,
    )
    assert set(twice.groups) == {"policy ops", "policy ops 2"}
    assert judging.required(Requirement(), [policy]).max_age == 7_200
