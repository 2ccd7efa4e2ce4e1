"""A policy file is read strictly, and every complaint names its line."""

from __future__ import annotations

import msgspec
import pytest

from hdev_memory.core import rules
from hdev_memory.errors import PolicyError

WRONG = {
    "an unknown rule": ('[rules.max_delete]\nlimit = 1\n\n[rules.max_deletes]\nlimit = 1\n', 4,
                        "`rules.max_deletes` is no rule"),
    "an unknown rule in a line": ("\nrules = { nope = {} }\n", 2, "`rules.nope` is no rule"),
    "an unknown parameter": ('[rules.secrets]\nlevel = "hard"\nentropie = true\n', 3,
                             "`rules.secrets.entropie` is not known"),
    "an unknown level": ('[rules.secrets]\nlevel = "medium"\n', 2, "invalid enum value"),
    "a limit that is no number": ('[rules.max_delete]\nlimit = "many"\n', 2, "`rules.max_delete"),
    "a share above all": ('[rules.max_delete]\nlimit = "101%"\n', 2, "`rules.max_delete.limit`"),
    "a negative limit": ("[rules.max_delete]\nlimit = -1\n", 2, "`rules.max_delete.limit`"),
    "a flag for a limit": ("[rules.max_delete]\nlimit = true\n", 2, "`rules.max_delete.limit`"),
    "a limit that is missing": ('\n[rules.max_delete]\nlevel = "soft"\n', 2, "needs `limit`"),
    "no patterns": ("[rules.protected_keys]\npatterns = []\n", 2, "`rules.protected_keys.patt"),
    "one pattern for a list": ('[rules.protected_keys]\npatterns = "a"\n', 2, "expected `array`"),
    "an unknown action": ('[rules.protected_keys]\npatterns = ["a"]\nactions = ["skip"]\n', 3,
                          "`rules.protected_keys.actions"),
    "a promotion without an arrow": ('[rules.allowed_promotions]\npromotions = ["a"]\n', 2,
                                     "`rules.allowed_promotions.promotions"),
    "a code point in other words": ('[rules.invisible_characters]\nallow = ["NBSP"]\n', 2,
                                    "`rules.invisible_characters.allow"),
    "a span that is none": ('[rules.max_plan_age]\nspan = "soon"\n', 2, "`rules.max_plan_age.span"),
    "approvals that are not hard": ('[rules.require_approvals]\nlevel = "soft"\n', 2, "level"),
    "a group of nobody": ("[rules.require_approvals.groups.ops]\nprincipals = []\n", 2, "groups"),
    "a group too small": (
        '[rules.require_approvals.groups.ops]\nprincipals = ["a", "A"]\nrequire = 2\n', 1,
        "requires more than it has",
    ),
    "a setting beside the rules": ("rules = {}\nmode = 1\n", 2, "`mode` is not known"),
    "a rule that is no table": ("[rules]\nsecrets = true\n", 2, "`rules.secrets` must be a table"),
    "no tables at all": ("rules = 1\n", 1, "`rules` must be a table"),
    "a key given twice": ("[rules.secrets]\n[rules.secrets]\n", 2, "not valid TOML"),
    "no TOML": ("[rules\n", 1, "not valid TOML"),
    "too long": ('[rules.protected_keys]\npatterns = ["%s"]\n' % ("x" * 20_000), 1, "longer than"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_told_with_its_line(case):
    text, line, why = WRONG[case]
    with pytest.raises(PolicyError) as caught:
        rules.decode(text, "p.toml")

    assert caught.value.exit_code == 5
    assert caught.value.why.startswith(f"p.toml:{line}: ")
    assert why in caught.value.why


def test_every_example_of_a_rule_is_one_and_every_rule_is_in_the_table():
    text = "".join(f"[rules.{name}]\n{kind.example}\n" for name, kind in rules.RULES.items())
    policy = rules.decode(text, "p.toml")

    assert list(rules.RULES) == list(rules.Policy.__struct_fields__)
    for name, kind in rules.RULES.items():
        assert isinstance(getattr(policy, name), kind)
        assert kind.about
    assert set(rules.CONTENT_RULES) < set(rules.RULES)


def test_a_policy_has_one_canonical_form_whatever_its_spelling():
    one = rules.decode('[rules.max_delete]\nlimit = 5\n[rules.secrets]\nlevel = "hard"', "p")
    other = rules.decode("[rules]\nsecrets = {}\n'max_delete'.'limit' = \"5\" # five\n", "q")

    assert one == other
    assert one.digest == other.digest
    assert msgspec.json.decode(one.canonical(), type=rules.Policy) == one
    assert rules.decode("[rules.secrets]\nentropy = true", "p").digest != one.digest


@pytest.mark.parametrize(("text", "seconds"), [("7d", 604_800), ("12h", 43_200), ("30m", 1_800)])
def test_a_span_is_told_in_seconds(text, seconds):
    assert rules.span_seconds(text) == seconds
    assert rules.span_seconds(f"{text} ") is None
