"""The plan: its values, its one canonical encoding, and its strict decoding.

`plan.json` is a JSON document with a fixed form: each top-level member on its own line in a fixed
order, one action per line sorted by key, LF line ends, no floats. There is exactly one sequence of
bytes for one plan, so the SHA-256 of the file names the plan (its *plan id*), and the loader can
refuse every other spelling by encoding again what it has decoded. Both directions are streams:
neither needs more than one action in memory.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from itertools import islice, takewhile
from typing import Annotated, Any, Literal, assert_never, get_type_hints

import msgspec

from hdev_memory.core.diff import (
    AnyAction,
    Blocked,
    Create,
    Delete,
    Overwrite,
    Skip,
    Writing,
    transition,
)
from hdev_memory.core.digest import Digest, NamedDigest, named
from hdev_memory.core.entry import (
    Capabilities,
    InvalidKey,
    Normalisation,
    State,
    Value,
    check_key,
)
from hdev_memory.core.rules import Level, Policy, Principal
from hdev_memory.core.stretch import Stretch, state_line
from hdev_memory.errors import PlanError

FORMAT = "hdev-plan/1"

MAX_LINE_BYTES = 64 * 1024
"""No line of a plan is longer; a longer one is refused before it is decoded."""

Instant = Annotated[
    str,
    msgspec.Meta(pattern=r"\A[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z\Z"),
]
"""A point in time as RFC 3339 in UTC, to the second; two of them compare as texts."""

Count = Annotated[int, msgspec.Meta(ge=0)]


class End(Value, frozen=True):
    """One end of a plan: which backend, where, and what it promised when the plan was made.

    `location` holds no credentials, and the home folder as `~`. `store` is the identity that the
    store itself announces; null where it has none.
    """

    kind: str
    location: str
    label: str
    store: str | None
    capabilities: Capabilities


class Limits(Value, frozen=True):
    max_entry_bytes: Count


class Options(Value, frozen=True, omit_defaults=True):
    """What was asked for; `policy` is what the plan was judged by when it was made, if any."""

    overwrite: bool
    delete: bool
    max_delete: str | None
    compare: Literal["content", "all"]
    include: tuple[str, ...]
    exclude: tuple[str, ...]
    limits: Limits
    policy: Policy | None = None


class Head(Value, frozen=True):
    """Everything that stands before the actions."""

    source: End
    target: End
    options: Options
    normalisation: Normalisation


class UnchangedSet(Value, frozen=True):
    """Entries that both ends hold alike: how many, and one digest over their keys and states."""

    count: Count
    digest: Digest


class Summary(Value, frozen=True):
    """The counts of a plan, in entries; `bytes` is the content that would be written.

    `found` counts what the source holds, `target_only` what only the target holds and keeps,
    `ignored` the files in the source that are no entries.
    """

    create: Count
    overwrite: Count
    delete: Count
    skip: Count
    blocked: Count
    unchanged: Count
    found: Count
    target_only: Count
    ignored: Count
    bytes: Count

    @property
    def writes(self) -> int:
        """How many entries of the target an apply changes."""
        return self.create + self.overwrite + self.delete


class Finding(Value, frozen=True, omit_defaults=True):
    """Something that whoever reviews the plan should know; `key` is null for the whole plan.

    What a rule of a policy has found has a `digest`, which names it in an override. `line` is that
    of the entry's content, from 1; left out where it is not about one line.
    """

    rule: str
    level: Level
    key: str | None
    text: str
    line: Annotated[int, msgspec.Meta(ge=1)] | None = None
    digest: Digest | None = None


class Provenance(Value, frozen=True, omit_defaults=True):
    """When, with what and by whom the plan was made; `expires` is null for a plan that does not.

    `author` is left out where nobody said who it is.
    """

    created: Instant
    expires: Instant | None
    tool: str
    author: Principal | None = None


class Tail(Value, frozen=True):
    """Everything that stands behind the actions, but the seal."""

    unchanged: UnchangedSet
    summary: Summary
    findings: tuple[Finding, ...]
    effect: Digest
    provenance: Provenance


class Plan(Value, frozen=True):
    """A plan without its actions, which are read as a stream beside it."""

    head: Head
    tail: Tail
    plan_id: NamedDigest


def members(owner: type[msgspec.Struct]) -> list[tuple[str, Any]]:
    """The members of a Struct with their types, to make another one from."""
    return [(field.name, field.type) for field in msgspec.structs.fields(owner)]


PlanFile = msgspec.defstruct(
    "PlanFile",
    [
        ("format", Literal["hdev-plan/1"]),
        *members(Head),
        ("actions", tuple[AnyAction, ...]),
        *members(Tail),
        ("seal", Digest),
    ],
    bases=(Value,),
    frozen=True,
    namespace={
        "__doc__": """One whole plan.json, for its schema; the code streams its parts.

        It has one spelling: the members in this order, each on a line of its own; one line for each
        action, sorted by key; no spaces, LF line ends. `seal` is the SHA-256 of every byte before
        its line, and `sha256:` with that of the whole file is the plan id. The loader refuses any
        other spelling of the same values, and counts or digests that do not fit the actions.
        """
    },
)


# The frame of the document, in order. `format` and `actions` and `seal` are not struct members.
_HEAD = ("source", "target", "options", "normalisation")
_TAIL = ("unchanged", "summary", "findings", "effect", "provenance")

_encode = msgspec.json.Encoder().encode
_action_decoder = msgspec.json.Decoder[AnyAction](AnyAction)


class Tally:
    """Counts and digests of a stream of actions: what the tail says of them."""

    def __init__(self) -> None:
        self.counts = {"create": 0, "overwrite": 0, "delete": 0, "skip": 0, "blocked": 0}
        self.bytes = 0
        self.blocked_in_source = 0
        self._last: str | None = None
        self._effect = hashlib.sha256(b"hdev-effect/1\n")

    def add(self, action: AnyAction) -> None:
        """Take one action in; raises PlanError when it cannot stand where it stands."""
        if self._last is not None and action.key <= self._last:
            raise PlanError("The plan's actions are not sorted by key.", hint=REPLAN)
        self._last = action.key
        match action:
            case Create():
                self.counts["create"] += 1
                self.bytes += action.after.bytes
            case Overwrite():
                self.counts["overwrite"] += 1
                self.bytes += action.after.bytes
            case Delete():
                self.counts["delete"] += 1
            case Skip():
                self.counts["skip"] += 1
            case Blocked():
                self.counts["blocked"] += 1
                self.blocked_in_source += action.side == "source"
            case _:
                assert_never(action)
        if not isinstance(action, Blocked):
            try:
                check_key(action.key)
            except InvalidKey as error:
                raise PlanError(
                    "The plan names a key that is not allowed.", why=f"It {error}.", hint=REPLAN
                ) from None
        if isinstance(action, Create | Overwrite | Delete):
            self._effect.update(_effect_line(action))

    def effect(self, normalisation: Normalisation) -> str:
        """A digest over the transition alone: same inputs, same effect, at any time and place."""
        digest = self._effect.copy()
        digest.update(_encode(normalisation) + b"\n")
        return digest.hexdigest()

    def found(self, unchanged: int) -> int:
        """How many entries the source holds, given how many are unchanged."""
        counts = self.counts
        return (
            counts["create"]
            + counts["overwrite"]
            + counts["skip"]
            + self.blocked_in_source
            + unchanged
        )


def _effect_line(action: Writing) -> bytes:
    before, after = transition(action)
    return _encode([action.key, before, after]) + b"\n"


class UnchangedDigest:
    """Collects the entries that both ends hold alike, in key order."""

    def __init__(self) -> None:
        self.count = 0
        self._digest = hashlib.sha256(b"hdev-unchanged/1\n")

    def add(self, key: str, state: State) -> None:
        self.count += 1
        self._digest.update(state_line(key, state))

    def add_stretch(self, stretch: Stretch) -> None:
        self.count += stretch.count
        self._digest.update(stretch.lines)

    def result(self) -> UnchangedSet:
        return UnchangedSet(count=self.count, digest=self._digest.hexdigest())


def encode(head: Head, actions: Iterable[AnyAction], tail: Callable[[], Tail]) -> Iterator[bytes]:
    """The bytes of a plan, line by line; `tail` is asked once all actions have gone by.

    The last member, `seal`, is the SHA-256 of every byte before its line.
    """
    seal = hashlib.sha256()
    for line in _sealed_lines(head, actions, tail):
        seal.update(line)
        yield line
    yield _seal_line(seal.hexdigest())
    yield b"}\n"


def _sealed_lines(
    head: Head, actions: Iterable[AnyAction], tail: Callable[[], Tail]
) -> Iterator[bytes]:
    yield b"{\n"
    yield _member("format", FORMAT)
    for name in _HEAD:
        yield _member(name, getattr(head, name))
    yield b'"actions":[\n'
    previous: bytes | None = None
    for action in actions:
        if previous is not None:
            yield previous + b",\n"
        previous = _encode(action)
    if previous is not None:
        yield previous + b"\n"
    yield b"],\n"
    end = tail()
    for name in _TAIL:
        yield _member(name, getattr(end, name))


def _member(name: str, value: Any) -> bytes:
    return b'"%s":%s,\n' % (name.encode(), _encode(value))


def _seal_line(digest: str) -> bytes:
    return b'"seal":"%s"\n' % digest.encode()


REPLAN = "Make the plan again with `hdev plan`; a plan is never edited."


def decode(lines: Iterable[bytes]) -> Iterator[Head | AnyAction | Tail]:
    """The parts of a plan, from its lines: a Head, the actions, a Tail.

    A consumer may act on nothing before the Tail has come: only then have the seal, the counts and
    the effect been checked. Raises PlanError for any byte that the encoder would not have written.
    """
    reader = _Lines(lines)
    reader.literal(b"{\n")
    reader.version()
    head = Head(**{name: reader.member(name, Head) for name in _HEAD})
    yield head
    reader.literal(b'"actions":[\n')
    tally = Tally()
    last = False
    for line in reader:
        if line == b"],\n":
            break
        if last:
            raise _damaged("an action follows the last one")
        last = not line.endswith(b",\n")
        action = _action(_bare(line))
        tally.add(action)
        yield action
    else:
        raise _damaged("the file ends in the middle")
    if not last and any(tally.counts.values()):
        raise _damaged("a comma stands behind the last action")
    tail = Tail(**{name: reader.member(name, Tail) for name in _TAIL})
    reader.seal()
    _check_tail(head, tail, tally)
    yield tail


def actions_of(lines: Iterable[bytes]) -> Iterator[AnyAction]:
    """The actions of a plan whose lines `decode` has already taken to their end."""
    return map(action_of, _action_lines(lines))


def action_of(line: bytes) -> AnyAction:
    """One of the lines that `named_of` gives."""
    action: AnyAction = _action_decoder.decode(_bare(line))
    return action


class Named(msgspec.Struct, gc=False):
    """Which entry an action is about, and its kind: `create`, `overwrite`, `delete`, `skip` or
    `blocked`."""

    action: str
    key: str


def named_of(lines: Iterable[bytes]) -> Iterator[tuple[Named, bytes]]:
    """The same of each action, with its line, for a sixth of the time."""
    rest = _action_lines(lines)
    while some := list(islice(rest, _TOGETHER)):
        yield from zip(_named_decoder.decode(b"[%s]" % _bare(b"".join(some))), some, strict=True)


_TOGETHER = 256
_named_decoder = msgspec.json.Decoder[list[Named]](list[Named])


def _bare(line: bytes) -> bytes:
    """What stands on a line of the actions, without what divides it from the next."""
    return line.removesuffix(b"\n").removesuffix(b",")


def _action_lines(lines: Iterable[bytes]) -> Iterator[bytes]:
    lines = iter(lines)
    for line in lines:
        if line == b'"actions":[\n':
            break
    return takewhile(lambda line: line != b"],\n", lines)


class _Lines:
    """Reads the frame of the document, and keeps the digest of all that has gone by."""

    def __init__(self, lines: Iterable[bytes]) -> None:
        self._lines = iter(lines)
        self._digest = hashlib.sha256()

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        line = next(self._lines)
        if len(line) > MAX_LINE_BYTES:
            raise _damaged("a line is too long")
        self._digest.update(line)
        return line

    def _need(self) -> bytes:
        line = next(self, None)
        if line is None:
            raise _damaged("the file ends in the middle")
        return line

    def literal(self, expected: bytes) -> None:
        if self._need() != expected:
            raise _damaged("a line of its frame is not what it must be")

    def version(self) -> None:
        line = self._need()
        if line == _member("format", FORMAT):
            return
        if line.startswith(b'"format":"hdev-plan/'):
            raise PlanError(
                "The plan has a format that this version does not know.",
                why=f"It is not {FORMAT}.",
                hint="Install the version of hdev-memory that made it, or plan again.",
            )
        raise _damaged("it does not begin as a plan does")

    def member(self, name: str, owner: type) -> Any:
        line = self._need()
        prefix = b'"%s":' % name.encode()
        if not line.startswith(prefix):
            raise _damaged(f"`{name}` does not stand where it must")
        try:
            value = msgspec.json.decode(
                line[len(prefix) :].removesuffix(b",\n"), type=_hints(owner)[name]
            )
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise _damaged(f"`{name}` cannot be read ({error})") from None
        if _member(name, value) != line:
            raise _damaged(f"`{name}` is not in canonical form")
        return value

    def seal(self) -> None:
        expected = _seal_line(self._digest.hexdigest())
        if self._need() != expected:
            raise PlanError(
                "The plan's seal does not fit its bytes.",
                why="The file was edited or damaged after it was made.",
                hint=REPLAN,
            )
        self.literal(b"}\n")
        if next(self, None) is not None:
            raise _damaged("something follows its end")


def _hints(owner: type) -> dict[str, Any]:
    if owner not in _HINTS:
        _HINTS[owner] = get_type_hints(owner, include_extras=True)
    return _HINTS[owner]


_HINTS: dict[type, dict[str, Any]] = {}


def _action(text: bytes) -> AnyAction:
    try:
        action: AnyAction = _action_decoder.decode(text)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise _damaged(f"an action cannot be read ({error})") from None
    if _encode(action) != text:
        raise _damaged("an action is not in canonical form")
    return action


def _check_tail(head: Head, tail: Tail, tally: Tally) -> None:
    stated = msgspec.structs.asdict(tail.summary)
    for name, count in tally.counts.items():
        if stated[name] != count:
            raise _damaged(f"its summary miscounts `{name}`")
    if stated["bytes"] != tally.bytes or tail.summary.unchanged != tail.unchanged.count:
        raise _damaged("its summary does not add up")
    if tail.summary.found != tally.found(tail.unchanged.count):
        raise _damaged("its summary miscounts what the source holds")
    if tail.effect != tally.effect(head.normalisation):
        raise _damaged("its effect does not fit its actions")


def _damaged(why: str) -> PlanError:
    return PlanError("The plan is damaged or was edited.", why=f"In the file, {why}.", hint=REPLAN)


def plan_id(digest: str) -> str:
    """The name of a plan, from the SHA-256 of its file."""
    return named(digest)
