"""The line of every name, however TOML lets it be written."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hdev_memory.core.tomllines import lines_of

CASES = {
    "a table": ("\n[rules.a]\nlimit = 1\n", ("rules", "a", "limit"), 3),
    "a quoted key": ('x = 1\n"a b" = 2\n', ("a b",), 2),
    "a literal key": ("x = 1\n'a.b' = 2\n", ("a.b",), 2),
    "an escaped key": ('x = 1\n"\\u0061" = 2\n', ("a",), 2),
    "a dotted key": ("x = 1\nrules.a.level = 2\n", ("rules", "a", "level"), 2),
    "spaces around dots": ("\n[ rules . 'a' ]\nlevel = 2\n", ("rules", "a", "level"), 3),
    "an inline table": ('x = 1\nrules = { a = { level = "s" } }\n', ("rules", "a", "level"), 2),
    "an inline table in a table": ("[rules]\n\na = { b = 1, c = 2 }\n", ("rules", "a", "c"), 3),
    "behind a list of lines": ("a = [\n 1,\n # ]\n 2,\n]\nb = 1\n", ("b",), 6),
    "behind a list of tables": ("a = [{ b = 1 },\n { c = 2 }]\nb = 1\n", ("b",), 3),
    "behind a long text": ('a = """\nb = 0\n[c]\n"""\nb = 1\n', ("b",), 5),
    "behind a long literal": ("a = '''\nb = 0\n'''\nb = 1\n", ("b",), 4),
    "behind a comment": ("# b = 0\nb = 1 # c = 2\n", ("b",), 2),
    "behind a text with marks": ('a = "[}=#"\nb = 1\n', ("b",), 2),
    "behind an escaped quote": ('a = "\\"\\\\"\nb = 1\n', ("b",), 2),
    "a list of tables": ("[[a]]\nb = 1\n[[a]]\nc = 2\n", ("a", "c"), 4),
    "line ends of CRLF": ("a = 1\r\nb = 2\r\n", ("b",), 2),
    "a date behind a name": ("a = 1979-05-27 07:32:00\nb = 1.5\nc = 1\n", ("c",), 3),
}


@pytest.mark.parametrize("case", CASES)
def test_a_name_is_found_on_its_line(case):
    text, path, line = CASES[case]
    tomllib.loads(text)

    assert lines_of(text)[path] == line


NAMES = st.text("ab.\"' #=[]{}é", min_size=1, max_size=4)
TREES: Any = st.recursive(
    st.one_of(st.integers(), st.booleans(), st.text("a'\"\n#=[]{}", max_size=6)),
    lambda inner: st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=8,
)


def quoted(text: str) -> str:
    import json

    return json.dumps(text, ensure_ascii=False)


def written(tree: dict[str, Any], above: tuple[str, ...] = ()) -> str:
    """A TOML document with one table for each level, every name quoted."""
    plain = {name: item for name, item in tree.items() if not isinstance(item, dict)}
    text = f"[{'.'.join(map(quoted, above))}]\n" if above else ""
    for name, item in plain.items():
        value = quoted(item) if isinstance(item, str) else str(item).lower()
        text += f"{quoted(name)} = {value}\n"
    for name, item in tree.items():
        if isinstance(item, dict):
            text += written(item, (*above, name))
    return text


def paths(tree: dict[str, Any], above: tuple[str, ...] = ()) -> set[tuple[str, ...]]:
    found = {(*above, name) for name in tree}
    for name, item in tree.items():
        if isinstance(item, dict):
            found |= paths(item, (*above, name))
    return found


@given(st.dictionaries(NAMES, TREES, max_size=4))
def test_every_name_of_a_document_has_a_line_that_holds_it(tree):
    text = written(tree)
    assert tomllib.loads(text) == tree
    found = lines_of(text)

    assert set(found) == paths(tree)
    for path, line in found.items():
        assert quoted(path[-1]) in text.split("\n")[line - 1]
