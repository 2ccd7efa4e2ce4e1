"""Checks of which store it is, whether it is there, and who holds it."""

from __future__ import annotations

import contextlib
from urllib.parse import urlsplit

from hdev_memory.conformance.subject import NotApplicable, Subject, broken, same
from hdev_memory.errors import LockedError


def endpoint_without_secrets(subject: Subject) -> None:
    endpoint = subject.backend.endpoint
    url = urlsplit(endpoint.location)
    if not endpoint.kind or not endpoint.location:
        broken("a kind and a location", endpoint)
    if url.scheme in ("http", "https") and (url.username or url.password or url.query):
        # Not quoted: it may hold a password.
        broken("a location without user, password and query", "one that has them")
    if endpoint.kind == "postgres" and "@" in url.netloc:
        broken("a location without user and password", "one that has them")


def same_endpoint_again(subject: Subject) -> None:
    subject.made("a")
    with subject.connection() as other:
        same(other.endpoint, subject.backend.endpoint, "the endpoint of a second connection")
        same(other.capabilities, subject.capabilities, "the capabilities of a second connection")
        same(other.present(), True, "whether the store is present")
        other.close()
    same(subject.backend.present(), True, "whether the store is present")
    subject.stands("a", b"x")


def vanished(subject: Subject) -> None:
    vanish = subject.faults.vanish
    if vanish is None:
        raise NotApplicable("only somebody inside of the store can take it away")
    subject.made("a")
    with vanish():
        same(subject.backend.present(), False, "whether a store that was taken away is present")
    same(subject.backend.present(), True, "whether the store is present again")


_LOCKING = frozenset({"filesystem", "postgres", "sqlite"})
"""The kinds of stores that are known to have locks; of others `hold` may do nothing."""


def _require_free(subject: Subject) -> None:
    try:
        with subject.backend.hold("a look"):
            pass
    except LockedError:
        raise NotApplicable("somebody else holds the lock at the moment") from None


def lock_excludes(subject: Subject) -> None:
    _require_free(subject)
    with subject.backend.hold("the first"), subject.connection() as other:
        try:
            with other.hold("the second"):
                excludes = False
        except LockedError:
            excludes = True
    with subject.backend.hold("the next"):
        pass
    subject.observe("lock", "excludes" if excludes else "none")
    if not excludes:
        kind = subject.backend.endpoint.kind
        if kind in _LOCKING:
            broken("LockedError for the second of two holders", "both were let in")
        raise NotApplicable("this store has no locks")


def lock_ends(subject: Subject) -> None:
    _require_free(subject)
    for _ in range(2):
        with subject.backend.hold("the first"):
            subject.made(f"held-{subject.random.randrange(1 << 30)}")
    with contextlib.suppress(ZeroDivisionError), subject.backend.hold("one that fails"):
        raise ZeroDivisionError
    with subject.connection() as other, other.hold("the next"):
        pass
