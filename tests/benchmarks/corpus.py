"""Stores of made-up notes in a realistic tree of folders, the same for the same numbers."""

from __future__ import annotations

import json
import random
from pathlib import Path

ENTRY_BYTES = 2048
_WORDS = (
    "agent", "memory", "plan", "apply", "drift", "entry", "digest", "review", "approve", "promote",
    "staging", "production", "note", "decision", "meeting", "customer", "invoice", "latency",
    "retry", "timeout", "schema", "migration", "rollback", "owner",
)  # fmt: skip


def make(root: Path, entries: int, *, changed: int = 0) -> None:
    """Write `entries` entries of 2 KB, each with a small metadata file, about 25 to a folder.

    Of two stores of the same size the first `changed` entries differ in content when it is not 0.
    """
    rng = random.Random(1)  # every store has the same texts
    text = " ".join(rng.choices(_WORDS, k=40_000))
    for number in range(entries):
        team, topic = divmod(number // 25, 20)
        folder = root / f"team-{team:03d}" / "projects" / f"topic-{topic:02d}"
        if number % 25 == 0:
            folder.mkdir(parents=True)
        start = rng.randrange(len(text) - ENTRY_BYTES)
        head = f"# Note {number}{' (edited)' if number < changed else ''}\n\n"
        content = head + text[start : start + ENTRY_BYTES - len(head) - 1] + "\n"
        (folder / f"note-{number % 25:02d}.md").write_text(content)
        metadata = {
            "updated": "1795396920.6965518",
            "version": 1 + number % 7,
            "created": "1795396920.6965518",
            "author": f"agent-{number % 13}",
            "tags": ["notes", f"topic-{topic}"],
        }
        sidecar = folder / f"note-{number % 25:02d}.metadata.json"
        sidecar.write_text(json.dumps(metadata, indent=2))
