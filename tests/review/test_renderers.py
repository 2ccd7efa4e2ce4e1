"""What people see of an ordinary and of a hostile plan, as files that a person can open."""

import fnmatch
import json
import re

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from rich.cells import cell_len
from syrupy.extensions.single_file import SingleFileSnapshotExtension, WriteMode
from tests.review import plans

from hdev_memory.core.diff import Create, Delete, Skip
from hdev_memory.review import bounded, document, html, markdown, reading, terminal
from hdev_memory.review import json as as_json
from hdev_memory.review.inert import inert, spaced


class Text(SingleFileSnapshotExtension):
    _write_mode = WriteMode.TEXT
    file_extension = "txt"


class Markdown(Text):
    file_extension = "md"


class Json(Text):
    file_extension = "json"


STORES = {
    "ordinary-contents": (plans.SOURCE, plans.TARGET),
    "hostile-contents": (plans.HOSTILE_SOURCE, plans.HOSTILE_TARGET),
}


@pytest.fixture(params=["ordinary", "hostile", *STORES])
def plan(request, tmp_path):
    """(opened plan, document)."""
    if request.param in STORES:
        made, source, target = plans.compared(tmp_path, *STORES[request.param])
        looked = reading.read(made, source, target)
    else:
        looked = plans.UNREAD
        made = (
            plans.opened(tmp_path, plans.ORDINARY)
            if request.param == "ordinary"
            else plans.opened(tmp_path, plans.hostile(), plans.BIDI, plans.FENCES)
        )
    with made:
        yield made, plans.described(made, looked)


@pytest.mark.parametrize("width", [80, 200])
def test_the_terminal_shows(plan, snapshot, width):
    text = terminal.render(plan[1], width=width, colour=False)

    assert text == snapshot(extension_class=Text)


def test_markdown_shows(plan, snapshot):
    assert markdown.render(plan[1]) == snapshot(extension_class=Markdown)


def test_json_shows(plan, snapshot):
    assert "".join(as_json.render(plan[0])) == snapshot(extension_class=Json)


@pytest.mark.parametrize("width", [40, 80, 200])
def test_no_line_of_a_terminal_is_wider_than_it(plan, width):
    lines = terminal.render(plan[1], width=width, colour=False).splitlines()

    assert [line for line in lines if cell_len(line) > width and "Plan id" not in line] == []


WIDE = st.text(st.sampled_from("ab \u540d\uff21\U0001f600e\u0301\u0308-"), max_size=40)


@given(WIDE, st.integers(2, 12))
def test_a_folded_text_is_whole_and_no_line_of_it_too_wide(text, width):
    lines = terminal._cells(text, width)

    assert "".join(lines) == text
    assert all(cell_len(line) <= width for line in lines)
    assert all(not line.endswith(" ") or not line.strip() for line in lines[:-1])


@given(WIDE, st.integers(2, 12))
def test_prose_is_folded_at_spaces_and_loses_nothing_else(text, width):
    lines = terminal._prose(text, width)

    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert all(cell_len(line) <= width for line in lines)


OURS = re.compile(
    r"Plan: |source |target |options |made |effect |audit | {9}|! | *\u22ee |Plan id |$"
    r"|[+~=!-] [a-z]+ \(\d+\)$|  [+~=!-] |    [!*\u2026\u2502\u250a] |  \u2026 "
    r"|Findings |  advisory |\d+ skipped, "
)
"""What the lines of a review begin with."""


@pytest.mark.parametrize("width", [40, 80])
def test_every_physical_line_of_a_terminal_begins_with_a_mark_of_ours(plan, width):
    lines = terminal.render(plan[1], width=width, colour=False).splitlines()

    assert [line for line in lines if not OURS.match(line)] == []
    assert sum(line.startswith("Plan: ") for line in lines) == 2


def test_content_that_imitates_the_review_stands_behind_a_mark(plan):
    lines = terminal.render(plan[1], width=80, colour=False).splitlines()

    for line in lines:
        if "0 to create, 0 to overwrite, 0 to delete" in line:
            assert line.startswith("    \u2502 ")


