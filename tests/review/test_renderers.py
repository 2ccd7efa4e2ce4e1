"""What people see of an ordinary and of a hostile plan, as files that a person can open."""

import fnmatch
import json
import re

import pytest
from markdown_it import MarkdownIt
from syrupy.extensions.single_file import SingleFileSnapshotExtension, WriteMode
from tests.review import plans

from hdev_memory.core.diff import Create, Delete, Skip
from hdev_memory.review import bounded, document, markdown, terminal
from hdev_memory.review import json as as_json
from hdev_memory.review.inert import inert


class Text(SingleFileSnapshotExtension):
    _write_mode = WriteMode.TEXT
    file_extension = "txt"


class Markdown(Text):
    file_extension = "md"


class Json(Text):
    file_extension = "json"


@pytest.fixture(params=["ordinary", "hostile"])
def plan(request, tmp_path):
    """(opened plan, document)."""
    if request.param == "ordinary":
        made, changes = plans.opened(tmp_path, plans.ORDINARY), plans.CHANGES
    else:
        made = plans.opened(tmp_path, plans.hostile(), plans.BIDI, plans.FENCES)
        changes = plans.NOTHING
    with made:
        yield made, document.describe(made, name="p", changes=changes)


@pytest.mark.parametrize("width", [80, 200])
def test_the_terminal_shows(plan, snapshot, width):
    text = terminal.render(plan[1], width=width, colour=False)

    assert text == snapshot(extension_class=Text)


def test_markdown_shows(plan, snapshot):
    assert markdown.render(plan[1]) == snapshot(extension_class=Markdown)


def test_json_shows(plan, snapshot):
    assert "".join(as_json.render(plan[0])) == snapshot(extension_class=Json)


def test_no_line_of_a_terminal_is_wider_than_it(plan):
    from rich.cells import cell_len

    lines = terminal.render(plan[1], width=80, colour=False).splitlines()

    assert [line for line in lines if cell_len(line) > 80 and "Plan id" not in line] == []


def test_colour_is_all_that_a_terminal_is_told_beside_text(plan):
    coloured = terminal.render(plan[1], width=80, colour=True)
    plain = re.sub(r"\x1b\[[0-9;]*m", "", coloured)

    assert plain != coloured
    assert "\x1b" not in plain
    assert "\n".join(line.rstrip() for line in plain.splitlines()) == (
        terminal.render(plan[1], width=80, colour=False).rstrip("\n")
    )


def test_markdown_holds_foreign_text_in_fences_only(plan):
    _, described = plan
    tokens = (
        MarkdownIt("commonmark")
        .enable(["table", "strikethrough"])
        .parse(markdown.render(described))
    )
    fences = [token.content for token in tokens if token.type == "fence"]
    prose = " ".join(token.content for token in tokens if token.type == "inline")

    assert {token.type for token in tokens} <= {
        "heading_open", "heading_close", "paragraph_open", "paragraph_close", "inline", "fence",
    }  # fmt: skip
    for kind in document.KINDS:
        for row in described.rows[kind]:
            assert any(row.key in text and row.reason in text for text in fences)
            assert row.key not in prose
    for sign in "<>@[]&|\\`#~":
        assert sign not in prose, sign
    assert "everyone" not in prose


def test_keys_that_differ_in_spaces_alone_look_different(tmp_path):
    keys = sorted(("a b", "a  b", "a b ", " a b", "a  b "))
    actions = tuple(Create(key=key, after=plans.ONE, reason="new") for key in keys)
    with plans.opened(tmp_path, actions) as opened:
        text = terminal.render(document.describe(opened, name="p"), width=100, colour=False)
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
        text = markdown.render(document.describe(opened, name="p"))

    assert inert(trick) in text


def test_metadata_is_shown_with_its_entry_and_what_was_not_looked_at_is_counted(tmp_path):
    with plans.opened(tmp_path, plans.ORDINARY) as opened:
        described = document.describe(opened, name="p", changes=plans.CHANGES)
    for text in (
        terminal.render(described, width=80, colour=False),
        markdown.render(described),
    ):
        entry = text[text.index("~ overwrite") if "~ overwrite" in text else 0 :]
        about = entry.partition("notes/old")[2].partition("\n\n")[0]

        assert 'owner: "ops" -> "sre"' in about
        assert 'tags: added "x"' in about
        assert "not shown for 3 further overwrites" in " ".join(text.split())


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
        described = document.describe(opened, name="p", limit=None)
    text = bounded.fit(described, RENDERERS[form], max_bytes)
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    shown = {kind: len(re.findall(rf"^ *[+-] +{key}/\d", plain, re.M)) for kind, key in
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
        described = document.describe(opened, name="p", limit=limit, only=only, key=key)
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
        described = document.describe(opened, name="p", limit=None)
    sizes = [len(bounded.fit(described, markdown.render, limit)) for limit in (3000, 6000, 9000)]

    assert all(
        limit - 60 < size <= limit for size, limit in zip(sizes, (3000, 6000, 9000), strict=True)
    )


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
