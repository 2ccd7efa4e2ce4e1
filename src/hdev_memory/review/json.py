"""The review as JSON: the plan's own values, for programs."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from hdev_memory.plandir import OpenPlan

FORMAT = "hdev-review/1"


def render(opened: OpenPlan) -> str:
    """One JSON document, ASCII only so that a terminal shows it safely, with every action."""
    plan = opened.plan
    document: dict[str, Any] = {
        "format": FORMAT,
        "plan_id": plan.plan_id,
        **msgspec.to_builtins(plan.head),
        **msgspec.to_builtins(plan.tail),
        "actions": [msgspec.to_builtins(action) for action in opened.actions()],
    }
    return json.dumps(document, indent=2) + "\n"