def test_words_that_differ_are_marked_by_more_than_colour(tmp_path):
    made, source, target = plans.compared(tmp_path, plans.SOURCE, plans.TARGET)
    with made:
        described = plans.described(made, reading.read(made, source, target))
    text = terminal.render(described, width=80, colour=True)

    assert re.search(r"\x1b\[1;7;32mseven\x1b\[0m", text)


def test_colour_is_all_that_a_terminal_is_told_beside_text(plan):
    coloured = terminal.render(plan[1], width=80, colour=True)
    plain = re.sub(r"\x1b\[[0-9;]*m", "", coloured)

    assert plain != coloured
    assert "\x1b" not in plain
    assert "\n".join(line.rstrip() for line in plain.splitlines()) == (
        terminal.render(plan[1], width=80, colour=False).rstrip("\n")
    )


SUMMARY = (
    r"(create|overwrite|delete|skip|blocked) \d+: (DRIFT|see inside"
    r"|(lines: \d+ removed, \d+ added)?(; )?(\d+ changes? of metadata)?)"
)
OUR_HTML = re.compile(rf"</details>\n|<details>\n<summary>{SUMMARY}</summary>\n")


def checked_markdown(text):
    """The contents of the fences of a review, which are all that may hold foreign text."""
    tokens = MarkdownIt("gfm-like", {"linkify": False, "html": True}).parse(text)
    prose = " ".join(token.content for token in tokens if token.type == "inline")

    assert {token.type for token in tokens} <= {
        "heading_open", "heading_close", "paragraph_open", "paragraph_close", "inline", "fence",
        "html_block",
    }  # fmt: skip
    for token in tokens:
        if token.type == "html_block":
            assert OUR_HTML.fullmatch(token.content), token.content
    for token in tokens:
        for child in token.children or ():
            assert child.type in ("text", "strong_open", "strong_close", "softbreak"), child
    for sign in "<>@[]&|\\`#~":
        assert sign not in prose, sign
    assert "everyone" not in prose
    return [token.content for token in tokens if token.type == "fence"], prose


def test_markdown_holds_foreign_text_in_fences_only(plan):
    _, described = plan
    fences, prose = checked_markdown(markdown.render(described))

    for kind in document.KINDS:
        for row in described.rows[kind]:
            assert any(row.key in text and row.reason in text for text in fences)
            assert row.key not in prose
            if row.details is not None and row.details.content is not None:
                shown = [
                    f"{line.mark}{line.text}"
                    for hunk in row.details.content.hunks
                    for line in hunk.lines
                ]
                assert any(set(shown) <= set(text.split("\n")) for text in fences)


@pytest.mark.parametrize("max_bytes", [2500, 4000, 6000])
def test_a_review_that_was_cut_is_markdown_of_ours_as_well(plan, max_bytes):
    checked_markdown(bounded.fit(plan[1], markdown.render, max_bytes))


@pytest.mark.parametrize("trick", plans.TRICKS)
def test_why_nothing_was_read_stands_in_a_fence(tmp_path, trick):
    with plans.opened(tmp_path, plans.ORDINARY) as opened:
        text = markdown.render(plans.described(opened, reading.unread(opened, trick)))
    fences, prose = checked_markdown(text)

    assert any(inert(trick) in fence for fence in fences)
    assert "CONTENTS COULD NOT ALL BE READ" in prose


def test_keys_that_differ_in_spaces_alone_look_different(tmp_path):
    keys = sorted(("a b", "a  b", "a b ", " a b", "a  b "))
    actions = tuple(Create(key=key, after=plans.ONE, reason="new") for key in keys)
    with plans.opened(tmp_path, actions) as opened:
        text = terminal.render(plans.described(opened), width=100, colour=False)
    shown = {" ".join(line.split()) for line in text.splitlines() if line.startswith("  +")}

    assert len(shown) == len(keys)


def test_json_is_ascii_and_holds_every_action(plan):
    text = "".join(as_json.render(plan[0]))

    assert text.isascii()
    assert [a["key"] for a in json.loads(text)["actions"]] == [a.key for a in plan[0].actions()]


