"""The plan's one encoding, and the refusal of every other."""

import hashlib

import msgspec
import pytest

from hdev_memory.core.diff import Blocked, Create, Delete, Overwrite, Skip
from hdev_memory.core.entry import Capabilities, Normalisation
from hdev_memory.core.plan import (
    End,
    Head,
    Limits,
    Options,
    Provenance,
    Summary,
    Tail,
    Tally,
    UnchangedDigest,
    action_of,
    actions_of,
    decode,
    encode,
    named_of,
)
from hdev_memory.errors import PlanError

NORMAL = Normalisation()
ONE, TWO = NORMAL.state(b"one\n", {"k": 1}), NORMAL.state(b"two\n", {})
END = End(
    kind="filesystem",
    location="~/memory",
    label="memory",
    store=None,
    capabilities=Capabilities(cas="guarded", durability="synced"),
)
HEAD = Head(
    source=END,
    target=END,
    options=Options(
        overwrite=True,
        delete=True,
        max_delete="10%",
        compare="all",
        include=(),
        exclude=("*.tmp",),
        limits=Limits(max_entry_bytes=10),
    ),
    normalisation=NORMAL,
)
ACTIONS = [
    Create(key="a", after=ONE, reason="not in the target"),
    Overwrite(key="b", before=ONE, after=TWO, reason="content differs"),
    Skip(key="c", before=ONE, source=TWO, reason="exists"),
    Blocked(key="d\\xe9", reason="its name is not valid Unicode"),
    Delete(key="e", before=TWO, reason="not in the source"),
]


def tail_of(actions, normal=NORMAL):
    tally = Tally()
    for action in actions:
        tally.add(action)
    return Tail(
        unchanged=UnchangedDigest().result(),
        summary=Summary(
            **tally.counts,
            unchanged=0,
            found=tally.found(0),
            target_only=0,
            ignored=0,
            bytes=tally.bytes,
        ),
        findings=(),
        effect=tally.effect(normal),
        provenance=Provenance(created="2026-01-02T03:04:05Z", expires=None, tool="test"),
    )


def plan_bytes(actions=ACTIONS, head=HEAD):
    return b"".join(encode(head, actions, lambda: tail_of(actions)))


def read(raw):
    return list(decode(raw.splitlines(keepends=True)))


def reseal(raw):
    body = raw[: raw.rindex(b'"seal":')]
    return body + b'"seal":"%s"\n}\n' % hashlib.sha256(body).hexdigest().encode()


@pytest.mark.parametrize("actions", [ACTIONS, [], ACTIONS[:1]])
def test_a_plan_comes_back_as_it_was(actions):
    raw = plan_bytes(actions)

    assert read(raw) == [HEAD, *actions, tail_of(actions)]
    assert list(actions_of(raw.splitlines(keepends=True))) == actions
    named = list(named_of(raw.splitlines(keepends=True)))
    assert [action_of(line) for _, line in named] == actions
    assert [(one.action, one.key) for one, _ in named] == [
        (type(action).__name__.lower(), action.key) for action in actions
    ]


def test_a_plan_may_say_who_made_it_and_has_one_spelling_where_it_does_not():
    tail = tail_of(ACTIONS)
    named = msgspec.structs.replace(
        tail, provenance=msgspec.structs.replace(tail.provenance, author="ann@example.com")
    )
    raw = b"".join(encode(HEAD, ACTIONS, lambda: named))
    silent = reseal(plan_bytes().replace(b'"tool":"test"}', b'"tool":"test","author":null}'))

    assert read(raw) == [HEAD, *ACTIONS, named]
    for other in (silent, reseal(raw.replace(b"ann@", b"*@")), reseal(raw.replace(b"ann@", b"/"))):
        with pytest.raises(PlanError, match="provenance"):
            read(other)


def test_the_same_inputs_give_the_same_bytes():
    assert plan_bytes() == plan_bytes()


@pytest.mark.parametrize("pattern", [0x01, 0x20, 0x80, 0xFF])
def test_a_flip_of_any_byte_is_refused(pattern):
    raw = plan_bytes()
    for offset in range(len(raw)):
        flipped = bytearray(raw)
        flipped[offset] ^= pattern
        with pytest.raises(PlanError):
            read(bytes(flipped))


def test_every_cut_is_refused():
    raw = plan_bytes()
    for length in range(len(raw)):
        with pytest.raises(PlanError):
            read(raw[:length])


def test_dropped_repeated_and_exchanged_lines_are_refused_even_with_a_right_seal():
    lines = plan_bytes().splitlines(keepends=True)
    for number in range(len(lines) - 2):
        for changed in (
            lines[:number] + lines[number + 1 :],
            lines[:number] + [lines[number]] + lines[number:],
            lines[:number] + [lines[number + 1], lines[number]] + lines[number + 2 :],
        ):
            with pytest.raises(PlanError):
                read(reseal(b"".join(changed)))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"\n", b"\r\n"),
        (b'"key":"a",', b'"key":"a", '),
        (b'"key":"a",', b'"key":"a","key":"a",'),
        (b'"key":"a",', b'"key":"a","more":1,'),
        (b'"bytes":4', b'"bytes":4.0'),
        (b'"key":"a"', b'"key":"\\u0061"'),
        (b'"findings":[],', b'"findings":[],\n"more":1,'),
        (b'"key":"a"', b'"key":"../a"'),
        (b'"key":"a"', b'"key":"/a"'),
        (b'"key":"a"', b'"key":"a\\\\b"'),
        (b'"create":1', b'"create":2'),
        (b'"store":null', b'"store":7'),
    ],
)
def test_every_other_spelling_is_refused_even_with_a_right_seal(old, new):
    raw = plan_bytes()
    assert old in raw

    with pytest.raises(PlanError):
        read(reseal(raw.replace(old, new)))


def test_bytes_behind_the_end_are_refused():
    with pytest.raises(PlanError):
        read(plan_bytes() + b"\n")


def test_another_format_version_is_named():
    with pytest.raises(PlanError, match="does not know"):
        read(reseal(plan_bytes().replace(b"hdev-plan/1", b"hdev-plan/2")))


def test_the_effect_is_of_the_transition_alone():
    elsewhere = msgspec.structs.replace(HEAD, source=msgspec.structs.replace(END, location="/x"))
    quiet = [action for action in ACTIONS if not isinstance(action, Skip | Blocked)]

    assert read(plan_bytes(head=elsewhere))[-1].effect == tail_of(ACTIONS).effect
    assert tail_of(quiet).effect == tail_of(ACTIONS).effect


@pytest.mark.parametrize(
    "action",
    [
        Create(key="a", after=TWO, reason=""),
        Create(key="a2", after=ONE, reason=""),
        Create(key="a", after=ONE, before=TWO, reason=""),
        Delete(key="a", before=ONE, reason=""),
    ],
)
def test_every_part_of_a_transition_changes_the_effect(action):
    assert tail_of([action]).effect != tail_of(ACTIONS[:1]).effect
