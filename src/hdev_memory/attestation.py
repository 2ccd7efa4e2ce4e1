"""A plan's run as an in-toto Statement (v1), for programs that collect attestations.

The form is that of https://github.com/in-toto/attestation/tree/main/spec/v1; docs/audit.md tells
what each member means.
"""

from __future__ import annotations

from typing import Any

import msgspec

from hdev_memory import plandir
from hdev_memory.core.digest import canonical_json, sha256
from hdev_memory.core.plan import End, Plan

STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "urn:hdev-memory:receipt:v1"
"""It leads nowhere, which the specification allows; no host of ours stands for it."""

EFFECT = "hdevEffect"
"""The digest algorithm of a plan's `effect`, in lower-case hex: what was done to a memory. It is no
digest of what the memory holds, so it is not called sha256."""


def statement(plan: Plan, found: plandir.ReceiptFile, tool: str) -> bytes:
    """The statement about a receipt, which must be the plan's: the same bytes for the same receipt
    and tool. RFC 8785 JSON and an LF."""
    head, tail = plan.head, plan.tail
    return (
        canonical_json(
            {
                "_type": STATEMENT,
                "subject": [
                    {"name": head.target.location, "digest": {EFFECT: tail.effect}},
                    {
                        "name": plandir.PLAN,
                        "digest": {"sha256": plan.plan_id.removeprefix("sha256:")},
                    },
                ],
                "predicateType": PREDICATE,
                "predicate": {
                    "receipt": msgspec.to_builtins(found.receipt),
                    "receiptDigest": {"sha256": sha256(found.raw)},
                    "source": _end(head.source),
                    "target": _end(head.target),
                    "planned": msgspec.to_builtins(tail.provenance),
                    "tool": tool,
                },
            }
        )
        + b"\n"
    )


def _end(end: End) -> dict[str, Any]:
    return {
        "kind": end.kind,
        "location": end.location,
        "label": end.label,
        "store": end.store,
    }
