"""The page as text: what it is made of, and that it is the same every time."""

import base64
import hashlib
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from importlib import resources

import msgspec
import pytest
from syrupy.extensions.single_file import SingleFileSnapshotExtension, WriteMode
from tests.review import pages, plans

from hdev_memory.review import bounded, document, html
from hdev_memory.review.inert import inert

DOCUMENTS = {
    "ordinary": pages.ordinary,
    "hostile": pages.hostile,
    "reasons": pages.reasons,
}


class Html(SingleFileSnapshotExtension):
    _write_mode = WriteMode.TEXT
    file_extension = "html"


@pytest.fixture(params=DOCUMENTS)
def described(request, tmp_path):
    return DOCUMENTS[request.param](tmp_path)


class Parsed(HTMLParser):
    """Elements with their attributes, and the text of those that have a class of one word."""

    def __init__(self, text):
        super().__init__()
        self.elements = []
        self.comments = []
        self.texts = {}
        self._open = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "input"):
            self._open.append(dict(attrs).get("class"))
            self.texts.setdefault(self._open[-1], []).append("")

    def handle_endtag(self, tag):
        self._open.pop()

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        for name in {*self._open}:
            self.texts[name][-1] += data

    def handle_comment(self, data):
        self.comments.append(data)


def test_the_page_of_a_plan(described, snapshot):
    assert html.render(described) == snapshot(extension_class=Html)


def test_every_element_and_attribute_is_one_of_the_template(described):
    parsed = Parsed(html.render(described))
    template = resources.files("hdev_memory.review").joinpath("page", "page.html.j2").read_text()

    assert parsed.comments == []
    for tag, attributes in parsed.elements:
        assert f"<{tag}" in template or tag in ("del", "ins"), tag
        for name in attributes:
            assert re.search(rf"[ \n]{name}\b", template, re.I), name
        assert not {"style", "src", "srcset"} & attributes.keys()
        assert not any(name.startswith("on") for name in attributes)
        assert attributes.get("href", "#").startswith("#")
    count = [tag for tag, _ in parsed.elements].count
    assert (count("script"), count("style"), count("meta"), count("form")) == (1, 2, 6, 1)
    assert count("img") == count("iframe") == count("link") == count("base") == 0


def test_the_policy_names_each_style_and_script_and_allows_nothing_else(described):
    text = html.render(described)
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', text)
    allowed = dict(part.split(" ", 1) for part in policy.replace("&#39;", "'").split("; "))

    def sources(tag):
        return " ".join(
            f"'sha256-{base64.b64encode(hashlib.sha256(found.encode()).digest()).decode()}'"
            for found in re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.S)
        )

    assert allowed == {
        "default-src": "'none'",
        "style-src": sources("style"),
        "script-src": sources("script"),
        "img-src": "'none'",
        "base-uri": "'none'",
        "form-action": "'none'",
    }


def test_every_entry_is_shown_inert_and_whole(described):
    parsed = Parsed(html.render(described))
    rows = [row for kind in document.GRAVEST for row in described.rows[kind]]

    assert parsed.texts["key"] == [row.key for row in rows]
    assert parsed.texts["size"] == [document.sizes(row) for row in rows]
    assert all(
        shown.startswith(row.reason)
        for shown, row in zip(parsed.texts["reason"], rows, strict=True)
    )


def test_every_line_of_a_difference_is_shown_on_its_sides_with_its_remarks(described):
    parsed = Parsed(html.render(described))
    details = [row.details for kind in document.GRAVEST for row in described.rows[kind]]
    lines = [
        line
        for found in details
        if found is not None and found.content is not None
        for hunk in found.content.hunks
        for line in hunk.lines
    ]

    def texts(marks):
        return [line.text for line in lines if line.mark in marks]

    def shown(name):
        return parsed.texts.get(name, [])

    def unmarked(name):
        return sum(text == "" for text in shown(name))

    assert sorted(shown("text")) == sorted([*texts(" -"), *texts(" +")])
    assert sorted(set(shown("remark"))) == sorted({text.strip() for text in texts("\\")})
    assert unmarked("text") == texts(" -").count("") + texts(" +").count("")


def test_each_trick_is_spelled_out_and_none_is_active(tmp_path):
    text = html.render(pages.reasons(tmp_path))
    parsed = Parsed(text)

    for trick in plans.TRICKS:
        assert any(inert(trick) in reason for reason in parsed.texts["reason"])
    for char in "\x1b\x9b\x00\u202e\u2066\u200b\ufeff\u00ad":
        assert char not in text


