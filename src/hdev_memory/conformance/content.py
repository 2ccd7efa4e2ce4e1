"""Checks that content comes back byte for byte."""

from __future__ import annotations

from hdev_memory.conformance.subject import Subject, same


def _comes_back(subject: Subject, *contents: bytes) -> None:
    for number, content in enumerate(contents):
        subject.made(f"c{number}", content)
    for number, content in enumerate(contents):
        subject.stands(f"c{number}", content)


def empty_content(subject: Subject) -> None:
    _comes_back(subject, b"")
    same(len(subject.listed()), 1, "the number of entries listed")


def byte_order_mark(subject: Subject) -> None:
    _comes_back(subject, b"\xef\xbb\xbfbom\n", b"\xef\xbb\xbf", b"a\xef\xbb\xbfb")


def blanks_at_the_ends(subject: Subject) -> None:
    _comes_back(subject, b"no newline", b"one\n", b"two\n\n", b"\n", b" ", b"\ta \n ", b"\n---\n")


def line_ends(subject: Subject) -> None:
    sent = b"a\r\nb\rc\n\r\n"
    subject.made("a", sent)
    found = subject.entry("a").content
    subject.observe("line_ends", "exact" if found == sent else "changed")
    if subject.capabilities.line_ends == "exact":
        same(found, sent, "the content (line ends are declared `exact`)")
        return
    if found == sent:
        subject.note("line ends are declared `lf`, and came back exactly")
    same(subject.normalisation.content(found), b"a\nb\nc\n\n", "the content, with LF line ends")


def every_script(subject: Subject) -> None:
    _comes_back(
        subject,
        "astral \U0001f600 e\u0301 \u00e9 \u202e\u2028\u2029\u0085\ufeff end".encode(),
        b"nul \0 escape \x1b[31m bell \x07 delete \x7f",
        b'{"content": "\\u0041\\n", "success": false}',
    )


def large_content(subject: Subject) -> None:
    size = min(1 << 20, subject.capabilities.max_entry_bytes or 1 << 20)
    line = b"%07d\n"
    content = b"".join(line % number for number in range(size // 8))[:size]
    _comes_back(subject, content)
