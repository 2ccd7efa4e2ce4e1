"""The server does what its OpenAPI document says, for each role."""

import json

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis import checks
from tests.processes import MemoryServer

from hdev_memory.backends.ephemeral import EphemeralBackend
from hdev_memory.server import keysfile
from hdev_memory.server.app import OPENAPI, create_app

DOCUMENT = json.loads(OPENAPI.read_text())
SCHEMA = schemathesis.openapi.from_dict(DOCUMENT)
ROLES = ("read", "write", "audit", "metrics")
NO_ROLE = {"openapi", "docs", "alive", "ready", "health"}
CHECKS = [
    checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
    checks.allow_header_conformance,
]


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
        yield session


@pytest.mark.parametrize("role", ROLES)
@SCHEMA.parametrize()
@settings(
    max_examples=12,
    derandomize=True,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
def test_every_answer_is_one_that_the_document_describes(case, role, server, session):
    case.headers["Authorization"] = f"Bearer {role}"  # also where schemathesis makes up another
    answer = case.call(base_url=server.url, session=session)
    case.validate_response(answer, checks=CHECKS)
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
