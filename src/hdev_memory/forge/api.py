"""Requests to a forge's API: pages of a list, and what its refusals mean, in our own words."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from hdev_memory.backends.base import Secret, Where
from hdev_memory.backends.http_transport import (
    Answer,
    Limits,
    RequestFailed,
    Transport,
    failure,
    short,
)
from hdev_memory.errors import BackendError, KeyRefusedError, UsageError

PAGES = 100
"""More pages of comments are not read: 10,000 comments, or somebody who never ends."""

LIMITS = Limits(answer_bytes=128 * 1024 * 1024, values=1_000_000)
"""A page of a hundred comments, each as long as it may be, with every character escaped."""

_NEXT = re.compile(r'<[^<>]*>[^<>,]*;\s*rel="?next"?(?:[\s;,]|$)')


class Api:
    """One forge's API with one token; paths begin behind the origin."""

    def __init__(self, api: str, token: Secret, headers: dict[str, str]) -> None:
        """Raises UsageError for an address that is none, or where the token would be read."""
        url = urlsplit(api)
        if url.scheme not in ("http", "https") or not url.hostname or "@" in url.netloc:
            raise UsageError(
                "The address of the forge's API is not one.",
                why="It needs http or https and a host, and neither a name nor a password.",
                hint="Give it with --api, as https://HOST/PATH.",
            )
        self._path = url.path.rstrip("/")
        self._token = token
        # A forge may take its time to connect: nobody waits at a terminal.
        where = Where(
            kind="http",
            location=f"{url.scheme}://{url.netloc}",
            key=token,
            handshake=10.0,
            parallelism=1,
        )
        self._transport = Transport(where, LIMITS)
        self._headers = {"User-Agent": "hdev-memory", **headers}

    def close(self) -> None:
        self._transport.close()

    def get(self, path: str) -> dict[str, Any]:
        """The object at a path of the API."""
        return self._done("GET", path, self._asked("GET", self._path + path)).body

    def pages(self, path: str, per_page: int) -> Iterator[dict[str, Any]]:
        """The objects of a list, over all its pages.

        Only whether a next page is announced counts, never its address: no answer chooses where the
        token goes.
        """
        for page in range(1, PAGES + 1):
            target = f"{path}?per_page={per_page}&page={page}"
            answer = self._done(
                "GET", target, self._asked("GET", self._path + target, arrays=True), array=True
            )
            for item in answer.items:
                if not isinstance(item, dict):
                    raise stranger("GET", path)
                yield item
            if answer.link is None or not _NEXT.search(answer.link):
                return
        raise BackendError(
            "The change request has more comments than are looked through.",
            why=f"{PAGES} pages were read, and another one is announced.",
            hint="Open a new one.",
        )

    def send(
        self, method: str, path: str, body: dict[str, Any] | None = None, *, absent: bool = False
    ) -> None:
        """A write, sent once; `absent` takes it as done where what it is about is not there."""
        answer = self._asked(method, self._path + path, body=body)
        if not (absent and answer.status == 404):
            self._done(method, path, answer, written=True)

    def ask_graphql(self, path: str, query: str) -> dict[str, Any]:
        """The `data` of a query; `path` begins at the origin."""
        answer = self._done("POST", path, self._asked("POST", path, body={"query": query}))
        data = answer.body.get("data")
        if not isinstance(data, dict):
            raise stranger("POST", path)
        return data

    def _asked(self, method: str, target: str, *, body: Any = None, arrays: bool = False) -> Answer:
        try:
            if method == "GET":
                return self._transport.get(target, headers=self._headers, arrays=arrays)
            return self._transport.request(
                method, target, body=body, headers=self._headers, arrays=True
            )
        except KeyRefusedError as error:
            raise KeyRefusedError(
                "The forge refused the token.",
                why=self._told(error.why),
                hint="Check that the job gets a token, and that it has not expired.",
            ) from None
        except RequestFailed as error:
            raise BackendError(
                "The forge cannot be reached, or gives no answer that can be used.",
                why=self._told(f"{error}."),
                hint="Run it again; if it was a write, that finds what was done already.",
            ) from None

    def _done(
        self, method: str, path: str, answer: Answer, *, written: bool = False, array: bool = False
    ) -> Answer:
        """The answer, where it is what was asked for."""
        if not 200 <= answer.status < 300:
            said = answer.body.get("message") or answer.body.get("error") or "no reason given"
            why = failure(method, path, f"{answer.status} {said}")
            raise _refused(answer, self._told(f"{why}."))
        if answer.flaw and not written:
            raise stranger(method, path, answer.flaw)
        if array == bool(answer.body) and not written:
            raise stranger(method, path)
        return answer

    def _told(self, text: str) -> str:
        """What the forge says, without the token, should it send it back."""
        return text.replace(self._token.reveal(), "***")


def stranger(method: str, path: str, flaw: str = "is not what its API documents") -> BackendError:
    """What to say of an answer that no forge would give."""
    return BackendError(
        "The forge answers in a way that is not known.",
        why=f"{failure(method, path, f'the answer {flaw}')}.",
        hint="Check the address of the API: --api, or what the pipeline's environment says.",
    )


def _refused(answer: Answer, why: str) -> BackendError:
    match answer.status:
        case 403 | 429 if answer.retry_after is not None:
            return BackendError(
                "The forge takes no more requests for now.",
                why=why,
                hint=f"Run it again in {short(answer.retry_after)} seconds.",
            )
        case 429:
            return BackendError(
                "The forge takes no more requests for now.", why=why, hint="Run it again later."
            )
        case 403:
            return KeyRefusedError(
                "The token may not do that.",
                why=why,
                hint="Give the job the permission to write to pull requests (GitHub: "
                "`pull-requests: write`, and `issues: write` to make a label that is not there "
                "yet; GitLab: scope `api`). A pull request of a fork gets none.",
            )
        case 404:
            return BackendError(
                "The forge does not show this change request to the token.",
                why=why,
                hint="Check --repository and --number, and what the token may read.",
            )
        case 301 | 302 | 303 | 307 | 308:
            return BackendError(
                "The forge redirects a request that must not be.",
                why=why,
                hint="The repository has moved? Give its present name with --repository.",
            )
        case _:
            return BackendError(
                "The forge refused the request.", why=why, hint="Run it again, or see its status."
            )