def test_json_comes_action_by_action(plan):
    """Each one is written before the next one is asked for, so that memory stays flat."""
    opened, asked, written = plan[0], 0, 0
    actions = opened.actions

    def counted():
        nonlocal asked
        for action in actions():
            asked += 1
            yield action

    opened.actions = counted
    for part in as_json.render(opened):
        written += part.count('"action":')

        assert asked == written
    assert written == len(list(actions()))


CHOICES = {
    (): [action.key for action in plans.ORDINARY],
    ("--only", "delete"): ["scratch"],
    ("--key", "notes/*"): ["notes/new", "notes/old"],
    ("--key", "*n*", "--only", "skip"): ["people/ann"],
    ("--only", "skip", "--key", "nowhere"): [],
}


@pytest.mark.parametrize("choice", CHOICES)
def test_json_holds_the_actions_that_are_asked_for_and_says_what_was_asked(hdev, tmp_path, choice):
    plans.opened(tmp_path, plans.ORDINARY).close()
    told = json.loads(hdev("show", tmp_path, "--format", "json", *choice).out)
    asked = dict(zip(choice[::2], choice[1::2], strict=True))

    assert [action["key"] for action in told["actions"]] == CHOICES[choice]
    assert told["shown"] == len(told["actions"])
    assert told["filter"] == {
        "only": asked.get("--only"),
        "key": asked.get("--key"),
        "stat": False,
    }
    assert told["summary"]["delete"] == 1


def test_json_without_actions_has_no_member_for_them(hdev, tmp_path):
    plans.opened(tmp_path, plans.ORDINARY).close()
    told = json.loads(hdev("show", tmp_path, "--format", "json", "--stat").out)

    assert "actions" not in told
    assert (told["shown"], told["filter"]["stat"]) == (0, True)
    assert told["summary"]["create"] == 1


@pytest.mark.parametrize("form", ["json", "markdown"])
def test_a_review_goes_whole_into_a_file(hdev, tmp_path, form):
    plans.opened(tmp_path, plans.ORDINARY).close()
    out = tmp_path / "review"
    out.write_text("old")
    shown = hdev("show", tmp_path, "--format", form)
    hdev("show", tmp_path, "--format", form, "--out", out)

    assert out.read_text() == shown.out
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("trick", plans.TRICKS)
def test_every_trick_is_shown_inert_and_whole(tmp_path, trick):
    with plans.opened(tmp_path, plans.hostile()) as opened:
        text = markdown.render(plans.described(opened))

    assert inert(trick) in text


def many(kind_of, count):
    return tuple(kind_of(f"key/{number:05}") for number in range(count))


def create(key):
    return Create(key=key, after=plans.ONE, reason="not in the target")


def delete(key):
    return Delete(key=f"z{key}", before=plans.ONE, reason="not in the source")


def skip(key):
    return Skip(key=f"zz{key}", before=plans.ONE, source=plans.TWO, reason="content differs")


RENDERERS = {
    "markdown": markdown.render,
    "terminal": lambda described: terminal.render(described, width=80, colour=False),
    "colour": lambda described: terminal.render(described, width=80, colour=True),
}


@pytest.mark.parametrize("max_bytes", [1500, 3000, 10_000, 100_000])
@pytest.mark.parametrize("form", RENDERERS)
def test_a_bounded_review_keeps_within_its_bytes_and_counts_what_it_leaves_out(
    tmp_path, form, max_bytes
):
    with plans.opened(tmp_path, many(create, 300) + many(delete, 60)) as opened:
        described = plans.described(opened, limit=None)
    text = bounded.fit(described, RENDERERS[form], max_bytes)
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    shown = {kind: len(re.findall(rf"^ *[+-] +(?:\d+\. )?{key}/\d", plain, re.M)) for kind, key in
             (("create", "key"), ("delete", "zkey"))}  # fmt: skip

    assert len(text.encode()) <= max_bytes
    for kind, total in (("create", 300), ("delete", 60)):
        if shown[kind] < total:
            assert f"{total - shown[kind]} {kind}" in plain.partition("NOT SHOWN HERE: ")[2]
            assert f"{total - shown[kind]} more to {kind}" in plain
    assert shown["create"] == 0 or shown["delete"] == 60  # what destroys goes last
    if "NOT SHOWN" not in plain:
        assert text == RENDERERS[form](described)


