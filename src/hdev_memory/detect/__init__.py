"""Detectors: what looks into the text of an entry for a rule; one table, rule -> constructor.

A detector says on which line it found what, and never quotes what it found. It is deterministic,
works offline, and looks at text in pieces that bound its time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from hdev_memory.core.policy import Hit
from hdev_memory.core.rules import (
    InstructionLikeText,
    InvisibleCharacters,
    Policy,
    Rule,
    Secrets,
    content_rules,
)

Detector = Callable[[str], Iterator[Hit]]
"""What is found in a text; lines count from 1. The same hit may come more than once."""


def detectors(policy: Policy) -> dict[str, Detector]:
    """The detectors of the rules of a policy that look into entries.

    Raises PolicyError where a rule needs an extra that is not installed: it is never passed over.
    """
    return {name: _detector(rule) for name, rule in content_rules(policy).items()}


def _detector(rule: Rule) -> Detector:
    # Each module only where its rule is used: the one for secrets takes a third of a second.
    match rule:
        case InvisibleCharacters():
            from hdev_memory.detect import invisible

            return invisible.detector(rule)
        case InstructionLikeText():
            from hdev_memory.detect import instructions

            return instructions.detector(rule)
        case Secrets():
            from hdev_memory.detect import secrets

            return secrets.detector(rule)
        case _:
            raise AssertionError(f"{type(rule).__name__} looks into no entries")
