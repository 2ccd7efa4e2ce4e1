"""The comment of a plan: its hidden marker, and how the comments of older plans give way to it.

Each plan gets a comment of its own, and those of earlier plans for the same two ends are struck
through. Replacing the text of one comment would leave the reactions and the answers that were given
to the old plan standing around the new one: an approval must not seem to be of a plan that it was
not given for.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Literal, Self

from hdev_memory.core.digest import canonical_json, sha256
from hdev_memory.core.plan import Plan
from hdev_memory.forge.base import Forge

FORMAT = "hdev-comment/1"

_MARKER = re.compile(
    r"<!-- hdev-comment/1 slot=([0-9a-f]{64}) plan=(sha256:[0-9a-f]{64}) "
    r"create=([0-9]{1,12}) overwrite=([0-9]{1,12}) delete=([0-9]{1,12}) "
    r"(current|superseded) -->"
)


@dataclass(frozen=True)
class Marker:
    """The first line of a comment; a renderer hides it.

    slot   SHA-256 over both ends of the plan, so that several plans in one repository each have a
           comment
    state  `superseded` once another plan for the same ends has been commented
    """

    slot: str
    plan_id: str
    create: int
    overwrite: int
    delete: int
    state: Literal["current", "superseded"]

    @classmethod
    def of(cls, plan: Plan) -> Self:
        """The marker of the present comment of a plan."""
        ends = [[end.kind, end.location, end.label] for end in (plan.head.source, plan.head.target)]
        summary = plan.tail.summary
        return cls(
            slot=sha256(canonical_json(ends)),
            plan_id=plan.plan_id,
            create=summary.create,
            overwrite=summary.overwrite,
            delete=summary.delete,
            state="current",
        )

    @classmethod
    def read(cls, body: str) -> Self | None:
        """The marker of a comment, None where its first line is none.

        Nothing but digits and digests is taken from it: whoever may edit the comment may have
        changed it.
        """
        found = _MARKER.fullmatch(body.partition("\n")[0].rstrip("\r"))
        if found is None:
            return None
        slot, plan_id, create, overwrite, delete, state = found.groups()
        return cls(
            slot=slot,
            plan_id=plan_id,
            create=int(create),
            overwrite=int(overwrite),
            delete=int(delete),
            state="current" if state == "current" else "superseded",
        )

    def __str__(self) -> str:
        return (
            f"<!-- {FORMAT} slot={self.slot} plan={self.plan_id} create={self.create} "
            f"overwrite={self.overwrite} delete={self.delete} {self.state} -->"
        )


def current(marker: Marker, review: str) -> str:
    """The comment of a plan, around its review."""
    return (
        f"{marker}\n{review.rstrip()}\n\n"
        f"This comment is about the plan `{marker.plan_id}` alone, and proves nothing by itself; "
        f"`hdev apply --expect {marker.plan_id}` takes no other plan.\n"
    )


def superseded(marker: Marker, by: Marker) -> str:
    """What is left of the comment of an earlier plan: that it was one, struck through."""
    old = replace(marker, state="superseded")
    return (
        f"{old}\n~~**Plan: {old.create} to create, {old.overwrite} to overwrite, "
        f"{old.delete} to delete.**~~ Superseded.\n\n"
        f"The plan `{old.plan_id}` has given way to `{by.plan_id}`. Whatever was said about it, or "
        "approved, is not about the newer one.\n"
    )


def publish(forge: Forge, marker: Marker, body: str) -> Literal["created", "updated", "unchanged"]:
    """Make `body` the one present comment of its slot; raises as the forge does.

    Earlier plans are struck through first. Where it is cut off after that, no comment speaks for a
    plan, and running it again writes the one that is missing.
    """
    mine = None
    earlier = []
    for comment in forge.own_comments():
        found = Marker.read(comment.body)
        if found is None or found.slot != marker.slot or found.state != "current":
            continue
        if found.plan_id == marker.plan_id and mine is None:
            mine = comment
        else:
            earlier.append((comment, found))
    for comment, found in earlier:
        forge.update(comment, superseded(found, marker))
    if mine is None:
        forge.create(body)
        return "created"
    if mine.body.replace("\r\n", "\n").rstrip() == body.rstrip():
        return "unchanged"
    forge.update(mine, body)
    return "updated"
