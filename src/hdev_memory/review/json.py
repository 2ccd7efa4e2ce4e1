"""The review as JSON: the plan's own values as one document, written action by action."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final, Literal

import msgspec

from hdev_memory.core.diff import AnyAction
from hdev_memory.core.digest import NamedDigest
from hdev_memory.core.entry import Value
from hdev_memory.core.plan import Count, Head, Tail, members
from hdev_memory.plandir import OpenPlan
from hdev_memory.review.reading import asked, kind_of

FORMAT: Final = "hdev-review/1"

Kind = Literal["create", "overwrite", "delete", "skip", "blocked"]


class Filter(Value, frozen=True):
    """What was asked for: one kind of action, keys that match a glob (null for all), no actions."""

    only: Kind | None = None
    key: str | None = None
    stat: bool = False


ALL = Filter()

Review = msgspec.defstruct(
    "Review",
    [
        ("format", Literal["hdev-review/1"]),
        ("plan_id", NamedDigest),
        *members(Head),
        *members(Tail),
        ("filter", Filter),
        ("actions", tuple[AnyAction, ...] | msgspec.UnsetType, msgspec.UNSET),
        ("shown", Count, 0),
    ],
    bases=(Value,),
    frozen=True,
    namespace={
        "__doc__": """What `hdev show --format json` writes; the code streams its parts.

        `summary` and the other totals are those of the whole plan, whatever `filter` left out.
        `actions` is missing where `filter.stat` is true; `shown` counts the actions that are there.
        """
    },
)


def render(opened: OpenPlan, chosen: Filter = ALL) -> Iterator[str]:
    """The lines of one JSON document: a member on each, and an action on each of `actions`.

    ASCII only, so that a terminal shows it safely; one action at a time is in memory.
    """
    plan = opened.plan
    yield f'{{\n"format":"{FORMAT}",\n"plan_id":"{plan.plan_id}",\n'
    for part in (plan.head, plan.tail):
        for name in part.__struct_fields__:
            yield f'"{name}":{_ascii(getattr(part, name))},\n'
    yield f'"filter":{_ascii(chosen)},\n'
    shown = 0
    if not chosen.stat:
        yield '"actions":['
        for action in opened.actions():
            if asked(kind_of(action), action.key, chosen.only, chosen.key):
                yield (",\n" if shown else "\n") + _ascii(action)
                shown += 1
        yield "\n],\n"
    yield f'"shown":{shown}\n}}\n'


_encode = msgspec.json.Encoder().encode


def _ascii(value: Any) -> str:
    text = _encode(value)
    if text.isascii():  # nearly always, and a tenth of the other way's time
        return text.decode()
    return json.dumps(msgspec.to_builtins(value), separators=(",", ":"))
