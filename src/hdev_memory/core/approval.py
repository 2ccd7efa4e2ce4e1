"""What an approval says, and when a plan has enough of them.

A statement is signed by somebody; whether the signature holds is found out elsewhere (`signing`).
Here a plan is judged by what was found: which approvals count, what each of the others lacks, and
whether the plan may run. Adding an approval never takes an allowed plan back unless it rejects,
and taking one away never allows a plan.
"""

from __future__ import annotations

import calendar
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, Literal, TypeVar

import msgspec

from hdev_memory.core import audit
from hdev_memory.core.digest import Digest, sha256
from hdev_memory.core.entry import Value
from hdev_memory.core.plan import Count, Instant, Plan
from hdev_memory.core.rules import Principal

FORMAT: Literal["hdev-approval/1"] = "hdev-approval/1"

MAX_STATEMENT_BYTES = 16 * 1024
MAX_SIGNATURE_BYTES = 16 * 1024
MAX_COMMENT = 1000
"""Characters of a comment."""

MAX_APPROVALS = 64
"""Statements of one plan; more are not looked at, and the plan is refused."""

AHEAD = 300
"""Seconds that a signer's clock may be ahead of ours."""

PlanId = Annotated[str, msgspec.Meta(pattern=r"\Asha256:[0-9a-f]{64}\Z")]
Nonce = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{32}\Z")]
"""128 random bits in hex: no two statements are alike."""

Decision = Literal["approve", "reject"]
Role = Literal["person", "agent"]
Bind = Literal["plan", "effect"]
Worth = Literal["counts", "blocks", "nothing"]


class NoStatement(ValueError):
    """The bytes are no statement; the text says why in words for people."""


class Target(Value, frozen=True):
    """Where the plan writes, as the plan says it; `store` is null where it has no identity."""

    kind: str
    location: str
    store: str | None


class Statement(Value, frozen=True):
    """What somebody signs. `expires` is null for one that does not; a rejection never does."""

    format: Literal["hdev-approval/1"]
    decision: Decision
    plan: PlanId
    effect: Digest
    target: Target
    principal: Principal
    role: Role
    comment: Annotated[str, msgspec.Meta(max_length=MAX_COMMENT)]
    created: Instant
    expires: Instant | None
    nonce: Nonce

    @property
    def name(self) -> str:
        """The name of its file."""
        return f"{self.principal}-{self.nonce}.json"


_encode = msgspec.json.Encoder().encode

S = TypeVar("S", bound=Value)


def spelled(statement: Value) -> bytes:
    """The one spelling of what is signed: members in order, no spaces, one LF at the end."""
    return _encode(statement) + b"\n"


def read_spelled(raw: bytes, decoder: msgspec.json.Decoder[S]) -> S:
    """What is signed. Raises NoStatement for any byte that `spelled` would not have written."""
    if len(raw) > MAX_STATEMENT_BYTES:
        raise NoStatement("it is too long")
    try:
        statement = decoder.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise NoStatement(f"it cannot be read ({error})") from None
    if spelled(statement) != raw:
        raise NoStatement("it is not in canonical form")
    return statement


_DECODER = msgspec.json.Decoder(Statement)


def encode(statement: Statement) -> bytes:
    """The bytes of a statement, which are what is signed."""
    return spelled(statement)


def decode(raw: bytes) -> Statement:
    """Read a statement. Raises NoStatement for any byte that `encode` would not have written."""
    statement = read_spelled(raw, _DECODER)
    created = seconds(statement.created)
    if statement.expires is not None:
        if statement.decision == "reject":
            raise NoStatement("it is a rejection with an expiry")
        if seconds(statement.expires) <= created:
            raise NoStatement("it expires before it was made")
    return statement


def seconds(instant: str) -> int:
    """Seconds since 1970 of an Instant. Raises NoStatement for a day or an hour there is not."""
    year, month, day, hour, minute, second = map(int, re.findall("[0-9]+", instant))
    if (
        not year
        or not 1 <= month <= 12
        or not 1 <= day <= calendar.monthrange(year, month)[1]
        or hour > 23
        or minute > 59
        or second > 59
    ):
        raise NoStatement(f"it names the time {instant}, which there is not")
    return calendar.timegm((year, month, day, hour, minute, second))


class Group(Value, frozen=True):
    """Some principals, of whom `require` must approve."""

    principals: tuple[Principal, ...]
    require: Annotated[int, msgspec.Meta(ge=1)]


