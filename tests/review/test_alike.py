"""Names that a reader takes for one another are found, others are not."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hdev_memory.review.alike import TWINS, alike

NAMES = st.lists(st.text("aA1lI0Oorn m/\u0430", max_size=4), max_size=8, unique=True)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("people/Ann", "people/ann"),
        ("people/ann", "people/\u0430nn"),
        ("caf\u00e9", "cafe\u0301"),
        ("b111", "blll"),
        ("O", "0"),
        ("Iist", "list"),
        ("modern", "modem"),
        ("a\u200bb", "ab"),
        ("\uff21", "A"),
        ("stra\u00dfe", "strasse"),
    ],
)
def test_names_that_look_alike_are_twins(one, other):
    assert alike([one, other], []) == {one: (other,), other: (one,)}
    assert alike([one], [other, one]) == {one: (other,)}


@pytest.mark.parametrize(
    ("one", "other"), [("a", "b"), ("notes/a", "notes/b"), ("a/b", "a b"), ("n", "m"), ("é", "ê")]
)
def test_names_that_look_different_are_no_twins(one, other):
    assert alike([one], [other]) == {}


@given(NAMES, NAMES)
def test_twins_are_mutual_and_never_a_name_itself(names, others):
    found = alike(names, others)

    for name, twins in found.items():
        assert name in names
        assert name not in twins
        assert set(twins) <= {*names, *others}
        for twin in twins:
            assert twin not in names or name in found[twin]


@given(st.text(max_size=5))
def test_a_name_and_its_other_unicode_forms_are_twins(name):
    others = {unicodedata.normalize(form, name) for form in ("NFC", "NFD")} - {name}

    assert others <= set(alike([name], others).get(name, ()))


def test_who_makes_thousands_of_twins_gets_a_few_of_them():
    names = [f"{'l' * n}{'1' * (12 - n)}" for n in range(12)]

    assert all(len(twins) <= TWINS for twins in alike(names, []).values())
