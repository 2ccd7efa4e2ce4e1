"""The findings of a plan as SARIF 2.1.0, for the pages and checks of code hosts."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any
from urllib.parse import quote

from hdev_memory.core.plan import Finding
from hdev_memory.core.rules import RULES
from hdev_memory.review.inert import inert

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
FINGERPRINT = "hdevFinding/v1"
_LEVELS = {"advisory": "note", "soft": "warning", "hard": "error"}


def render(
    plan_id: str,
    plan: str,
    version: str,
    findings: Iterable[Finding],
    lifted: frozenset[str],
) -> str:
    """One SARIF log, ASCII only.

    A finding of a key lies in the file of that key's content, any other in the `plan`: code hosts
    take none that lies nowhere.
    """
    names = list(RULES)
    log = {
        "$schema": SCHEMA,
        "version": "2.1.0",
        "runs": [
            {
                "tool": {
                    "driver": {
                        "name": "hdev-memory",
                        "version": version,
                        "rules": [_rule(name) for name in names],
                    }
                },
                "automationDetails": {"id": f"hdev-policy/{plan_id}"},
                "columnKind": "unicodeCodePoints",
                "results": [
                    _result(one, names, plan, lifted) for one in findings if one.digest is not None
                ],
            }
        ],
    }
    return json.dumps(log, indent=2) + "\n"


def _rule(name: str) -> dict[str, Any]:
    return {"id": name, "shortDescription": {"text": RULES[name].about}}


def _result(
    one: Finding, names: Sequence[str], plan: str, lifted: frozenset[str]
) -> dict[str, Any]:
    result: dict[str, Any] = {
        "ruleId": one.rule,
        "ruleIndex": names.index(one.rule),
        "level": _LEVELS[one.level],
        "message": {"text": inert(one.text)},
        "partialFingerprints": {FINGERPRINT: one.digest},
    }
    place: dict[str, Any] = {"artifactLocation": {"uri": quote(plan)}}
    if one.key is not None:
        place = {"artifactLocation": {"uri": quote(f"{one.key}.md")}}
        if one.line is not None:
            place["region"] = {"startLine": one.line}
    result["locations"] = [{"physicalLocation": place}]
    if one.level == "soft" and one.digest in lifted:
        result["suppressions"] = [{"kind": "external", "status": "accepted"}]
    return result
