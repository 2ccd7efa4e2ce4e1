"""What a pipeline's later steps may ask about a plan, in the form that each forge reads."""

from __future__ import annotations

import re
from collections.abc import Callable

from hdev_memory.core.digest import named
from hdev_memory.core.plan import Plan

NEVER = "never"

_PLAIN = re.compile(r"[A-Za-z0-9:_.-]+")


def outputs(plan: Plan) -> dict[str, str]:
    """Name -> value; numbers and digests but for the two labels, which are foreign text."""
    summary = plan.tail.summary
    return {
        "changes": "true" if summary.writes else "false",
        "to_create": str(summary.create),
        "to_overwrite": str(summary.overwrite),
        "to_delete": str(summary.delete),
        "skipped": str(summary.skip),
        "blocked": str(summary.blocked),
        "plan_id": plan.plan_id,
        "effect": named(plan.tail.effect),
        "expires": plan.tail.provenance.expires or NEVER,
        "source": plan.head.source.label,
        "target": plan.head.target.label,
    }


def github(values: dict[str, str], delimiter: Callable[[], str]) -> str:
    """Lines for GITHUB_OUTPUT.

    A value that could hold anything stands between two lines of a fresh `delimiter`, which nobody
    could guess when the value was made: so it cannot end early and set another output.
    """
    return "".join(_github(name, value, delimiter) for name, value in values.items())


def _github(name: str, value: str, delimiter: Callable[[], str]) -> str:
    if _PLAIN.fullmatch(value):
        return f"{name}={value}\n"
    mark = delimiter()
    return f"{name}<<{mark}\n{value}\n{mark}\n"


def dotenv(values: dict[str, str]) -> str:
    """Lines for `artifacts:reports:dotenv` of GitLab, as HDEV_NAME.

    The form knows no quoting, and pipelines expand `$` in what it sets: a value that is not plain
    is left out.
    """
    return "".join(
        f"HDEV_{name.upper()}={value}\n"
        for name, value in values.items()
        if _PLAIN.fullmatch(value)
    )
