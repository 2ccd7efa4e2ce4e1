"""The requests that Schemathesis makes up from the OpenAPI document; test_openapi.py runs them.

No part of the suite by itself: each of its processes would make them up when it looks for tests.
"""

import base64
import hashlib
import itertools
import json

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, settings
from jsonschema import Draft202012Validator as Validator
from schemathesis import checks
from tests.processes import MemoryServer

from hdev_memory.server import keysfile
from hdev_memory.server.app import OPENAPI

DOCUMENT = json.loads(OPENAPI.read_text())
SCHEMA = schemathesis.openapi.from_dict(DOCUMENT)
ROLES = ("read", "write", "audit", "metrics")
NDJSON = "application/x-ndjson"
CHECKS = [
    checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
    checks.allow_header_conformance,
]


@schemathesis.serializer(NDJSON)
def ndjson(context, value):
    """A line for each item, the head first and with the count of the others, where there is one."""
    items = value if isinstance(value, list) else [value]
    heads = [item for item in items if isinstance(item, dict) and "changes" in item]
    lines = [item for item in items if item not in heads]
    if heads and isinstance(heads[0]["changes"], int):
        heads = [{**heads[0], "changes": len(lines)}]
    return b"".join(json.dumps(item).encode() + b"\n" for item in [*heads, *lines])


def signed(request):
    """Give a batch the digest that it has; in others no header is missing or wrong at random."""
    if request.url.endswith("/write") and isinstance(request.body, bytes):
        digest = base64.b64encode(hashlib.sha256(request.body).digest()).decode()
        request.headers["Content-Digest"] = f"sha-256=:{digest}:"
    return request


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    place = tmp_path_factory.mktemp("openapi")
    for role in ROLES:
        keysfile.add(place / "keys.json", role, (role,), role, "2020-01-01T00:00:00Z", None)
    flags = ("--keys-file", str(place / "keys.json"), "--log-level", "critical")
    with MemoryServer(place / "store", None, *flags) as running:
        yield running


@pytest.fixture(scope="module")
def session():
    with requests.Session() as session:
        session.trust_env = False
        session.auth = signed
        yield session


TURN = itertools.cycle(range(len(ROLES)))


@SCHEMA.parametrize()
@settings(
    max_examples=6,
    derandomize=True,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
def test_every_answer_is_one_that_the_document_describes(case, server, session):
    """To two roles in turn; making a case up takes as long as sending it to several."""
    first = next(TURN)
    for role in (ROLES[first], ROLES[first - 1]):
        case.headers["Authorization"] = f"Bearer {role}"  # also where schemathesis makes up another
        check(case, role, case.call(base_url=server.url, session=session))


def check(case, role, answer):
    """The answer is as described, and to whom it is refused."""
    case.validate_response(answer, checks=CHECKS)
    if answer.headers.get("Content-Type") == NDJSON:
        check_lines(case.operation, answer)
    needed = case.operation.definition.raw.get("x-hdev-role")
    # Other methods are sent on purpose, to be 405; a line break in a path is 404 to anybody.
    described = case.method == case.operation.method.upper() and answer.status_code != 404
    sent = "Authorization" in answer.request.headers

    assert answer.status_code not in (401, 403) or needed is not None
    if described and needed is not None:
        assert (answer.status_code == 401) == (not sent)
    if described and needed is not None and sent:
        allowed = needed == role or (needed, role) == ("read", "write")
        assert (answer.status_code == 403) == (not allowed)


def check_lines(operation, answer):
    """An answer of lines is as described, from the head to the end that proves it whole."""
    described = operation.definition.raw["responses"]["200"]["content"][NDJSON]["schema"]
    lines = answer.content.splitlines(keepends=True)
    items = [json.loads(line) for line in lines]

    Validator({**described, "components": DOCUMENT["components"]}).validate(items)
    assert items[-1]["end"] is True
    assert items[-1]["entries"] == len(items) - 2
    assert items[-1]["digest"] == hashlib.sha256(b"".join(lines[:-1])).hexdigest()
