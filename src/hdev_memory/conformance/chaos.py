"""Checks of everything together: random changes against a model, and the world outside."""

from __future__ import annotations

from hdev_memory.backends.base import Change, Drifted, Receipt, Removed, Stored
from hdev_memory.conformance.subject import NotApplicable, Subject, broken, same
from hdev_memory.core.entry import Absent, State


def model(subject: Subject) -> None:
    """Random changes, some of them stale, in batches; a dict says what must come of them."""
    random = subject.random
    names = ["a", "b", "c", "d/a", "d/b", "e/f/a"]
    held: dict[str, State] = {}
    for _ in range(12):
        changes: list[Change] = []
        wanted: list[Receipt] = []
        for name in random.sample(names, random.randrange(1, len(names))):
            key, now = subject.key(name), held.get(name)
            stale = random.random() < 0.25
            before = subject.state(b"never seen") if stale else now
            if before is not None and random.random() < 0.3:
                changes.append(subject.remove(name, before))
                outcome: Receipt = Removed(key=key)
            else:
                content = random.randbytes(random.randrange(40)).hex().encode()
                change = subject.put(name, content, {"k": random.randrange(5)}, before=before)
                changes.append(change)
                outcome = Stored(key=key, state=change.after)
            if before != now:
                outcome = Drifted(key=key, found=now)
            elif isinstance(outcome, Stored):
                held[name] = outcome.state
            else:
                del held[name]
            wanted.append(outcome)
        same(subject.write(*changes), wanted, "the receipts")
    for name in names:
        if name in held:
            found = subject.entry(name)
            state = subject.normalisation.state(found.content, found.metadata)
            same(state, held[name], f"the state of {name}")
        else:
            same(subject.read(name), Absent(key=subject.key(name)), f"the answer for {name}")
    same(subject.names(item.key for item in subject.listed()), sorted(held), "the names listed")


def outside_is_untouched(subject: Subject) -> None:
    before, now = subject.record.outside, subject.outside()
    for found in (before, now):
        if isinstance(found, str):
            raise NotApplicable(f"what is outside cannot be listed: {found}")
    assert isinstance(before, dict)
    assert isinstance(now, dict)
    changed = [key for key in sorted(before | now) if before.get(key, _GONE) != now.get(key, _GONE)]
    if changed:
        broken("nothing to change outside, by the backend or by somebody else", changed)


_GONE = object()
