"""Merge requests on GitLab: notes, labels, and the report that its widget reads."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from typing import ClassVar
from urllib.parse import quote

import msgspec

from hdev_memory.backends.base import Secret
from hdev_memory.core.plan import Summary
from hdev_memory.errors import UsageError
from hdev_memory.forge.api import Api, stranger
from hdev_memory.forge.base import Comment, Place, Wish, counting, needed

API = "https://gitlab.com/api/v4"

PER_PAGE = 20
"""A note may have a million characters."""

_NAME = re.compile(r"[0-9]{1,12}|[A-Za-z0-9_.-]+(?:/[A-Za-z0-9_.-]+)+")


class GitLab:
    """One merge request."""

    limit_bytes: ClassVar[int] = 1_000_000
    """The limit counts characters, of which there are never more than bytes."""

    def __init__(self, place: Place, token: Secret) -> None:
        self._api = Api(place.api, token, {})
        project = quote(place.repository, safe="")
        self._request = f"/projects/{project}/merge_requests/{place.number}"

    @staticmethod
    def place(environ: Mapping[str, str], wish: Wish) -> Place:
        """From CI_API_V4_URL, CI_PROJECT_ID and CI_MERGE_REQUEST_IID."""
        repository = needed(
            wish.repository or environ.get("CI_PROJECT_ID"),
            "which project is meant",
            "Give --repository with its id or path, or set CI_PROJECT_ID.",
        )
        if not _NAME.fullmatch(repository):
            raise UsageError(
                "The project's name is not one.", hint="Give its id, or GROUP/NAME: --repository."
            )
        hint = "Give --number, or run it in a pipeline of a merge request."
        number = wish.number
        if number is None:
            text = needed(environ.get("CI_MERGE_REQUEST_IID"), "which merge request is meant", hint)
            number = counting(text, "CI_MERGE_REQUEST_IID")
        api = wish.api or environ.get("CI_API_V4_URL") or API
        return Place(api=api.rstrip("/"), repository=repository, number=number)

    @staticmethod
    def token(environ: Mapping[str, str]) -> Secret:
        """From GITLAB_TOKEN.

        A CI_JOB_TOKEN is not enough: notes and labels are not among what it may use.
        """
        return Secret(
            needed(
                environ.get("GITLAB_TOKEN"),
                "with which token GitLab is to be asked",
                "Set GITLAB_TOKEN to a project access token with scope `api`, as a masked "
                "variable. The job's own CI_JOB_TOKEN may not write notes.",
            )
        )

    def own_comments(self) -> Iterator[Comment]:
        """By the id of the account, which for a project access token is its bot."""
        match self._api.get("/user"):
            case {"id": int(own)}:
                pass
            case _:
                raise stranger("GET", "/user")
        path = f"{self._request}/notes"
        found = []
        for item in self._api.pages(path, PER_PAGE):
            match item:
                case {"id": int(number), "body": str(body), "author": {"id": int(author)}}:
                    if author == own and item.get("system") is not True:
                        found.append(Comment(number=number, body=body))
                case {"id": int()}:
                    pass
                case _:
                    raise stranger("GET", path)
        yield from sorted(found, key=lambda comment: comment.number)  # it lists the newest first

    def create(self, body: str) -> None:
        self._api.send("POST", f"{self._request}/notes", {"body": body})

    def update(self, comment: Comment, body: str) -> None:
        self._api.send("PUT", f"{self._request}/notes/{comment.number}", {"body": body})

    def set_label(self, label: str, family: Collection[str]) -> None:
        others = ",".join(sorted(name for name in family if name != label))
        self._api.send("PUT", self._request, {"add_labels": label, "remove_labels": others})

    def close(self) -> None:
        self._api.close()


def report(summary: Summary) -> str:
    """What `artifacts:reports:terraform` takes: a merge request's widget shows the three numbers.

    Its parser asks for exactly these members.
    """
    numbers = {"create": summary.create, "update": summary.overwrite, "delete": summary.delete}
    return msgspec.json.encode(numbers).decode() + "\n"
