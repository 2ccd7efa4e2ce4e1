"""The HTTP APIs of the forges as they document themselves: a real server that records requests.

Shapes and statuses are those of GitHub's REST API (version 2022-11-28) and GitLab's v4: pages with
`Link`, 401 for a wrong token, 403 or 404 for what a token may not do or see, 422 for a text that is
too long, and rate limits with `Retry-After`.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN = "forge-token-of-the-test-3141592653"
US, STRANGER = "github-actions[bot]", "mallory"
OUR_ID, STRANGER_ID = 41898282, 666

Answer = tuple[int, Any, dict[str, str]]


@dataclass
class Request:
    method: str
    path: str
    headers: dict[str, str]
    body: Any


@dataclass
class FakeForge:
    """One change request, number 7 of `team/notes` (project 42), while the context lasts.

    `script` answers a request in the place of the API, and counts: (method, path part) -> answer.
    """

    base: str
    comments: list[dict[str, Any]] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    script: dict[tuple[str, str], Answer] = field(default_factory=dict)
    fired: list[tuple[str, str]] = field(default_factory=list)
    limit: int = 65_536
    may_write: bool = True

    def __enter__(self) -> Self:
        forge = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True  # a body would wait 40 ms for the head's acknowledgement

            def do(self) -> None:
                raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                sent = {name.lower(): text for name, text in self.headers.items()}
                request = Request(self.command, self.path, sent, json.loads(raw) if raw else None)
                forge.requests.append(request)
                status, found, headers = forge.answer(request)
                body = b"" if found is None else json.dumps(found).encode()
                self.send_response(status)
                if found is not None:
                    self.send_header("Content-Type", "application/json; charset=utf-8")
                self.send_header("Content-Length", str(len(body)))
                for name, text in headers.items():
                    self.send_header(name, text)
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST = do_PATCH = do_PUT = do_DELETE = do  # noqa: N815 - its names

            def log_message(self, *words: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.origin = f"http://127.0.0.1:{self._server.server_address[1]}"
        self.api = self.origin + self.base
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def answer(self, request: Request) -> Answer:
        path = urlsplit(request.path).path
        for (method, part), scripted in self.script.items():
            if request.method == method and part in path:
                self.fired.append((method, part))
                return scripted
        if request.headers.get("authorization") != f"Bearer {TOKEN}":
            return 401, {"message": "Bad credentials"}, {}
        if "user-agent" not in request.headers:
            return 403, {"message": "Request forbidden by administrative rules."}, {}
        if request.method != "GET" and not self.may_write and "graphql" not in path:
            return 403, {"message": "Resource not accessible by integration"}, {}
        for (method, pattern), act in self.routes().items():
            found = re.fullmatch(pattern, path)
            if method == request.method and found:
                return act(request, *found.groups())
        return 404, {"message": "Not Found"}, {}

    def routes(self) -> dict[tuple[str, str], Callable[..., Answer]]:
        raise NotImplementedError

    def page(self, request: Request, items: list[Any]) -> Answer:
        query = parse_qs(urlsplit(request.path).query)
        size = min(int(query.get("per_page", ["30"])[0]), 100)
        page = int(query.get("page", ["1"])[0])
        path = urlsplit(request.path).path
        headers = {}
        if len(items) > page * size:
            headers["Link"] = (
                f'<{self.origin}{path}?per_page={size}&page={page + 1}>; rel="next", '
                f'<{self.origin}{path}?per_page={size}&page={-(-len(items) // size)}>; rel="last"'
            )
        elif page > 1:
            headers["Link"] = f'<{self.origin}{path}?per_page={size}&page=1>; rel="first"'
        return 200, items[(page - 1) * size : page * size], headers

    def _edited(self, number: str, body: str) -> Answer:
        for comment in self.comments:
            if comment["id"] == int(number):
                comment["body"] = body
                return 200, comment, {}
        return 404, {"message": "Not Found"}, {}

    @property
    def bodies(self) -> list[str]:
        return [comment["body"] for comment in self.comments]

    def writes(self) -> list[str]:
        return [
            f"{request.method} {urlsplit(request.path).path.removeprefix(self.base)}"
            for request in self.requests
            if request.method != "GET" and "graphql" not in request.path
        ]


class FakeGitHub(FakeForge):
    """`base` may be `/api/v3`, as on a server of one's own, or empty."""

    def routes(self) -> dict[tuple[str, str], Callable[..., Answer]]:
        base = self.base
        graphql = re.escape(base.removesuffix("/v3")) + "/graphql"
        repository = f"{re.escape(base)}/repos/team/notes"
        issue = f"{repository}/issues/7"
        return {
            ("POST", graphql): lambda _: (200, {"data": {"viewer": {"login": US}}}, {}),
            ("GET", f"{issue}/comments"): lambda request: self.page(request, self.comments),
            ("POST", f"{issue}/comments"): self._create,
            ("PATCH", rf"{repository}/issues/comments/(\d+)"): self._edit,
            ("GET", f"{issue}/labels"): lambda request: self.page(
                request, [{"id": 1, "name": name} for name in self.labels]
            ),
            ("POST", f"{issue}/labels"): self._add_labels,
            ("DELETE", f"{issue}/labels/(.+)"): self._remove_label,
        }

    def put_comment(self, body: str, login: str = US) -> None:
        self.comments.append(
            {
                "id": 1000 + len(self.comments),
                "body": body,
                "user": {"login": login, "id": OUR_ID if login == US else STRANGER_ID},
            }
        )

    def _too_long(self, request: Request) -> Answer | None:
        if len(request.body["body"]) <= self.limit:
            return None
        return 422, {"message": f"Body is too long (maximum is {self.limit} characters)"}, {}

    def _create(self, request: Request) -> Answer:
        wrong = self._too_long(request)
        if wrong is None:
            self.put_comment(request.body["body"])
        return wrong or (201, self.comments[-1], {})

    def _edit(self, request: Request, number: str) -> Answer:
        return self._too_long(request) or self._edited(number, request.body["body"])

    def _add_labels(self, request: Request) -> Answer:
        self.labels += [name for name in request.body["labels"] if name not in self.labels]
        return 200, [{"id": 1, "name": name} for name in self.labels], {}

    def _remove_label(self, request: Request, name: str) -> Answer:
        if unquote(name) not in self.labels:
            return 404, {"message": "Label does not exist"}, {}
        self.labels.remove(unquote(name))
        return 200, [{"id": 1, "name": name} for name in self.labels], {}


