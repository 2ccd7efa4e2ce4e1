"""The label of a plan: one of a small family, for what it does that is hardest to undo."""

from __future__ import annotations

from hdev_memory.core.plan import Summary

NOTHING = "hdev: no changes"
CREATES = "hdev: creates"
OVERWRITES = "hdev: overwrites"
DELETES = "hdev: deletes"

FAMILY = (NOTHING, CREATES, OVERWRITES, DELETES)


def label_of(summary: Summary) -> str:
    """Deletes weigh more than overwrites, and those more than creates."""
    if summary.delete:
        return DELETES
    if summary.overwrite:
        return OVERWRITES
    return CREATES if summary.create else NOTHING
