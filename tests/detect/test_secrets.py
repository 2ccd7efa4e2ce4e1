"""Secrets are found by kind and line, in process and offline, and never quoted."""

from __future__ import annotations

import socket
import subprocess
import sys

import pytest

from hdev_memory.core.rules import Secrets
from hdev_memory.detect import secrets

TOKEN = "ghp_" + "0123456789abcdefABCDEF0123456789abcd"
FOUND = {
    "a token": (f"x\nthe token is {TOKEN}.", 2, "GitHub Token", TOKEN),
    "a key of a cloud": ("AKIA" + "IOSFODNN7EXAMPLA", 1, "AWS Access Key", "IOSFODNN7"),
    "a password behind its name": ("password: hunter2hunter2", 1, "Secret Keyword", "hunter2"),
    "a password in quotes": ('"password": "hunter2"', 1, "Secret Keyword", "hunter2"),
    "a user's password in a URL": ("https://ann:tr0ub4dor@x.example", 1, "Basic Auth", "tr0ub4dor"),
    "a private key": ("a\n-----BEGIN OPENSSH " + "PRIVATE KEY-----", 2, "Private Key", "BEGIN"),
    "at the end of a long line": ("a" * 100_000 + f" {TOKEN}", 1, "GitHub Token", TOKEN),
    "across the cut of a long line": ("a" * 3560 + f" {TOKEN} " + "b" * 9000, 1, "GitHub", TOKEN),
}
CLEAN = (
    "Ann's password is in the safe.",
    "password: ${PASSWORD}",
    "password: <from the vault>",
    f"sha256 '{'0123456789abcdef' * 4}'",
    "The server is 192.0.2.1 and 8.8.8.8.",
    "",
)


@pytest.mark.parametrize("case", FOUND)
def test_it_is_found_and_not_quoted(case):
    text, line, kind, secret = FOUND[case]
    hits = list(secrets.detector(Secrets())(text))

    assert any(hit.line == line and kind in hit.what for hit in hits)
    assert [hit for hit in hits if secret in hit.what] == []


@pytest.mark.parametrize("text", CLEAN)
def test_harmless_text_is_left_alone(text):
    assert list(secrets.detector(Secrets())(text)) == []


def test_what_only_looks_random_is_found_where_a_policy_asks():
    text = f"sha256 '{'0123456789abcdef' * 4}'"

    assert list(secrets.detector(Secrets(entropy=True))(text)) != []


SLOW = ("password", "password: '", "password" + " " * 60, "eyJ.", "AKIA", "https://a:")


@pytest.mark.parametrize("piece", SLOW)
def test_no_text_makes_a_pattern_slow(piece):
    """It would run into the test's time limit: what cannot be looked into in time is told."""
    hits = list(secrets.detector(Secrets())(piece * (60_000 // len(piece))))

    assert bool(hits) or "password" not in piece or piece.endswith(" ")


def test_nothing_is_asked_of_the_network(monkeypatch):
    def refuse(*arguments: object) -> None:
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    hits = [hit for text, *_ in FOUND.values() for hit in secrets.detector(Secrets())(text)]

    assert hits


def test_two_processes_find_the_same_in_the_same_order():
    program = (
        "from hdev_memory.core.rules import Secrets\n"
        "from hdev_memory.detect import secrets\n"
        f"print(list(secrets.detector(Secrets())({FOUND['a token'][0]!r} + '\\npassword: a1b2c3')))"
    )
    said = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
            timeout=50,
        ).stdout
        for seed in ("1", "2")
    }

    assert len(said) == 1