@pytest.mark.parametrize("key", [None, "key/*", "*1"])
@pytest.mark.parametrize("only", [None, "create", "delete"])
@pytest.mark.parametrize("limit", [None, 0, 7, 500])
def test_rows_and_what_is_left_out_add_up_to_every_action_that_is_asked_for(
    tmp_path, limit, only, key
):
    made = many(create, 30) + many(delete, 9) + many(skip, 20)
    with plans.opened(tmp_path, made) as opened:
        described = plans.described(opened, limit=limit, only=only, key=key)
    for kind, its in (("create", Create), ("delete", Delete), ("skip", Skip)):
        asked = [
            action.key
            for action in made
            if isinstance(action, its)
            and only in (None, kind)
            and (key is None or fnmatch.fnmatchcase(action.key, key))
        ]
        most = len(asked) if limit is None or kind == "delete" else limit

        assert [row.key for row in described.rows[kind]] == asked[:most]
        assert described.omitted[kind] == len(asked[most:])


def test_as_much_is_shown_as_fits(tmp_path):
    with plans.opened(tmp_path, many(create, 300)) as opened:
        described = plans.described(opened, limit=None)
    sizes = [len(bounded.fit(described, markdown.render, limit)) for limit in (3000, 6000, 9000)]

    assert all(
        limit - 60 < size <= limit for size, limit in zip(sizes, (3000, 6000, 9000), strict=True)
    )


@pytest.mark.parametrize("max_bytes", [2000, 4000, 8000, 20_000])
@pytest.mark.parametrize("form", RENDERERS)
def test_contents_go_before_rows_and_are_counted(tmp_path, form, max_bytes):
    source = {f"key/{number:02}": ("line\n" * 40, {}) for number in range(20)}
    target = {f"zkey/{number:02}": ("gone\n" * 40, {}) for number in range(10)}
    made, ours, theirs = plans.compared(tmp_path, source, target)
    with made:
        described = plans.described(made, reading.read(made, ours, theirs))
    text = bounded.fit(described, RENDERERS[form], max_bytes)
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    rows = len(re.findall(r"^ *[+-] +(?:\d+\. )?z?key/\d", plain, re.M))
    created, deleted = (len(re.findall(mark, plain)) for mark in (r"@@ -0,0 \+", r"\+0,0 @@"))

    assert len(text.encode()) <= max_bytes
    assert rows == 30 or created == deleted == 0
    assert created == 0 or deleted == 10
    for kind, left in (("create", 20 - created), ("delete", 10 - deleted)):
        told = re.search(rf"CONTENTS NOT SHOWN HERE: of .*?(\d+) {kind}", plain)
        assert int(told[1] if told else 0) == left


def test_drift_is_told_as_long_as_its_row_is_there(tmp_path):
    made, ours, _ = plans.compared(tmp_path, plans.SOURCE, plans.TARGET)
    with made:
        others = plans.filled("other", {key: ("others\n", {}) for key in plans.TARGET})
        described = plans.described(made, reading.read(made, ours, others))
    text = bounded.fit(described, markdown.render, len(markdown.render(described)) - 300)

    assert "NOT SHOWN HERE" in text
    assert "DRIFT: 5 of the entries shown here are not as planned any more;" in text
    assert text.count("    ! DRIFT: the target has changed since the plan was made") == 5


def test_of_a_thousand_findings_the_gravest_stay_and_the_others_are_counted(tmp_path):
    with plans.opened(tmp_path, many(delete, 5)) as opened:
        described = plans.described(opened)
    found = [
        document.FindingLine(level=level, rule="r", key=f"k{number}", text="text " * 20)
        for level, count in (("advisory", 900), ("hard", 3), ("soft", 97))
        for number in range(count)
    ]
    heading = msgspec.structs.replace(described.heading, findings=tuple(found), found=1000)
    described = msgspec.structs.replace(described, heading=heading)
    text = bounded.fit(described, markdown.render, 10_000)

    assert len(text.encode()) <= 10_000
    assert (text.count("\nhard "), text.count("\nsoft ")) == (3, 48)
    assert "NOT SHOWN HERE: 950 more findings." in text
    assert "\nFindings (1000)\n" in bounded.fit(described, RENDERERS["terminal"], 20_000)
    assert len(re.findall(r"^- \d+\. zkey/", text, re.M)) == 5