class Requirement(Value, frozen=True):
    """How many must approve, and what an approval must be to count.

    `bind` says what it is bound to: the bytes of the plan, or only its effect on its target, so
    that an identical plan made later keeps its approvals. `max_age` is in seconds.
    """

    count: Count = 0
    groups: dict[str, Group] = msgspec.field(default_factory=dict)
    exclude_author: bool = True
    bind: Bind = "plan"
    max_age: int | None = None

    @property
    def asked(self) -> bool:
        """Whether approvals are asked for at all."""
        return self.count > 0 or bool(self.groups)


class Subject(Value, frozen=True):
    """What is approved: a plan, as far as approvals look at it."""

    plan: PlanId
    effect: Digest
    target: Target
    author: Principal | None


def subject(plan: Plan) -> Subject:
    end = plan.head.target
    return Subject(
        plan=plan.plan_id,
        effect=plan.tail.effect,
        target=Target(kind=end.kind, location=end.location, store=end.store),
        author=plan.tail.provenance.author,
    )


class Genuine(Value, frozen=True):
    """A statement whose signature holds, by a key that belongs to its principal.

    `key` is the key's fingerprint; `owners` are all principals that the trust root gives it to, and
    `agent` says whether it calls any of them an agent.
    """

    name: str
    statement: Statement
    key: str
    owners: tuple[str, ...]
    agent: bool

    @property
    def digest(self) -> str:
        return sha256(encode(self.statement))


class Dubious(Value, frozen=True):
    """Something among the approvals that is none, or whose signature proves nothing here."""

    name: str
    why: str


Presented = Genuine | Dubious


class Past(Value, frozen=True):
    """What a plan's log says: nonces that finished runs have used up, and who rejected it."""

    spent: frozenset[str] = frozenset()
    rejected_by: frozenset[str] = frozenset()


_USED = "approved by "


def used(counted: Iterable[Counted]) -> str:
    """How the log says which approvals a run rests on; `past` reads it."""
    return _USED + ", ".join(f"{one.principal} {one.nonce}" for one in counted)


def past(records: Iterable[audit.Record]) -> Past:
    """What the records of a log, in order, say of approvals."""
    spent: set[str] = set()
    running: set[str] = set()
    rejected_by: set[str] = set()
    for record in records:
        match record.event:
            case "started" | "resumed":
                told = record.evidence.partition(_USED)[2]
                running |= {entry.rpartition(" ")[2] for entry in told.split(", ") if entry}
            case "finished":
                spent |= running
            case "rejected":
                rejected_by.add(record.evidence.partition(" ")[0])
            case _:
                pass
    return Past(frozenset(spent), frozenset(rejected_by))


class Counted(Value, frozen=True):
    """An approval that counted: who, with which key, and the digest of the statement."""

    principal: Principal
    key: str
    statement: Digest
    nonce: Nonce


class Standing(Value, frozen=True):
    """What one approval is worth: it counts, it blocks, or it is nothing; and why.

    `comment` is what its signer says, and empty where the signature does not hold.
    """

    name: str
    principal: str
    decision: str
    worth: Worth
    why: str
    comment: str


class Verdict(Value, frozen=True):
    """Whether a plan may run; `missing` says in words what keeps it from that, and `rejected` that
    more approvals would not help."""

    allowed: bool
    rejected: bool
    standings: tuple[Standing, ...]
    counted: tuple[Counted, ...]
    missing: tuple[str, ...]


def judge(
    presented: Iterable[Presented],
    requirement: Requirement,
    about: Subject,
    now: Instant,
    before: Past,
) -> Verdict:
    """What each approval is worth, and whether they are enough.

    A rejection blocks, whoever gives it, and one that the log names does so for good. Of the others
    there must be a set, no two of which share a principal, a key or a nonce, that fills the count
    and every group.
    """
    standings: list[Standing] = []
    good: list[Genuine] = []
    rejected = set(before.rejected_by)
    for item in sorted(presented, key=lambda one: one.name):
        if isinstance(item, Dubious):
            standings.append(Standing(item.name, "", "", "nothing", item.why, ""))
            continue
        why = _flaw(item, requirement, about, now, before.spent)
        if why:
            standings.append(_standing(item, "nothing", why))
        elif item.statement.decision == "reject":
            rejected.add(item.statement.principal)
            standings.append(_standing(item, "blocks", "it rejects the plan"))
        else:
            good.append(item)
    chosen = _Choice(good, requirement).best()
    for item in good:
        if item in chosen:
            standings.append(_standing(item, "counts", "it is signed, in time and about this plan"))
        else:
            why = "its principal, its key or its nonce counts already"
            standings.append(_standing(item, "nothing", why))
    missing = [f"{who} has rejected it" for who in sorted(rejected)]
    missing += _lacks(chosen, requirement)
    return Verdict(
        allowed=not missing,
        rejected=bool(rejected),
        standings=tuple(sorted(standings, key=lambda one: one.name)),
        counted=tuple(
            Counted(one.statement.principal, one.key, one.digest, one.statement.nonce)
            for one in chosen
        ),
        missing=tuple(missing),
    )


