"""Stores of made-up notes, as agents keep them: the same files for the same numbers."""

from __future__ import annotations

import itertools
import json
import math
import os
import random
from collections.abc import Iterator
from pathlib import Path

TEAM = 1_000
"""Entries of one team. A team is the same in every store, so a smaller store is the beginning of a
larger one."""

ENTRY_BYTES = 2048
_SPREAD = 1.0  # of the sizes' logarithm: half the notes are below 1.2 KB, one in a hundred over 12
_LEAST, _MOST = 64, 64 * 1024
_LARGE_BYTES = 900 * 1024

_WORDS = (
    "agent", "memory", "plan", "apply", "drift", "entry", "digest", "review", "approve", "promote",
    "staging", "production", "note", "decision", "meeting", "customer", "invoice", "latency",
    "retry", "timeout", "schema", "migration", "rollback", "owner",
)  # fmt: skip
_TEXT_BYTES = 400_000


def make(root: Path, entries: int, *, edited_every: int = 0) -> None:
    """Write so many entries, 2 KB each on average, and let them reach the disk.

    Content is edited in every `edited_every`-th entry, beginning with the first; 0 is none. Large
    stores are written by two processes.
    """
    teams = range(math.ceil(entries / TEAM))
    text = _text()
    root.mkdir(parents=True)
    if len(teams) < 10:
        _write_teams(root, teams, entries, edited_every, text)
    else:
        child = os.fork()
        if child == 0:
            status = 1
            try:
                _write_teams(root, teams[1::2], entries, edited_every, text)
                status = 0
            finally:
                os._exit(status)
        _write_teams(root, teams[::2], entries, edited_every, text)
        _, status = os.waitpid(child, 0)
        if status:
            raise RuntimeError("half of the store could not be written")
    os.sync()


def make_large(root: Path, entries: int) -> None:
    """Write entries of 900 KB each."""
    text = (_text() * 3).decode()
    root.mkdir(parents=True)
    for number in range(entries):
        begin = 97 * number
        _write(f"{root}/transcript-{number:02d}.md", text[begin : begin + _LARGE_BYTES].encode())
        _write(f"{root}/transcript-{number:02d}.metadata.json", _metadata(random.Random(number)))
    os.sync()


def _write_teams(root: Path, teams: range, entries: int, edited_every: int, text: bytes) -> None:
    for team in teams:
        rng = random.Random(team)
        made: set[str] = set()
        numbers = range(team * TEAM, min(entries, (team + 1) * TEAM))
        for number, key in zip(numbers, _keys(team), strict=False):
            folder = key.rpartition("/")[0]
            if folder not in made:
                os.makedirs(f"{root}/{folder}", exist_ok=True)
                made.add(folder)
            edited = edited_every and number % edited_every == 0
            _write(f"{root}/{key}.md", _content(rng, number, text, edited=bool(edited)))
            _write(f"{root}/{key}.metadata.json", _metadata(rng))


def _keys(team: int) -> Iterator[str]:
    """A team's keys: one wide folder, a diary, a page for each customer, and nested projects."""
    rng = random.Random(f"keys {team}")
    name = f"team-{team:04d}"

    def title() -> str:
        return "-".join(rng.sample(_WORDS, 3))

    inbox = (f"{name}/inbox/{number:04d}-{title()}" for number in itertools.count())
    diary = (
        f"{name}/diary/20{year}/{month:02d}/{day:02d}-{rng.choice(_WORDS)}"
        for year, month, day in itertools.product(range(20, 30), range(1, 13), range(1, 28, 3))
    )
    people = (f"{name}/customers/customer-{number:03d}" for number in itertools.count())
    projects = (
        f"{name}/projects/{project:02d}-{word}/{part}/{number:02d}-{title()}"
        for project, word in enumerate(itertools.cycle(_WORDS))
        for part in ("decisions", "meetings/2026", "research/sources")
        for number in range(rng.randint(2, 24))
    )
    for number in range(TEAM):
        yield next((inbox, diary, people, projects, projects)[number % 5])


def _content(rng: random.Random, number: int, text: bytes, *, edited: bool) -> bytes:
    median = math.log(ENTRY_BYTES) - _SPREAD**2 / 2
    size = min(max(int(rng.lognormvariate(median, _SPREAD)), _LEAST), _MOST)
    head = f"# Note {number}{' (edited)' if edited else ''}\n\n".encode()
    begin = rng.randrange(len(text) - _MOST)
    while text[begin] & 0xC0 == 0x80:  # the middle of a character
        begin += 1
    body = text[begin : begin + size].decode(errors="ignore").encode()
    return head + body + b"\n"


def _metadata(rng: random.Random) -> bytes:
    second = 1_795_396_920 + rng.randrange(10_000_000)
    found: dict[str, object] = {
        "updated": f"{second}.6965518",
        "version": 1 + rng.randrange(7),
        "created": f"{second - rng.randrange(1_000_000)}.25",
        "author": f"agent-{rng.randrange(13)}",
        "tags": rng.sample(_WORDS, rng.randint(0, 4)),
    }
    kind = rng.random()
    if kind < 0.3:
        found["source"] = {"tool": "chat", "turn": rng.randrange(500)}
    if kind < 0.1:
        found["title"] = f"Überblick: {rng.choice(_WORDS)} → {rng.choice(_WORDS)}"
    if kind < 0.05:
        found["confidence"] = rng.randint(1, 99) / 100
    return json.dumps(found, indent=2).encode()


def _text() -> bytes:
    """Words as notes have them, a character in some hundred beyond ASCII."""
    rng = random.Random(1)
    words = rng.choices([*_WORDS * 8, "naïve", "Größe", "→", "✓"], k=_TEXT_BYTES // 6)
    return " ".join(words).encode()


def _write(path: str, content: bytes) -> None:
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        os.write(file, content)
    finally:
        os.close(file)
