"""JSON Schemas (draft 2020-12) of what is written for programs, made from its Structs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from inspect import cleandoc
from typing import Any

import msgspec
from msgspec import inspect

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def schema(kinds: Sequence[type[msgspec.Struct]], *, name: str, about: str) -> dict[str, Any]:
    """The schema of a JSON object that is exactly one of `kinds`.

    `name` is the version of the format, as in `hdev-plan/1`, and makes the `$id`. It tells what is
    written, which is less than what could be read: a member that has a default is always there, or
    never with its default, as its Struct has it. Two Structs of one name are a mistake in the code.
    """
    roots, components = msgspec.json.schema_components(kinds)
    structs = _structs(inspect.multi_type_info(kinds), {})
    assert len(structs) == len({kind.__name__ for kind in structs}), "two Structs of one name"
    for kind in structs:
        if kind.__struct_config__.omit_defaults:
            _forbid_defaults(components[kind.__name__])
        else:
            _require_all(components[kind.__name__])
    return {
        "$schema": DIALECT,
        "$id": f"urn:hdev-memory:{name}",
        "title": name,
        "description": cleandoc(about),
        **(roots[0] if len(roots) == 1 else {"oneOf": list(roots)}),
        "$defs": {name: _tidy(components[name]) for name in sorted(components)},
    }


def _forbid_defaults(component: dict[str, Any]) -> None:
    """A member that has its default is left out, and its schema says what that means."""
    for member in component["properties"].values():
        if "default" in member:
            member["not"] = {"const": member["default"]}


def _require_all(component: dict[str, Any]) -> None:
    """Every member but those that may be unset, which have no default here."""
    required = component["required"]
    for name, member in component["properties"].items():
        if "default" in member:
            del member["default"]
            required.append(name)


def _tidy(value: Any) -> Any:
    """In the words of JSON Schema, where msgspec has those of OpenAPI and of Python."""
    match value:
        case dict():
            # Strict validators refuse a `discriminator`.
            return {n: _member(n, item) for n, item in value.items() if n != "discriminator"}
        case list():
            return [_tidy(item) for item in value]
        case _:
            return value


def _member(name: str, value: Any) -> Any:
    match name, value:
        case "description", str():
            return cleandoc(value)
        case "pattern", str():
            return _portable(value)
        case _:
            return _tidy(value)


def _portable(pattern: str) -> str:
    r"""As ECMA-262 has it, which knows no `\A` and `\Z`; its `^` and `$` are these."""
    return re.sub(r"^\\A", "^", re.sub(r"\\Z$", "$", pattern))


_Structs = dict[type[msgspec.Struct], None]


def _structs(kinds: Iterable[inspect.Type], found: _Structs) -> _Structs:
    """Every Struct that these types are made of."""
    for kind in kinds:
        match kind:
            case inspect.StructType():
                if kind.cls not in found:
                    found[kind.cls] = None
                    _structs((field.type for field in kind.fields), found)
            case inspect.Metadata(type=inner):
                _structs([inner], found)
            case inspect.CollectionType(item_type=inner) | inspect.DictType(value_type=inner):
                _structs([inner], found)
            case inspect.UnionType(types=several):
                _structs(several, found)
            case _:
                pass  # a leaf; tuples of a fixed length are written nowhere
    return found
