"""URLs of PostgreSQL: taken apart, and written without user and password."""

import pytest

from hdev_memory.backends.postgres_url import parse

LOCATIONS = {
    "postgres://u:p%40w@Host.example.:6432/d": "postgres://host.example:6432/d",
    "postgresql://h/d?sslmode=require&schema=s": "postgres://h/d?schema=s&sslmode=require",
    "postgres:///d?host=/run/postgresql": "postgres:///d?host=/run/postgresql",
    "postgres://u@[::1]:5433/d": "postgres://[::1]:5433/d",
    "postgres://a:1,b:2/d?target_session_attrs=read-write": (
        "postgres://a:1,b:2/d?target_session_attrs=read-write"
    ),
    "postgres://h": "postgres://h/",
    "postgres://h/d%20e?schema=hdev_memory": "postgres://h/d%20e",
}


@pytest.mark.parametrize("text", LOCATIONS)
def test_the_location_has_everything_but_user_and_password(text):
    location = parse(text).location

    assert location == LOCATIONS[text]
    assert parse(location).location == location


def test_user_and_password_are_decoded_and_hidden():
    url = parse("postgres://u%3A:p%40w%2F@h/d")

    assert url.user == "u:"
    assert url.password.reveal() == "p@w/"
    assert "p@w" not in repr(url)


@pytest.mark.parametrize(
    ("text", "local"),
    [
        ("postgres://127.0.0.1:1/d", True),
        ("postgres://localhost,[::1]/d", True),
        ("postgres:///d?host=/run/postgresql", True),
        ("postgres://localhost,h/d", False),
        ("postgres:///d?host=h", False),
        ("postgres:///d", False),
    ],
)
def test_what_is_surely_on_this_machine_is_told(text, local):
    assert parse(text).local is local


ALIKE = [
    ("postgres://u@h/d", "postgresql://v:p@h:5432/d?sslmode=require"),
    ("postgres://localhost/d", "postgres://127.0.0.1:5432/d"),
    ("postgres://h/d", "postgres://h/d?schema=hdev_memory"),
    ("postgres:///d?host=h&port=5432", "postgres://h/d"),
]
OTHER = [
    ("postgres://h/d", "postgres://h:5433/d"),
    ("postgres://h/d", "postgres://h/e"),
    ("postgres://h/d", "postgres://h/d?schema=other"),
    ("postgres://h/d", "postgres://i/d"),
]


@pytest.mark.parametrize(
    ("one", "other", "alike"), [(*p, True) for p in ALIKE] + [(*p, False) for p in OTHER]
)
def test_a_place_is_the_same_by_every_way_of_writing_it(one, other, alike):
    assert (parse(one).place == parse(other).place) is alike