def test_bytes_that_do_not_hold_the_totals_are_a_usage_error(hdev, tmp_path):
    plans.opened(tmp_path, plans.ORDINARY).close()
    result = hdev("show", tmp_path, "--max-bytes", "100", "--format", "markdown")

    assert (result.status, result.out) == (64, "")
    assert "totals alone take" in result.err


@pytest.mark.parametrize("form", ["terminal", "markdown"])
def test_show_keeps_within_its_bytes(hdev, tmp_path, form):
    plans.opened(tmp_path, many(create, 300) + many(delete, 60)).close()
    result = hdev("show", tmp_path, "--max-bytes", "2000", "--format", form)

    assert result.status == 0, result.err
    assert 1900 < len(result.out.encode()) <= 2000
    assert "NOT SHOWN HERE: " in result.out
    assert "delete" in result.out.partition("NOT SHOWN HERE: ")[2].partition("\n")[0]


def test_json_is_never_cut(hdev, tmp_path):
    plans.opened(tmp_path, plans.ORDINARY).close()

    assert hdev("show", tmp_path, "--max-bytes", "9999", "--format", "json").status == 64


@pytest.mark.parametrize("form", [*RENDERERS, "html"])
@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"only": "create"}, "NOT ASKED FOR, AND NOT SHOWN HERE: 9 delete, 20 skip."),
        ({"key": "zkey/*"}, "NOT ASKED FOR, AND NOT SHOWN HERE: 30 create, 20 skip."),
        ({}, None),
    ],
)
def test_actions_that_were_not_asked_for_are_counted(tmp_path, form, asked, told):
    made = many(create, 30) + many(delete, 9) + many(skip, 20)
    with plans.opened(tmp_path, made) as opened:
        described = plans.described(opened, **asked)
    text = re.sub(r"\x1b\[[0-9;]*m", "", {**RENDERERS, "html": html.render}[form](described))

    assert told in text if told else "NOT ASKED FOR" not in text


@pytest.mark.parametrize("form", [*RENDERERS, "html"])
def test_drift_is_counted_at_the_top(tmp_path, form):
    made, ours, _ = plans.compared(tmp_path, plans.SOURCE, plans.TARGET)
    with made:
        others = plans.filled("other", {key: ("others\n", {}) for key in plans.TARGET})
        described = plans.described(made, reading.read(made, ours, others))
    text = {**RENDERERS, "html": html.render}[form](described)

    assert "DRIFT: 5 of the entries shown here" in text.partition("notes/")[0]


def seen(folder, location, width):
    """What a person can see of a plan with this source, but for its digests."""
    folder.mkdir()
    with plans.opened(folder, (), location=location) as opened:
        described = plans.described(opened)
    text = terminal.render(described, width=width, colour=False) + markdown.render(described)
    digests = re.compile(r"sha256:[0-9a-f]{64}|[0-9a-f]{64}")
    return [line.rstrip() for line in digests.sub("", text).splitlines()]


@pytest.mark.parametrize("other", ["/srv/a ", " /srv/a", "/srv /a", "/srv  /a"])
def test_ends_that_differ_in_spaces_alone_look_different(tmp_path, other):
    assert seen(tmp_path / "1", "/srv/a", 80) != seen(tmp_path / "2", other, 80)


@given(st.text("ab \u540d", max_size=40), st.integers(4, 12), st.data())
def test_a_space_more_or_less_is_seen_wherever_a_text_is_folded(text, width, data):
    place = data.draw(st.integers(0, len(text)))
    texts = [spaced(t).replace("\\u{20}", "_") for t in (text, f"{text[:place]} {text[place:]}")]

    first, second = ([line.rstrip() for line in terminal._prose(t, width)] for t in texts)
    assert first != second
