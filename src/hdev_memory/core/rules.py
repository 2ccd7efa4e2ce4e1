"""The rules of a policy as values: their one table, and the strict reading of a policy file.

What the rules find is worked out in `policy`. A policy has one canonical form, which plans record:
so an apply knows what a plan was judged by when it was made.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal, NoReturn, get_type_hints

import msgspec

from hdev_memory.core.digest import sha256
from hdev_memory.core.entry import Value
from hdev_memory.core.tomllines import lines_of
from hdev_memory.errors import PolicyError

MAX_POLICY_BYTES = 16 * 1024
"""No policy is longer in canonical form: a plan records it on one of its lines."""

Level = Literal["advisory", "soft", "hard"]
LEVELS: tuple[Level, ...] = ("advisory", "soft", "hard")
"""In rising order. Advisory findings stop nothing, soft ones until somebody lifts them with a
signed override, hard ones always."""

Principal = Annotated[str, msgspec.Meta(pattern=r"\A[A-Za-z0-9][A-Za-z0-9._@+=-]{0,127}\Z")]
"""Who signs or makes a plan: a name as in `allowed_signers`, fit for a file's name as it stands."""

Limit = Annotated[str, msgspec.Meta(pattern=r"\A(?:0|[1-9][0-9]{0,8}|(?:[0-9]|[1-9][0-9]|100)%)\Z")]
"""A number of entries, or a share (`5%`) of those that the target holds."""

Bytes = Annotated[int, msgspec.Meta(ge=0, le=2**53 - 1)]
Span = Annotated[str, msgspec.Meta(pattern=r"\A[1-9][0-9]{0,5}[dhm]\Z")]
CodePoint = Annotated[str, msgspec.Meta(pattern=r"\AU\+[0-9A-F]{4,6}\Z")]
Label = Annotated[str, msgspec.Meta(pattern=r"\A[^\x00-\x20]+ -> [^\x00-\x20]+\Z")]
Patterns = Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
Words = tuple[str, ...]
Verb = Literal["create", "overwrite", "delete"]


def span_seconds(text: str) -> int | None:
    """`7d`, `12h` or `30m` in seconds; None for anything else."""
    found = re.fullmatch(r"([1-9][0-9]{0,5})([dhm])", text)
    if found is None:
        return None
    return int(found[1]) * {"d": 86_400, "h": 3_600, "m": 60}[found[2]]


class Rule(Value, frozen=True, kw_only=True):
    """The base of all rules: `about` says in a sentence what one finds, `example` is a table."""

    about: ClassVar[str] = ""
    example: ClassVar[str] = ""

    level: Level = "hard"


class MaxDelete(Rule, frozen=True, kw_only=True):
    about = "The plan deletes more entries than `limit`: a number, or a share of the target."
    example = 'level = "hard"\nlimit = "5%"'

    limit: Limit


class MaxOverwrite(Rule, frozen=True, kw_only=True):
    about = "The plan overwrites more entries than `limit`: a number, or a share of the target."
    example = 'level = "soft"\nlimit = 100'

    limit: Limit


class ProtectedKeys(Rule, frozen=True, kw_only=True):
    about = "The plan does one of `actions` to a key that matches one of `patterns` (gitignore)."
    example = 'level = "hard"\npatterns = ["people/**", "!people/guests/**"]\nactions = ["delete"]'

    patterns: Patterns
    actions: Annotated[tuple[Verb, ...], msgspec.Meta(min_length=1)] = (
        "create", "overwrite", "delete",
    )  # fmt: skip


class MaxEntryBytes(Rule, frozen=True, kw_only=True):
    about = "The plan writes an entry whose content is longer than `limit` bytes."
    example = 'level = "soft"\nlimit = 65536'

    limit: Bytes


class Secrets(Rule, frozen=True, kw_only=True):
    about = (
        "An entry that would be written holds what looks like a password, a token or a private "
        "key; it is never shown. Needs the extra hdev-memory[secrets]. `entropy` also reports "
        "quoted text that looks random."
    )
    example = 'level = "hard"\nentropy = false'

    entropy: bool = False


