"""The server does what its OpenAPI document says, for each role."""

import base64
import hashlib
import json

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, settings
from jsonschema import Draft202012Validator as Validator
from schemathesis import checks
from tests.processes import MemoryServer

from hdev_memory.backends.ephemeral import EphemeralBackend
from hdev_memory.core import protocol
from hdev_memory.core.entry import Value
from hdev_memory.core.schema import schema
from hdev_memory.server import keysfile
from hdev_memory.server.app import OPENAPI, create_app

DOCUMENT = json.loads(OPENAPI.read_text())
SCHEMA = schemathesis.openapi.from_dict(DOCUMENT)
ROLES = ("read", "write", "audit", "metrics")
NO_ROLE = {"openapi", "docs", "alive", "ready", "health"}
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


@SCHEMA.parametrize()
@settings(
    max_examples=12,
    derandomize=True,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
def test_every_answer_is_one_that_the_document_describes(case, server, session):
    """To each role; making a case up takes as long as sending it to several."""
    for role in ROLES:
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


def test_the_document_describes_every_line_as_it_is_written():
    kinds = [
        kind
        for kind in vars(protocol).values()
        if isinstance(kind, type)
        and issubclass(kind, Value)
        and kind.__module__ == protocol.__name__
    ]
    written = [kind for kind in kinds if kind is not protocol.ChangeLine]
    made = schema(written, name="lines", about="lines")["$defs"]
    text = json.dumps(made).replace("#/$defs/", "#/components/schemas/")
    described = DOCUMENT["components"]["schemas"]

    assert len(written) > 10
    for name, one in json.loads(text).items():
        assert without_words(described[name]) == without_words(one), name


def without_words(schema):
    return {name: one for name, one in schema.items() if name not in ("title", "description")}


def test_the_document_has_every_route_and_no_other():
    app = create_app(EphemeralBackend(), store_id="openapi")
    routes = {
        (route.path.replace(":path}", "}"), method.lower())
        for route in app.routes
        for method in route.methods - {"HEAD"}
    }
    described = {
        (path, method)
        for path, operations in DOCUMENT["paths"].items()
        for method in operations
        if method != "parameters"
    }

    assert described == routes


def test_every_operation_needs_a_key_or_says_that_it_needs_none():
    operations = [
        operation
        for described in DOCUMENT["paths"].values()
        for method, operation in described.items()
        if method != "parameters"
    ]
    without = {one["operationId"] for one in operations if one.get("security") == []}

    assert without == NO_ROLE
    assert {one["x-hdev-role"] for one in operations if one["operationId"] not in NO_ROLE} == set(
        ROLES
    )
    assert len({one["operationId"] for one in operations}) == len(operations)
