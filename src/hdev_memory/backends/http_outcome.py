"""What became of a change that was sent to a server: what it said, and what stands there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hdev_memory.backends.base import (
    PERMISSION_DENIED,
    Change,
    Drifted,
    Failed,
    Put,
    Receipt,
    Removed,
    Stored,
    parts_of,
)
from hdev_memory.backends.http_transport import Answer, failure, short
from hdev_memory.core.diff import TOO_LARGE, interrupted
from hdev_memory.core.digest import NotCanonical, canonical_json
from hdev_memory.core.entry import (
    Absent,
    Entry,
    InvalidKey,
    Normalisation,
    Parts,
    State,
    Unreadable,
    check_key,
)
from hdev_memory.errors import KeyRefusedError

Found = Entry | Absent | Unreadable

_UNANSWERED = 8
"""So many changes in a row without an answer, and the rest of the batch is not sent."""


@dataclass(frozen=True)
class Outcome:
    """What the answer to a change says of it, and why.

    `unknown` is no answer, or none that says what was done: the change may even be done later.
    `kept` is where the server says that it set foreign bytes aside.
    """

    said: Literal["confirmed", "refused", "precondition", "unknown"]
    reason: str
    answered: bool = True
    kept: str = ""


@dataclass
class Sending:
    """Why a batch is not sent any further, once it is not."""

    given_up: str = ""
    refused: KeyRefusedError | None = None
    unanswered: int = 0

    def count(self, outcome: Outcome) -> None:
        """Give up after so many changes in a row without an answer: each may have cost its whole
        timeout. An answered failure concerns its own entry only."""
        self.unanswered = 0 if outcome.answered else self.unanswered + 1
        if self.unanswered >= _UNANSWERED:
            self.given_up = f"{self.unanswered} changes in a row had no answer"


def after_of(change: Change) -> State | None:
    """What the change is to leave; None is absence."""
    return change.after if isinstance(change, Put) else None


def expected(change: Change) -> list[Parts]:
    """The parts of an entry that is as before, and of one that is as after."""
    return [
        Parts(content=state.content, metadata=state.metadata)
        if state is not None
        else Parts(content=None, metadata=None)
        for state in (change.before, after_of(change))
    ]


def receipt_of(change: Change, found: State | None, outcome: Outcome) -> Receipt:
    """What became of a change, by what stands there now; the answer only helps to say why."""
    if outcome.said == "precondition" and found != change.before:
        return Drifted(key=change.key, found=found, kept=outcome.kept)
    if found == after_of(change):
        if found is None:
            return Removed(key=change.key, kept=outcome.kept)
        return Stored(key=change.key, state=found, kept=outcome.kept)
    if found == change.before:
        doubt = {
            "confirmed": "; but the entry is as it was before",
            "precondition": "; but the entry is as it was planned",
            "unknown": "; the entry is as it was before, and the change may still be done later",
            "refused": "",
        }[outcome.said]
        return Failed(key=change.key, reason=outcome.reason + doubt, intact=True, kept=outcome.kept)
    what = f"content {found.content[:12]} ({found.bytes} bytes)" if found else "no entry"
    reason = f"{outcome.reason}; the entry is damaged, neither as before nor as planned: {what}"
    return Failed(key=change.key, reason=reason, intact=False, kept=outcome.kept)


def cut_off(change: Change, held: Found, normalisation: Normalisation) -> bool:
    """Whether an earlier run that was cut off in this change explains what stands there."""
    parts = parts_of(held, normalisation)
    after = after_of(change)
    return change.resumed and isinstance(parts, Parts) and interrupted(change.before, after, parts)


def success(answer: Answer) -> bool:
    """Nearly every failure of the existing server is HTTP 200 without this."""
    return answer.body.get("success") is True


def unsendable(change: Change) -> str | None:
    """Why a change must not be sent: the existing server would damage the entry over it."""
    try:
        check_key(change.key)
        if isinstance(change, Put):
            if not change.content.isascii():
                change.content.decode()
            canonical_json(change.metadata)
    except InvalidKey as error:
        return f"the key {error}"
    except UnicodeDecodeError:
        return "its content is not UTF-8"
    except NotCanonical as error:
        return f"its metadata {error}"
    return None


def refused_by(method: str, path: str, answer: Answer) -> Outcome:
    """What an answer that confirms nothing says of a change."""
    if answer.status == 413:
        return Outcome("refused", TOO_LARGE)
    if answer.status == 403:
        return Outcome("refused", PERMISSION_DENIED)
    if answer.status == 200 and answer.body.get("success") is False:
        return Outcome("refused", f"the server says: {short(answer.cause)}")
    if 300 <= answer.status < 400:
        # Never followed: what was meant for this store would go to another, and the key with it.
        cause = f"{answer.status} redirects to {answer.location}, and a write follows nowhere"
        return Outcome("refused", failure(method, path, cause))
    definite = 400 <= answer.status < 500 and answer.status != 408
    cause = (
        answer.cause if str(answer.status) in answer.cause else f"{answer.status} {answer.cause}"
    )
    return Outcome("refused" if definite else "unknown", failure(method, path, cause))
