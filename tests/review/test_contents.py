"""Differences of contents: what is shown gives both contents back, within bounds, inert."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.review.plans import HOSTILE_SOURCE, HOSTILE_TARGET

from hdev_memory.review import contents
from hdev_memory.review.contents import compare
from hdev_memory.review.inert import inert

WORDS = st.sampled_from(
    ["a", ":", "##", "[", "b", "ab ab", "", " ", "x  ", "\\", "\r", "\u202e", "é", "\\u{20}"]
)
TEXT = st.lists(st.lists(WORDS, max_size=4).map("".join), max_size=12).flatmap(
    lambda lines: st.sampled_from(["\n".join(lines), "\n".join(lines) + "\n"])
)
ENOUGH = {"max_lines": 10_000, "max_chars": 10_000}


def plain(shown):
    """The text whose inert form this is."""
    return re.sub(
        r"\\\\|\\u\{([0-9a-f]+)\}",
        lambda found: "\\" if found[0] == "\\\\" else chr(int(found[1], 16)),
        shown,
    )


def side(change, mark):
    """What the shown lines say of one side: number -> line with its end."""
    found = {}
    for hunk in change.hunks:
        last = None
        for line in hunk.lines:
            if line.mark == "\\":
                if last is not None:
                    found[last] = found[last].removesuffix("\n")
                continue
            last = None
            if line.mark in (" ", mark):
                last = line.before if mark == "-" else line.after
                found[last] = plain(line.text) + "\n"
    return found


def shown_lines(change):
    return [line for hunk in change.hunks for line in hunk.lines if line.mark != "\\"]


@given(TEXT, TEXT)
def test_the_blocks_of_a_difference_are_both_contents(before, after):
    for limit in (40_000, 10, 0):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(contents, "MATCHED", limit)
            old, new = contents._lines(before), contents._lines(after)
            blocks = contents._blocks(old, new)

        assert [line for b in blocks for line in old[b.a1 : b.a2]] == old
        assert [line for b in blocks for line in new[b.b1 : b.b2]] == new
        assert all(old[b.a1 : b.a2] == new[b.b1 : b.b2] for b in blocks if b.same)


@given(TEXT, TEXT)
def test_what_is_shown_can_be_read_back_line_by_line(before, after):
    """So no two changes look the same as far as they are shown."""
    change = compare(before, after, **ENOUGH)
    old, new = contents._lines(before), contents._lines(after)

    assert change.left == 0
    for mark, lines in (("-", old), ("+", new)):
        for number, line in side(change, mark).items():
            assert lines[number - 1] == line
    removed = {line.before for line in shown_lines(change) if line.mark == "-"}
    added = {line.after for line in shown_lines(change) if line.mark == "+"}
    assert [line for number, line in enumerate(old, 1) if number not in removed] == [
        line for number, line in enumerate(new, 1) if number not in added
    ]
    assert (change.removed, change.added) == (len(removed), len(added))


@given(TEXT, TEXT)
def test_whole_contents_that_differ_are_never_shown_alike(one, other):
    """An entry that comes, and one that goes."""
    assert (compare(None, one, **ENOUGH) == compare(None, other, **ENOUGH)) == (one == other)
    assert (compare(one, None, **ENOUGH) == compare(other, None, **ENOUGH)) == (one == other)


@given(TEXT, TEXT, st.integers(0, 6), st.integers(1, 5))
def test_a_difference_keeps_within_its_lines_and_counts_the_others(before, after, lines, chars):
    whole = compare(before, after, **ENOUGH)
    cut = compare(before, after, max_lines=lines, max_chars=chars)

    assert sum(len(hunk.lines) for hunk in cut.hunks) <= lines
    assert cut.left == len(shown_lines(whole)) - len(shown_lines(cut))
    assert (cut.removed, cut.added) == (whole.removed, whole.added)
    assert all(len(line.text) <= chars for line in shown_lines(cut))


@given(TEXT, st.integers(0, 40))
def test_a_line_that_is_cut_says_by_how_much_and_never_ends_in_half_an_escape(text, chars):
    line = text.replace("\n", "")
    change = compare(None, f"{line}\n", max_lines=9, max_chars=chars)
    (shown,) = shown_lines(change)
    left = len(compare(None, f"{line}\n", **ENOUGH).hunks[0].lines[0].text) - len(shown.text)

    assert line.startswith(plain(shown.text))
    remarks = [line.text for line in change.hunks[0].lines if line.mark == "\\"]
    assert remarks == ([f" {left} more characters of this line are not shown"] if left else [])


@given(st.text() | st.text("ab .\u2003\x1c\x85"))
def test_words_with_a_space_between_are_no_more_than_what_a_line_is_cut_into(line):
    assert 2 * len(line.split()) - 1 <= len(contents._WORDS.findall(line))


def test_the_words_that_differ_are_picked_out():
    change = compare("the quick brown fox\n", "the quick red fox\n", **ENOUGH)
    old, new = change.hunks[0].lines

    assert [piece.text for piece in old.pieces if piece.changed] == ["brown"]
    assert [piece.text for piece in new.pieces if piece.changed] == ["red"]


def test_a_carriage_return_is_seen():
    change = compare("a\n", "a\r\n", **ENOUGH)

    assert [line.text for line in shown_lines(change)] == ["a", "a\\u{d}"]


def test_spaces_at_the_end_of_a_line_are_seen():
    change = compare("a\n", "a  \n", **ENOUGH)

    assert [line.text for line in shown_lines(change)] == ["a", "a\\u{20}\\u{20}"]


def test_a_line_end_that_is_missing_is_seen():
    change = compare("a\n", "a", **ENOUGH)

    assert [line.mark for line in change.hunks[0].lines] == ["-", "+", "\\"]


def test_an_entry_that_goes_is_not_one_that_becomes_empty_lines():
    assert compare("a\n", None, **ENOUGH) != compare("a\n", "\n", **ENOUGH)


def test_a_backslash_at_the_start_of_a_line_is_no_remark():
    change = compare(None, "\\ no line end at the end of the content\n", **ENOUGH)

    assert [line.mark for line in change.hunks[0].lines] == ["+"]


def test_a_line_of_ten_megabytes_is_cut():
    change = compare(None, "x" * 10_000_000, max_lines=5, max_chars=500)
    line, *remarks = change.hunks[0].lines

    assert len(line.text) == 500
    assert remarks[0].text == " 9999500 more characters of this line are not shown"


def test_a_replacement_that_is_cut_shows_both_sides():
    old, new = ("".join(f"{word} {n}\n" for n in range(99)) for word in ("old", "new"))
    change = compare(old, new, max_lines=10, max_chars=100)
    marks = [line.mark for line in change.hunks[0].lines]

    assert marks == ["-"] * 5 + ["+"] * 5
    assert change.left == 188


def test_two_contents_without_a_common_line_are_replaced_whole():
    old = "".join(f"old {number}\n" for number in range(5000))
    new = "".join(f"new {number}\n" for number in range(5000))
    change = compare(old, new, max_lines=10, max_chars=100)

    assert (change.removed, change.added, change.left) == (5000, 5000, 9990)


def test_a_change_far_apart_in_a_long_content_is_two_hunks():
    old = [f"{number}\n" for number in range(20_000)]
    new = [line for line in old if line not in ("5\n", "19000\n")]
    change = compare("".join(old), "".join(new), max_lines=50, max_chars=100)

    assert [hunk.header for hunk in change.hunks] == ["@@ -3,7 +3,6 @@", "@@ -18998,7 +18997,6 @@"]


@pytest.mark.parametrize("key", HOSTILE_SOURCE)
def test_hostile_content_is_inert(key):
    before = HOSTILE_TARGET.get(key, (None,))[0]
    change = compare(before, HOSTILE_SOURCE[key][0], **ENOUGH)

    for line in shown_lines(change):
        assert inert(plain(line.text)) == line.text.replace("\\u{20}", " ")
