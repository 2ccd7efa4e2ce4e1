"""Canonical JSON and its limits."""

import json

import msgspec
import pytest
import rfc8785
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.conftest import examples

from hdev_memory.core.digest import (
    Digest,
    NamedDigest,
    NotCanonical,
    canonical_all_plain,
    canonical_json,
    canonical_plain,
    decode_all_plain,
    decode_object,
    decode_plain,
    named,
    sha256,
)
from hdev_memory.core.entry import Normalisation, tag_of

NORMAL = Normalisation()

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


# Pieces of objects: keys come twice, colons stand in texts and escapes, and some pieces are wrong.
keys = st.sampled_from(['"a"', '"b"', '"a"', '":"', '"a:b"', '"\\u003a"', '"\\u0061"', '"ä"', '""'])
parts = st.sampled_from(
    ['"x"', '"x:y"', '"::"', '"\\u003a"', "1", "-0", "1.0", "1e3", "-0.0", "9007199254740991"]
    + [
        "9007199254740992",
        "1.5",
        "-2.5e-7",
        "123456789012345678901234567890",
        "true",
        "null",
        "[]",
        '["a:", "b"]',
    ]
    + ["[1]", "{}", '{"a":1}', '{"a":1,"a":2}', '"\\ud800"', '"\\\\"', '"\x7f"', '"\\u0022"']
    + ['{"a":"b","a":"b"}', '[{"b":"\\""}]', '{"b":{"a":1,"a":1}}', '"\\""', '"\\\\u0022"', '"ü"']
)
blanks = st.sampled_from(["", "", "", " ", "\n  "])
wrong = st.sampled_from(["NaN", "01", "'x'", '"\t"', "a", '"x" "y"', "1\x0b"])
members = st.builds("{2}{0}{3}:{4}{1}".format, keys, parts, blanks, blanks, blanks)
some = st.lists(members, max_size=4) | st.lists(st.builds('"a":{}'.format, parts | wrong))
objects = st.builds("{{{0}}}{1}".format, some.map(",".join), blanks)


@settings(max_examples=examples(250))
@given(objects | st.dictionaries(st.text(), values, max_size=4).map(json.dumps))
def test_what_is_read_fast_is_what_the_strict_decoder_reads(text):
    fast = decode_plain(text.encode())

    if fast is not None:
        strict = decode_object(text)
        assert fast == strict
        assert list(map(repr, fast.items())) == list(map(repr, strict.items()))
        assert canonical_plain(fast) == canonical_json(fast) == canonical_json(strict)
        assert canonical_json(NORMAL.metadata(fast)) == canonical_json(NORMAL.metadata(strict))
        assert tag_of(b"", fast) == tag_of(b"", fast) == tag_of(b"", strict)


@pytest.mark.parametrize(
    "text",
    [
        '{"a": "x", "b": ["y", "z"], "n": -7, "t": true, "u": null}',
        '{"at": "2026-11-24T22:05:00Z", "url:": "https://host:80/", "l": ["a:b"]}',
        "{}",
        '{"source": {"tool": "chat", "turn": 7}, "at": "22:05", "l": [{"b": ["c"]}, "d"]}',
        '{"ä": [0.5, -0.0, 1.0, 1e-7, 2.5e-8, {"b": 1e3}], "z": "e-7", "a": "v1.5, :1.5"}',
        '{"title": "🚀 \\u00dcberblick \\"a\\" → b", "n": {"m": {"k": ["v"]}}}',
    ],
)
def test_plain_metadata_is_read_fast(text):
    assert decode_plain(text.encode()) == decode_object(text)


@given(st.lists(st.dictionaries(st.text(), values, max_size=4).map(json.dumps), max_size=5))
def test_many_are_read_and_written_as_each_alone(texts):
    found = decode_all_plain([text.encode() for text in texts])

    if found is not None:
        assert found == [decode_object(text) for text in texts]
        assert canonical_all_plain(found) == [canonical_json(decode_object(t)) for t in texts]


@pytest.mark.parametrize(
    "text",
    ['{"a":1,"a":2}', '{"a":":","a":1}', '{"a":1,"a":"\\u003a"}', '{"a":1,"a" :2}', '{"a":1e15}']
    + ['{"a":1,"a":2,"b":"\\u0022\\u0022"}', '{"b":{"a":1,"a":2}}', '{"a":9007199254740993}']
    + [
        '{"b":[{"a":1,"a":1}],"c":":"}',
        '{"a":"\\ud800"}',
        '{"b":{"\\ue000":1,"\\ud83d\\ude00":2}}',
    ],
)
def test_what_needs_the_strict_decoder_is_left_to_it(text):
    assert decode_plain(text.encode()) is None


@pytest.mark.parametrize("kind", [Digest, NamedDigest])
@pytest.mark.parametrize("around", ["{}\n", "\n{}", " {}", "{}0", "{}x"])
def test_nothing_stands_before_or_behind_a_digest(kind, around):
    text = sha256(b"") if kind is Digest else named(sha256(b""))

    assert msgspec.convert(text, kind) == text
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(around.format(text), kind)
