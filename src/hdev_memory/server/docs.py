"""The OpenAPI document as one HTML page that needs nothing else and runs nothing."""

from __future__ import annotations

import base64
import hashlib
import json
from functools import cache
from importlib import resources
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

METHODS = ("get", "put", "post", "delete")


@cache
def page(document: bytes) -> tuple[str, str]:
    """The page, and the content security policy that lets nothing but its own style in."""
    folder = resources.files("hdev_memory.server").joinpath("page")
    style = folder.joinpath("page.css").read_text("utf-8")
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["pretty"] = lambda value: json.dumps(value, indent=2, ensure_ascii=False)
    environment.filters["compact"] = lambda value: json.dumps(value, ensure_ascii=False)
    template = environment.from_string(folder.joinpath("page.html.j2").read_text("utf-8"))
    described = json.loads(document)
    components = described["components"]
    text = template.render(
        style=Markup(style),  # noqa: S704 - a file of ours
        title=described["info"]["title"],
        description=described["info"]["description"],
        operations=list(_operations(described)),
        schemas=components["schemas"],
    )
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )
    return text, policy


def _operations(described: dict[str, Any]) -> list[dict[str, Any]]:
    """Each operation, with what it refers to in place of the references."""
    components = described["components"]
    found = []
    for path, methods in described["paths"].items():
        for method in METHODS:
            if method not in methods:
                continue
            operation = methods[method]
            parameters = [*methods.get("parameters", ()), *operation.get("parameters", ())]
            found.append(
                {
                    "method": method.upper(),
                    "path": path,
                    "id": operation["operationId"],
                    "summary": operation["summary"],
                    "description": operation.get("description", ""),
                    "role": operation.get("x-hdev-role"),
                    "parameters": [_resolved(each, components) for each in parameters],
                    "body": _content(operation.get("requestBody", {})),
                    "answers": {
                        status: {
                            "description": (one := _resolved(each, components))["description"],
                            "headers": list(one.get("headers", {})),
                            "content": _content(one),
                        }
                        for status, each in operation["responses"].items()
                    },
                }
            )
    return found


def _resolved(value: dict[str, Any], components: dict[str, Any]) -> dict[str, Any]:
    """A component in place of `#/components/KIND/NAME`."""
    if "$ref" not in value:
        return value
    *_, kind, name = value["$ref"].split("/")
    found: dict[str, Any] = components[kind][name]
    return found


def _content(value: dict[str, Any]) -> list[dict[str, Any]]:
    """Each type that a body may have, with its schema or the name of it."""
    found = []
    for kind, described in value.get("content", {}).items():
        schema = described.get("schema", {})
        name = schema["$ref"].rpartition("/")[2] if "$ref" in schema else None
        found.append({"type": kind, "name": name, "schema": schema})
    return found