class InvisibleCharacters(Rule, frozen=True, kw_only=True):
    about = (
        "An entry that would be written holds characters that cannot be seen or that reorder text; "
        "those in `allow` may be there, and joiners within an emoji."
    )
    example = 'level = "soft"\nallow = ["U+00A0"]'

    allow: tuple[CodePoint, ...] = ()


class InstructionLikeText(Rule, frozen=True, kw_only=True):
    about = (
        "An entry that would be written holds text that speaks to an agent and not to a reader. "
        "This is a short list of patterns: it misses much, and finds harmless text."
    )
    example = 'level = "advisory"'

    level: Level = "advisory"


class MinCas(Rule, frozen=True, kw_only=True):
    about = "The target's protection against other writers is weaker than `minimum`."
    example = 'level = "hard"\nminimum = "guarded"'

    minimum: Literal["guarded", "atomic"] = "atomic"


class AllowedPromotions(Rule, frozen=True, kw_only=True):
    about = (
        "The plan does not lead from one environment to another as one of `promotions` says; "
        "`*` stands for any."
    )
    example = 'level = "hard"\npromotions = ["dev -> staging", "staging -> production"]'

    promotions: Annotated[tuple[Label, ...], msgspec.Meta(min_length=1)]


class ApprovalGroup(Value, frozen=True, kw_only=True):
    """Some principals, of whom `require` must approve."""

    principals: Annotated[tuple[Principal, ...], msgspec.Meta(min_length=1)]
    require: Annotated[int, msgspec.Meta(ge=1, le=64)] = 1


class RequireApprovals(Rule, frozen=True, kw_only=True):
    about = (
        "An apply needs `count` approvals, and those of each group, beside what [approvals] of "
        "hdev.toml asks for; without them it ends with exit 6."
    )
    example = 'count = 2\nbind = "plan"\nmax_age = "72h"\nexclude_author = true'

    level: Literal["hard"] = "hard"
    count: Annotated[int, msgspec.Meta(ge=0, le=64)] = 1
    groups: dict[str, ApprovalGroup] = msgspec.field(default_factory=dict)
    bind: Literal["plan", "effect"] = "plan"
    max_age: Span | None = None
    exclude_author: bool = True


class MaxPlanAge(Rule, frozen=True, kw_only=True):
    about = "The plan was made longer ago than `span`, whatever its own expiry says."
    example = 'level = "hard"\nspan = "24h"'

    span: Span


class Policy(Value, frozen=True, omit_defaults=True, kw_only=True):
    """Which rules hold; None for one that does not. The names are those of the policy file."""

    max_delete: MaxDelete | None = None
    max_overwrite: MaxOverwrite | None = None
    protected_keys: ProtectedKeys | None = None
    max_entry_bytes: MaxEntryBytes | None = None
    secrets: Secrets | None = None
    invisible_characters: InvisibleCharacters | None = None
    instruction_like_text: InstructionLikeText | None = None
    min_cas: MinCas | None = None
    allowed_promotions: AllowedPromotions | None = None
    require_approvals: RequireApprovals | None = None
    max_plan_age: MaxPlanAge | None = None

    def canonical(self) -> bytes:
        """The one spelling of this policy, as plans hold it."""
        return msgspec.json.encode(self)

    @property
    def digest(self) -> str:
        return sha256(self.canonical())


RULES: dict[str, type[Rule]] = {
    "max_delete": MaxDelete,
    "max_overwrite": MaxOverwrite,
    "protected_keys": ProtectedKeys,
    "max_entry_bytes": MaxEntryBytes,
    "secrets": Secrets,
    "invisible_characters": InvisibleCharacters,
    "instruction_like_text": InstructionLikeText,
    "min_cas": MinCas,
    "allowed_promotions": AllowedPromotions,
    "require_approvals": RequireApprovals,
    "max_plan_age": MaxPlanAge,
}
"""Rule -> its type, in the order in which they are told."""

CONTENT_RULES = ("secrets", "invisible_characters", "instruction_like_text")
"""Rules for which the entries that would be written are read."""


def content_rules(policy: Policy) -> dict[str, Rule]:
    """The rules of a policy that look into entries."""
    found = {name: getattr(policy, name) for name in CONTENT_RULES}
    return {name: rule for name, rule in found.items() if rule is not None}


