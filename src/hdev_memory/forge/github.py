"""Pull requests on GitHub, and on servers that speak its REST API."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import quote, urlsplit

from hdev_memory.backends.base import Secret
from hdev_memory.core.digest import NotCanonical, decode_object
from hdev_memory.errors import UsageError
from hdev_memory.forge.api import Api, stranger
from hdev_memory.forge.base import Comment, Place, Wish, counting, needed

API = "https://api.github.com"

EVENT_BYTES = 32 * 1024 * 1024
"""An event is at most 25 MB where GitHub delivers it."""

PER_PAGE = 100

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,100}/[A-Za-z0-9_.-]{1,100}")
_HEADERS = {"Accept": "application/vnd.github+json", "X-GitHub-Api-Version": "2022-11-28"}


class GitHub:
    """One pull request."""

    limit_bytes: ClassVar[int] = 65_536
    """The limit counts characters, of which there are never more than bytes."""

    def __init__(self, place: Place, token: Secret) -> None:
        self._api = Api(place.api, token, _HEADERS)
        self._graphql = _graphql(place.api)
        self._repository = f"/repos/{place.repository}"
        self._issue = f"{self._repository}/issues/{place.number}"

    @staticmethod
    def place(environ: Mapping[str, str], wish: Wish) -> Place:
        """From GITHUB_API_URL, GITHUB_REPOSITORY and the event in GITHUB_EVENT_PATH."""
        repository = needed(
            wish.repository or environ.get("GITHUB_REPOSITORY"),
            "which repository is meant",
            "Give --repository OWNER/NAME, or set GITHUB_REPOSITORY.",
        )
        if not _NAME.fullmatch(repository) or {".", ".."} & set(repository.split("/")):
            raise UsageError(
                "The repository's name is not one.", hint="Write it as OWNER/NAME: --repository."
            )
        number = wish.number if wish.number is not None else _number(environ)
        api = wish.api or environ.get("GITHUB_API_URL") or API
        return Place(api=api.rstrip("/"), repository=repository, number=number)

    @staticmethod
    def token(environ: Mapping[str, str]) -> Secret:
        """From GITHUB_TOKEN, else GH_TOKEN."""
        return Secret(
            needed(
                environ.get("GITHUB_TOKEN") or environ.get("GH_TOKEN"),
                "with which token GitHub is to be asked",
                "Set GITHUB_TOKEN (in a workflow: `env:` with the job's token), or GH_TOKEN.",
            )
        )

    def own_comments(self) -> Iterator[Comment]:
        """By login, which no two accounts share.

        The token of a job cannot read `/user`; GraphQL's `viewer` answers for every kind of token.
        """
        own = self._login()
        path = f"{self._issue}/comments"
        for item in self._api.pages(path, PER_PAGE):
            match item:
                case {"id": int(number), "body": str(body), "user": {"login": str(login)}}:
                    if login == own:
                        yield Comment(number=number, body=body)
                case {"id": int()}:
                    pass  # of an account that is gone, or without a text
                case _:
                    raise stranger("GET", path)

    def _login(self) -> str:
        match self._api.ask_graphql(self._graphql, "query{viewer{login}}"):
            case {"viewer": {"login": str(login)}} if login:
                return login
            case _:
                raise stranger("POST", self._graphql)

    def create(self, body: str) -> None:
        self._api.send("POST", f"{self._issue}/comments", {"body": body})

    def update(self, comment: Comment, body: str) -> None:
        path = f"{self._repository}/issues/comments/{comment.number}"
        self._api.send("PATCH", path, {"body": body})

    def set_label(self, label: str, family: Collection[str]) -> None:
        path = f"{self._issue}/labels"
        names = {name.casefold() for name in family}
        present = [name for name in self._labels(path) if name.casefold() in names]
        if label.casefold() not in (name.casefold() for name in present):
            self._api.send("POST", path, {"labels": [label]})
        for name in present:
            if name.casefold() != label.casefold():
                self._api.send("DELETE", f"{path}/{quote(name, safe='')}", absent=True)

    def _labels(self, path: str) -> Iterator[str]:
        for item in self._api.pages(path, PER_PAGE):
            name: Any = item.get("name")
            if not isinstance(name, str):
                raise stranger("GET", path)
            yield name

    def close(self) -> None:
        self._api.close()


def _graphql(api: str) -> str:
    """The path of GraphQL at the origin of the REST API: `/api/v3` has it at `/api/graphql`."""
    return urlsplit(api).path.removesuffix("/v3") + "/graphql"


def _number(environ: Mapping[str, str]) -> int:
    """The pull request of the event that started the workflow. Raises UsageError."""
    hint = "Give --number, or run it in a workflow on `pull_request`."
    path = Path(
        needed(environ.get("GITHUB_EVENT_PATH"), "which pull request is meant", hint),
    )
    try:
        with path.open("rb") as file:
            raw = file.read(EVENT_BYTES + 1)
        if len(raw) > EVENT_BYTES:
            raise NotCanonical("is too large")
        event = decode_object(raw.decode())
    except OSError as error:
        raise UsageError(
            "The event of the workflow cannot be read.", why=f"{error.strerror}.", hint=hint
        ) from None
    except UnicodeDecodeError:
        raise UsageError("The event of the workflow is not UTF-8.", hint=hint) from None
    except NotCanonical as error:
        raise UsageError(
            "The event of the workflow cannot be used.", why=f"It {error}.", hint=hint
        ) from None
    match event:
        case {"pull_request": {"number": int(number)}}:
            return counting(str(number), "pull_request.number of the event")
        case {"issue": {"number": int(number), "pull_request": dict()}}:
            return counting(str(number), "issue.number of the event")
        case _:
            raise UsageError("The event of the workflow is about no pull request.", hint=hint)