def test_the_same_document_gives_the_same_bytes_whatever_hashes_are_seeded_with(tmp_path):
    program = (
        "import pathlib, sys; from tests.review import pages; from hdev_memory.review import html;"
        "place = pathlib.Path(sys.argv[1]); place.mkdir();"
        "sys.stdout.buffer.write(html.render(pages.hostile(place)).encode())"
    )
    made = [
        subprocess.run(
            [sys.executable, "-c", program, str(tmp_path / seed)],
            env={**os.environ, "PYTHONHASHSEED": seed},
            cwd=os.getcwd(),
            capture_output=True,
            timeout=50,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]

    assert made[0] == made[1]
    assert made[0].endswith(b"</html>")


def test_what_is_cut_is_counted_on_top_and_where_it_is_missing(tmp_path):
    described = pages.many(tmp_path, 200, limit=7)
    cut = msgspec.structs.replace(described, unread={"delete": 3}, why="The target went away.")
    parsed = Parsed(html.render(cut))
    (banner,) = parsed.texts["banner"]

    assert "NOT SHOWN HERE: 113 create, 13 skip." in banner
    assert "CONTENTS NOT SHOWN HERE: of 3 delete. The target went away." in banner
    assert "113 more to create are not shown here." in parsed.texts["loud"]
    assert "13 more to skip are not shown here." in parsed.texts["loud"]


def test_a_plan_of_which_all_is_shown_has_no_banner(tmp_path):
    assert "banner" not in Parsed(html.render(pages.ordinary(tmp_path))).texts


@pytest.mark.parametrize("above", [5_000, 20_000])
def test_a_bounded_page_keeps_within_its_bytes_and_drops_what_destroys_last(tmp_path, above):
    described = pages.many(tmp_path, 400)
    nothing = msgspec.structs.replace(described, rows={kind: [] for kind in document.KINDS})
    most = len(html.render(nothing).encode()) + above
    text = bounded.fit(described, html.render, most)

    assert len(text.encode()) <= most
    assert "NOT SHOWN HERE: " in text
    created, deleted = (
        text.count(f'<b class="ink {kind}">{symbol}</b><span class="key">')
        for kind, symbol in (("create", "+"), ("delete", "-"))
    )
    assert 0 < deleted <= 40
    assert created == 0 or deleted == 40


@pytest.mark.parametrize("worth", ["counts", "blocks", "nothing"])
def test_approvals_are_listed_inert_with_what_they_are_worth(tmp_path, worth):
    described = pages.ordinary(tmp_path)
    line = document.ApprovalLine(
        principal=inert(plans.BIDI),
        decision="approve",
        worth=worth,
        why=inert(plans.HTML),
        comment=inert(plans.ESCAPES),
    )
    heading = msgspec.structs.replace(described.heading, approvals=(line,))
    parsed = Parsed(html.render(msgspec.structs.replace(described, heading=heading)))
    section = html.render(msgspec.structs.replace(described, heading=heading)).partition(
        'id="approvals"'
    )[2].partition("</section>")[0]  # fmt: skip

    assert inert(plans.BIDI) in section
    assert f"<td>{worth}</td>" in section
    assert len([tag for tag, _ in parsed.elements if tag == "img"]) == 0
    assert "None recorded." not in section


def test_without_approvals_and_an_audit_head_the_page_says_so(tmp_path):
    text = html.render(pages.reasons(tmp_path))

    assert "None recorded." in text
    assert "It was not read for this review." in text


def test_a_finding_leads_to_its_entry(tmp_path):
    described = pages.ordinary(tmp_path)
    key = described.rows["overwrite"][1].key
    finding = document.FindingLine(level="soft", rule="size", key=key, text="It is long.")
    heading = msgspec.structs.replace(described.heading, findings=(finding,))
    text = html.render(msgspec.structs.replace(described, heading=heading))
    (number,) = re.findall(rf'<a href="#e(\d+)"><bdi>{key}</bdi>', text)

    assert f'<li class="entry" id="e{number}" data-flags="finding">' in text


PALETTE = re.findall(
    r"--([\w-]+): light-dark\((#[0-9a-f]{6}), (#[0-9a-f]{6})\)",
    resources.files("hdev_memory.review").joinpath("page", "page.css").read_text(),
)
ON = {
    "ink": ("paper", "sheet", "sunk", "new-fill", "gone-fill", "create-word", "delete-word"),
    "soft": ("paper", "sheet", "sunk", "new-fill", "gone-fill", "overwrite-fill"),
    "link": ("paper", "sheet"),
    "loud": ("paper", "sheet", "loud-fill"),
    "create": ("paper", "sheet", "create-fill", "new-fill"),
    "overwrite": ("paper", "sheet", "overwrite-fill"),
    "delete": ("paper", "sheet", "delete-fill", "gone-fill"),
    "blocked": ("paper", "sheet", "blocked-fill"),
    "skip": ("paper", "sheet", "skip-fill"),
}
"""Each colour of text, and the colours that it stands on."""


def luminance(colour):
    """By WCAG 2.2."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_has_the_contrast_of_wcag_aa(scheme):
    colours = {
        name: luminance(light if scheme == "light" else dark) for name, light, dark in PALETTE
    }

    assert colours.keys() >= ON.keys()
    for front, backs in ON.items():
        for back in backs:
            low, high = sorted((colours[front], colours[back]))
            assert (high + 0.05) / (low + 0.05) >= 4.5, (front, back)
