"""Canonical JSON and its limits."""

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from hdev_memory.core.digest import NotCanonical, canonical_json, decode_object

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats()
    | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.text(st.characters()), values, max_size=5))
def test_canonical_metadata_equals_rfc8785_or_is_refused_where_that_refuses(value):
    try:
        expected = rfc8785.dumps(value)
    except rfc8785.CanonicalizationError:
        expected = None

    if expected is None:
        with pytest.raises(NotCanonical):
            canonical_json(value)
    else:
        assert canonical_json(value) == expected


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('{"a":1,"a":2}', "twice"),
        ('{"a":{"b":1,"b":1}}', "twice"),
        ('{"a":NaN}', "NaN"),
        ("[1]", "not a JSON object"),
        ("{", "not valid JSON"),
        ('{"a":' + "[" * 100_000 + "]" * 100_000 + "}", "nested"),
    ],
)
def test_decode_object_refuses(text, why):
    with pytest.raises(NotCanonical, match=why):
        decode_object(text)


@pytest.mark.parametrize("value", [{"a": "\ud800"}, {"a": 2**53}, {"a": float("inf")}])
def test_values_without_a_canonical_form_are_refused(value):
    with pytest.raises(NotCanonical):
        canonical_json(value)


def test_nesting_beyond_the_limit_is_refused():
    value = {}
    for _ in range(70):
        value = {"a": value}

    with pytest.raises(NotCanonical, match="nested"):
        canonical_json(value)
