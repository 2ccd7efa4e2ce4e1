"""The server does what its OpenAPI document says, for each role."""

import json
from pathlib import Path

import pytest
from tests.processes import pytest_alone

from hdev_memory.backends.ephemeral import EphemeralBackend
from hdev_memory.core import protocol
from hdev_memory.core.entry import Value
from hdev_memory.core.schema import schema
from hdev_memory.server.app import OPENAPI, create_app

DOCUMENT = json.loads(OPENAPI.read_text())
OPERATIONS = {
    (path, method): operation
    for path, operations in DOCUMENT["paths"].items()
    for method, operation in operations.items()
    if method != "parameters"
}
ROLES = {"read", "write", "audit", "metrics"}
NO_ROLE = {"openapi", "docs", "alive", "ready", "health"}


@pytest.mark.long
def test_every_answer_is_one_that_the_document_describes(tmp_path):
    """In a process of its own; see openapi_cases.py."""
    cases = Path(__file__).with_name("openapi_cases.py")
    done = pytest_alone(tmp_path / "base", "-p", "schemathesis.pytest.plugin", cases)

    assert done.returncode == 0, done.stdout + done.stderr
    assert f"\n{len(OPERATIONS)} passed" in done.stdout


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

    assert OPERATIONS.keys() == routes


def test_every_operation_needs_a_key_or_says_that_it_needs_none():
    operations = OPERATIONS.values()
    without = {one["operationId"] for one in operations if one.get("security") == []}

    assert without == NO_ROLE
    assert {one["x-hdev-role"] for one in operations if one["operationId"] not in NO_ROLE} == ROLES
    assert len({one["operationId"] for one in operations}) == len(operations)