def decode(text: str, origin: str) -> Policy:
    """Read a policy file. Raises PolicyError with the line of what is not known or not valid.

    Each rule is a table `[rules.NAME]`; nothing else may stand in the file.
    """
    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        found = re.search(r"line (\d+)", str(error))
        line = int(found[1]) if found else len(text.splitlines())
        reason = str(error).split(" (at")[0].lower()
        raise wrong(origin, line, f"it is not valid TOML: {reason}") from None
    except RecursionError:
        raise wrong(origin, 1, "it is nested too deeply") from None
    return _File(origin, lines_of(text)).policy(tree)


class _File:
    """What is told of one policy file."""

    def __init__(self, origin: str, lines: Mapping[tuple[str, ...], int]) -> None:
        self._origin = origin
        self._lines = lines

    def refuse(self, keys: tuple[str, ...], why: str) -> NoReturn:
        line = next(
            (self._lines[keys[:n]] for n in range(len(keys), 0, -1) if keys[:n] in self._lines), 1
        )
        raise wrong(self._origin, line, f"`{'.'.join(keys)}` {why}")

    def policy(self, tree: dict[str, Any]) -> Policy:
        for name in tree:
            if name != "rules":
                self.refuse((name,), "is not known; rules are tables [rules.NAME]")
        tables = tree.get("rules", {})
        if not isinstance(tables, dict):
            self.refuse(("rules",), "must be a table")
        found: dict[str, Any] = {}
        for name, table in tables.items():
            if name not in RULES:
                self.refuse(("rules", name), f"is no rule; there are {', '.join(RULES)}")
            found[name] = self._rule(name, table)
        policy = Policy(**found)
        if len(policy.canonical()) > MAX_POLICY_BYTES:
            raise wrong(self._origin, 1, f"it is longer than {MAX_POLICY_BYTES} bytes")
        return policy

    def _converted(self, keys: tuple[str, ...], value: Any, kind: Any) -> Any:
        try:
            return msgspec.convert(value, type=kind)
        except msgspec.ValidationError as error:
            self.refuse((*keys, *_inside(str(error))), f"is not valid: {_told(error)}")

    def _rule(self, name: str, table: Any) -> Rule:
        above = ("rules", name)
        if not isinstance(table, dict):
            self.refuse(above, "must be a table")
        kind = RULES[name]
        types = get_type_hints(kind, include_extras=True)
        values: dict[str, Any] = {}
        for key, value in table.items():
            if key not in kind.__struct_fields__:
                told = ", ".join(kind.__struct_fields__)
                self.refuse((*above, key), f"is not known; {name} has {told}")
            if types[key] is Limit and isinstance(value, int) and not isinstance(value, bool):
                value = str(value)
            if key == "groups" and isinstance(value, dict):
                values[key] = {
                    group: self._converted((*above, key, group), item, ApprovalGroup)
                    for group, item in value.items()
                }
            else:
                values[key] = self._converted((*above, key), value, types[key])
        for field in msgspec.structs.fields(kind):
            if field.required and field.name not in values:
                self.refuse(above, f"needs `{field.name}`")
        rule = kind(**values)
        if isinstance(rule, RequireApprovals):
            for group, asked in rule.groups.items():
                if len({one.lower() for one in asked.principals}) < asked.require:
                    self.refuse((*above, "groups", group), "requires more than it has principals")
        return rule


def _inside(message: str) -> Iterator[str]:
    """The names on the way to what msgspec found wrong."""
    yield from re.findall(r"\.([A-Za-z0-9_-]+)", message.partition(" - at `$")[2])


def _told(error: msgspec.ValidationError) -> str:
    text = str(error).partition(" - at `$")[0]
    return text[0].lower() + text[1:]


def wrong(origin: str, line: int, why: str) -> PolicyError:
    return PolicyError(
        "The policy file is wrong, and nothing is judged by a part of it.",
        why=f"{origin}:{line}: {why}.",
        hint="Correct that line; `hdev policy explain` tells every rule and what it takes.",
    )