def _standing(item: Genuine, worth: Worth, why: str) -> Standing:
    said = item.statement
    return Standing(item.name, said.principal, said.decision, worth, why, said.comment)


def _flaw(
    item: Genuine,
    requirement: Requirement,
    about: Subject,
    now: Instant,
    spent: frozenset[str],
) -> str:
    """Why a genuine statement is worth nothing here; empty when it is worth something."""
    said = item.statement
    if requirement.bind == "plan" and said.plan != about.plan:
        return "it is about another plan"
    if said.effect != about.effect:
        return "it is about another effect"
    if said.target != about.target:
        return "it is about another target"
    if said.decision == "reject":
        return ""
    if said.name != item.name:
        return "it lies under a name that is not its own"
    if item.agent or said.role == "agent":
        return "an agent's approval never counts"
    author = about.author if requirement.exclude_author else None
    if author is not None and among(item.owners, author):
        return "its principal, or another one with its key, made the plan"
    if said.expires is not None and now >= said.expires:
        return f"it expired at {said.expires}"
    age = seconds(now) - seconds(said.created)
    if age < -AHEAD:
        return "it is dated in the future"
    if requirement.max_age is not None and age > requirement.max_age:
        return "it is older than is allowed"
    if said.nonce in spent:
        return "it was used up by an earlier run"
    return ""


def _same(one: str, other: str) -> bool:
    """Whether two principals are one; nobody becomes two by a capital letter."""
    return one.lower() == other.lower()


def _within(chosen: Iterable[Genuine], group: Group) -> int:
    return sum(among(group.principals, item.statement.principal) for item in chosen)


def _lacks(chosen: Sequence[Genuine], requirement: Requirement) -> Iterator[str]:
    if len(chosen) < requirement.count:
        yield f"{len(chosen)} of {requirement.count} approvals count"
    for name, group in sorted(requirement.groups.items()):
        got = _within(chosen, group)
        if got < group.require:
            yield f"{got} of {group.require} by the group {name} count"


_STEPS = 50_000
"""Looks for the best choice; only keys shared by many principals could need more, and then the
best one that was found is taken, which counts too few rather than too many."""


class _Choice:
    """The best set of approvals no two of which share a principal, a key or a nonce."""

    def __init__(self, votes: Sequence[Genuine], requirement: Requirement) -> None:
        self._requirement = requirement
        # In an order of their own, so that none of how they came decides anything.
        self._votes = sorted(votes, key=lambda one: (one.statement.principal.lower(), one.digest))
        self._steps = 0
        self._found: tuple[tuple[int, int], tuple[Genuine, ...]] = ((-1, -1), ())

    def best(self) -> tuple[Genuine, ...]:
        self._look((), tuple(self._votes))
        return self._found[1]

    def _look(self, taken: tuple[Genuine, ...], left: tuple[Genuine, ...]) -> None:
        self._steps += 1
        if self._steps > _STEPS:
            return
        if not left:
            worth = self._worth(taken)
            if worth > self._found[0]:
                self._found = (worth, taken)
            return
        first, rest = left[0], left[1:]
        free = tuple(one for one in rest if not _clash(first, one))
        self._look((*taken, first), free)
        if len(free) != len(rest):  # taking what shuts nobody out is never worse
            self._look(taken, rest)

    def _worth(self, taken: tuple[Genuine, ...]) -> tuple[int, int]:
        """What fills the requirement first, then how many there are."""
        asked = self._requirement
        filled = min(len(taken), asked.count) + sum(
            min(_within(taken, group), group.require) for group in asked.groups.values()
        )
        return filled, len(taken)


def _clash(one: Genuine, other: Genuine) -> bool:
    return (
        _same(one.statement.principal, other.statement.principal)
        or one.key == other.key
        or one.statement.nonce == other.statement.nonce
    )


def stricter(one: Requirement, count: int) -> Requirement:
    """The requirement, with no fewer approvals than `count`."""
    return msgspec.structs.replace(one, count=max(one.count, count))


def is_principal(text: str) -> bool:
    """Whether a text can name a principal."""
    try:
        msgspec.convert(text, Principal)
    except msgspec.ValidationError:
        return False
    return True


def among(principals: Iterable[str], principal: str) -> bool:
    """Whether a principal is one of several."""
    return any(_same(principal, other) for other in principals)
