"""A plan's actions, and the entries that it would write -> what the rules of policies find.

Entries are read through a Reader, in bounded batches, and only those that would be written. Their
keys wait in a file until then, so that memory stays flat and no snapshot is disturbed.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import IO, Any

import msgspec

from hdev_memory.backends.base import Closing, Reader, Scope, Unknown, state_of
from hdev_memory.core import policy as judging
from hdev_memory.core.diff import AnyAction, Create, Overwrite, needed
from hdev_memory.core.entry import Entry, Metadata, Normalisation, State
from hdev_memory.core.plan import Finding, Instant
from hdev_memory.core.rules import CONTENT_RULES, Policy, content_rules
from hdev_memory.detect import Detector, detectors

_BATCH = 64
_BATCH_BYTES = 8 * 1024 * 1024
"""Entries and bytes of content that are read at once, but for a single larger entry."""

Waiting = tuple[str, State]
_decode = msgspec.json.Decoder[Waiting](Waiting).decode


class Judge:
    """One policy with all that it needs to look at plans.

    Raises PolicyError when made, where a rule needs an extra that is not installed, and ValueError
    for a pattern that gitignore would not understand.
    """

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.detectors: dict[str, Detector] = detectors(policy)
        self._protected = Scope(policy.protected_keys.patterns if policy.protected_keys else ())

    def protects(self, key: str) -> bool:
        return self._protected.narrow and self._protected.entry(key)


class Watch(Closing):
    """Watches the actions of one plan go by, and then looks into the entries to be written."""

    def __init__(self, judges: Sequence[Judge]) -> None:
        self._judges = judges
        self._gathered = judging.Gathered()
        self._waiting: IO[bytes] | None = (
            tempfile.TemporaryFile(prefix="hdev-waiting-")  # noqa: SIM115 - `close` ends it
            if any(judge.detectors for judge in judges)
            else None
        )

    def close(self) -> None:
        if self._waiting is not None:
            self._waiting.close()

    def watched(self, actions: Iterable[AnyAction]) -> Iterator[AnyAction]:
        """The same actions."""
        if not self._judges:
            yield from actions
            return
        for action in actions:
            self.see(action)
            yield action

    def see(self, action: AnyAction) -> None:
        self._gathered.add(
            found
            for judge in self._judges
            for found in judging.of_action(judge.policy, action, judge.protects)
        )
        if self._waiting is not None and isinstance(action, Create | Overwrite):
            self._waiting.write(msgspec.json.encode((action.key, needed(action))) + b"\n")

    def look(
        self,
        source: Reader,
        normalisation: Normalisation,
        changed: Callable[[str], None],
    ) -> None:
        """Look into the entries that would be written; `changed` is told of those that are not as
        the plan says, which are not looked at. Raises what the reader raises."""
        if self._waiting is None:
            return
        self._waiting.seek(0)
        for batch in _batches(map(_decode, self._waiting)):
            for (key, state), held in zip(
                batch, source.read([key for key, _ in batch]), strict=True
            ):
                try:
                    found = state_of(held, normalisation)
                except Unknown:
                    found = None
                if found != state or not isinstance(held, Entry):
                    changed(key)
                else:
                    self._inside(held, state, normalisation)

    def _inside(self, entry: Entry, state: State, normalisation: Normalisation) -> None:
        parts = parts_of(entry, normalisation)
        for name in CONTENT_RULES:
            self._gathered.add(
                found
                for judge in self._judges
                if (rule := content_rules(judge.policy).get(name)) is not None
                for found in judging.of_hits(
                    name, rule, entry.key, state, _hits(judge.detectors[name], parts)
                )
            )

    def findings(self, facts: judging.Facts, now: Instant) -> tuple[Finding, ...]:
        """Everything that was found."""
        self._gathered.add(
            found for judge in self._judges for found in judging.of_plan(judge.policy, facts, now)
        )
        return self._gathered.result()


def parts_of(entry: Entry, normalisation: Normalisation) -> dict[judging.Part, str]:
    """The texts of an entry that rules look into."""
    return {
        "key": entry.key,
        "content": normalisation.content(entry.content).decode(),
        "metadata": "\n".join(_texts(entry.metadata)),
    }


def _hits(
    detect: Detector, parts: Mapping[judging.Part, str]
) -> Iterator[tuple[judging.Part, judging.Hit]]:
    """What is found in each part: in content on each line, elsewhere each thing once."""
    for part, text in parts.items():
        hits = set(detect(text))
        if part != "content":
            hits = {judging.Hit(line=1, what=hit.what) for hit in hits}
        for hit in sorted(hits, key=lambda one: (one.line, one.what)):
            yield part, hit


def _batches(waiting: Iterable[Waiting]) -> Iterator[list[Waiting]]:
    batch: list[Waiting] = []
    size = 0
    for item in waiting:
        if batch and (len(batch) == _BATCH or size + item[1].bytes > _BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(item)
        size += item[1].bytes
    if batch:
        yield batch


def _texts(metadata: Metadata) -> Iterator[str]:
    """Each name of a metadata with the texts below it, as settings are written."""

    def below(name: str, value: Any) -> Iterator[str]:
        if isinstance(value, dict):
            for inner, item in value.items():
                yield from below(inner, item)
        elif isinstance(value, list):
            for item in value:
                yield from below(name, item)
        else:
            yield f'{name}: "{value}"'

    yield from below("", metadata)
