"""The statement by which somebody lifts soft findings of one plan, and what it takes to count."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, Literal

import msgspec

from hdev_memory.core.approval import (
    AHEAD,
    Nonce,
    NoStatement,
    PlanId,
    among,
    read_spelled,
    seconds,
    spelled,
)
from hdev_memory.core.digest import Digest
from hdev_memory.core.entry import Value
from hdev_memory.core.plan import Instant
from hdev_memory.core.rules import Principal

FORMAT: Literal["hdev-override/1"] = "hdev-override/1"

MAX_FINDINGS = 100
MAX_REASON = 1000
"""Characters of a reason."""


class Override(Value, frozen=True):
    """What somebody signs: these findings of this plan shall not stop it, for this reason.

    It always expires. The findings are digests, sorted, each once.
    """

    format: Literal["hdev-override/1"]
    plan: PlanId
    findings: Annotated[tuple[Digest, ...], msgspec.Meta(min_length=1, max_length=MAX_FINDINGS)]
    principal: Principal
    reason: Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_REASON)]
    created: Instant
    expires: Instant
    nonce: Nonce

    @property
    def name(self) -> str:
        """The name of its file, among the approvals."""
        return f"override-{self.principal}-{self.nonce}.json"


_DECODER = msgspec.json.Decoder(Override)


def encode(override: Override) -> bytes:
    """The bytes of an override, which are what is signed."""
    return spelled(override)


def is_override(raw: bytes) -> bool:
    """Whether a signed statement means to be an override; whether it is one, `decode` tells."""
    return raw.startswith(b'{"format":"hdev-override/')


def decode(raw: bytes) -> Override:
    """Read an override. Raises NoStatement for any byte that `encode` would not have written."""
    override = read_spelled(raw, _DECODER)
    if list(override.findings) != sorted(set(override.findings)):
        raise NoStatement("its findings are not sorted")
    if seconds(override.expires) <= seconds(override.created):
        raise NoStatement("it expires before it was made")
    return override


class Lifting(Value, frozen=True):
    """What one override is worth: the findings that it lifts, none where `why` says what it lacks.

    `reason` is what its signer says, and empty where the signature does not hold.
    """

    name: str
    principal: str
    nonce: str
    findings: tuple[str, ...]
    reason: str
    why: str = ""


def flaw(
    override: Override,
    name: str,
    *,
    plan: str,
    author: str | None,
    owners: Sequence[str],
    agent: bool,
    now: Instant,
) -> str:
    """Why a genuine override lifts nothing here; empty when it does.

    `name` is that of its file, `owners` are all principals that its key belongs to, `author` is
    whoever must not lift findings of this plan.
    """
    if override.plan != plan:
        return "it is about another plan"
    if override.name != name:
        return "it lies under a name that is not its own"
    if agent:
        return "an agent lifts nothing"
    if author is not None and among(owners, author):
        return "its principal, or another one with its key, made the plan"
    if now >= override.expires:
        return f"it expired at {override.expires}"
    if seconds(now) - seconds(override.created) < -AHEAD:
        return "it is dated in the future"
    return ""


def lifted(overrides: Iterable[Lifting]) -> frozenset[str]:
    """The findings that these overrides lift."""
    return frozenset(digest for one in overrides if not one.why for digest in one.findings)
