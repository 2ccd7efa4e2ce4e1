"""What every forge does for a review: comments of our own, and labels, of one change request."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol

from hdev_memory.backends.base import Secret
from hdev_memory.errors import UsageError


@dataclass(frozen=True)
class Place:
    """One change request (a pull request, a merge request) of one repository.

    api         absolute URL of the forge's API, without a slash at its end
    repository  as the forge names it in its API: `OWNER/NAME`, or a project's id or path
    number      of the change request
    """

    api: str
    repository: str
    number: int


@dataclass(frozen=True)
class Wish:
    """What the command line says of a place; None where the environment is to say it."""

    api: str | None
    repository: str | None
    number: int | None


@dataclass(frozen=True)
class Comment:
    """A comment that our own token's account has written; anybody with the right to edit it may
    have changed its text since."""

    number: int
    body: str


class Forge(Protocol):
    """One change request on one forge, reached with one token.

    Every method raises KeyRefusedError where the token is refused, and BackendError where the forge
    cannot be reached, does not allow it, or answers what its API does not document. A write is
    sent once: after an error it is not known whether it was done, and running again finds out.
    """

    limit_bytes: ClassVar[int]
    """A comment of so many bytes is never too long."""

    def __init__(self, place: Place, token: Secret) -> None: ...

    @staticmethod
    def place(environ: Mapping[str, str], wish: Wish) -> Place:
        """The change request that a pipeline runs for. Raises UsageError naming what is missing."""

    @staticmethod
    def token(environ: Mapping[str, str]) -> Secret:
        """The token that the environment holds. Raises UsageError where there is none."""

    def own_comments(self) -> Iterable[Comment]:
        """Those whose author is the account of the token, oldest first."""

    def create(self, body: str) -> None:
        """Write a new comment."""

    def update(self, comment: Comment, body: str) -> None:
        """Replace the text of one of the own comments."""

    def set_label(self, label: str, family: Collection[str]) -> None:
        """Leave `label` as the only one of `family`, and every other label alone."""

    def close(self) -> None:
        """Give the connection back."""


def needed(text: str | None, what: str, hint: str) -> str:
    """A setting that must be there. Raises UsageError."""
    if not text:
        raise UsageError(f"It is not known {what}.", hint=hint)
    return text


def counting(text: str, where: str) -> int:
    """The number of a change request. Raises UsageError."""
    if not (text.isascii() and text.isdigit() and 0 < len(text) <= 12 and int(text) > 0):
        raise UsageError(
            "The number of the change request is not a number.",
            why=f"{where} is {text[:40]!r}.",
            hint="Give it with --number.",
        )
    return int(text)