class FakeGitLab(FakeForge):
    """Its notes come with the newest first."""

    def routes(self) -> dict[tuple[str, str], Callable[..., Answer]]:
        request = f"{re.escape(self.base)}/projects/42/merge_requests/7"
        user = {"id": OUR_ID, "username": "project_42_bot"}
        return {
            ("GET", f"{re.escape(self.base)}/user"): lambda _: (200, user, {}),
            ("GET", f"{request}/notes"): lambda asked: self.page(asked, self.comments[::-1]),
            ("POST", f"{request}/notes"): self._create,
            ("PUT", rf"{request}/notes/(\d+)"): lambda asked, number: self._edited(
                number, asked.body["body"]
            ),
            ("PUT", request): self._label,
        }

    def put_comment(self, body: str, login: str = US) -> None:
        self.comments.append(
            {
                "id": 1000 + len(self.comments),
                "body": body,
                "system": False,
                "author": {"id": OUR_ID if login == US else STRANGER_ID, "username": login},
            }
        )

    def _create(self, request: Request) -> Answer:
        self.put_comment(request.body["body"])
        return 201, self.comments[-1], {}

    def _label(self, request: Request) -> Answer:
        gone = request.body["remove_labels"].split(",")
        self.labels[:] = [name for name in self.labels if name not in gone]
        if request.body["add_labels"] not in self.labels:
            self.labels.append(request.body["add_labels"])
        return 200, {"iid": 7, "labels": self.labels}, {}
