"""The audit log as a timeline: whole, inert, safe to open, and told with flat memory."""

import base64
import csv
import hashlib
import html.parser
import io
import json
import re
import tracemalloc

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hdev_memory.core import audit
from hdev_memory.core.entry import State
from hdev_memory.review.inert import inert
from hdev_memory.review.timeline import csv as csv_form
from hdev_memory.review.timeline import html as html_form
from hdev_memory.review.timeline import json as json_form
from hdev_memory.review.timeline import story, terminal

OLD = State(content="a" * 64, metadata="b" * 64, bytes=3)
NEW = State(content="c" * 64, metadata="d" * 64, bytes=5)
PLAN = "sha256:" + "e" * 64
ALL = story.Wanted()


def record(event, seq=1, run="run-1", time="2026-01-02T03:04:05.678Z", **members):
    return audit.Record(
        seq=seq,
        prev=audit.GENESIS,
        time=time,
        event=event,
        run=run,
        plan=PLAN,
        actor=members.pop("actor", "ann"),
        **members,
    )


def changed(event, key, seq=1, **members):
    return record(event, seq, action="overwrite", key=key, before=OLD, after=NEW, **members)


def log(*records):
    """The records with a `seq` each."""
    return [msgspec.structs.replace(one, seq=seq) for seq, one in enumerate(records, start=1)]


def totals(count):
    return story.Totals(
        plan=PLAN,
        records=count,
        runs=1,
        head=audit.Headmark(seq=count, digest="0" * 64),
        first="2026-01-02T03:04:05.678Z",
        last="2026-01-02T03:04:05.678Z",
    )


FORMS = {
    "terminal": lambda records: terminal.render(totals(1), story.tell(records, ALL), colour=False),
    "html": lambda records: html_form.render(totals(1), story.tell(records, ALL)),
    "json": lambda records: json_form.render(totals(1), records),
    "csv": csv_form.render,
}


def drawn(form, records):
    return "".join(FORMS[form](iter(records)))


def told(records, **wanted):
    return list(story.tell(iter(records), story.Wanted(**wanted)))


def rows(records, **wanted):
    return [part for part in told(records, **wanted) if isinstance(part, story.Row)]


def test_a_run_opens_has_its_outcomes_and_closes_with_counts_and_duration():
    parts = told(
        log(
            record("started"),
            changed("intent", "a"),
            changed("intent", "b"),
            changed("done", "a", observed=NEW, evidence="read-back"),
            changed("failed", "b", reason="no room"),
            record("stopped", time="2026-01-02T03:05:15.678Z", reason="no room"),
        )
    )

    assert [type(part) for part in parts] == [story.Opening, *[story.Row] * 4, story.Closing]
    assert [part.event for part in parts[1:-1]] == ["started", "done", "failed", "stopped"]
    assert parts[2].change == "aaaaaaaa/bbbbbbbb 3 B -> cccccccc/dddddddd 5 B"
    assert story.summed_up(parts[-1]) == "stopped after 1 min 10 s: 1 overwritten, 1 failed"


def test_a_run_that_was_cut_off_shows_the_intents_that_have_no_outcome():
    parts = told(
        log(record("started"), changed("intent", "a"), changed("intent", "b"), changed("done", "a"))
    )

    assert [(row.event, row.key) for row in parts[1:-1]] == [
        ("started", ""),
        ("done", "a"),
        ("intent", "b"),
    ]
    assert parts[-1].ending.startswith("cut off, or still running")
    assert dict(parts[-1].counts) == {"overwritten": 1, "with no outcome": 1}


def test_a_clock_that_was_set_back_shows_as_a_negative_span():
    parts = told(log(record("started"), record("finished", time="2026-01-02T03:04:04.678Z")))

    assert story.summed_up(parts[-1]) == "finished after -1.0 s"


def test_a_time_that_there_is_not_is_shown_as_it_stands():
    odd = "2026-13-32T25:61:61.000Z"
    text = drawn("terminal", log(record("started", time=odd), record("finished", time=odd)))

    assert f"{odd}  apply by ann" in text
    assert "  25:61:61.000  finished" in text


def test_bytes_that_were_kept_aside_stand_out():
    (row,) = rows(log(changed("done", "a", reason="somebody else wrote; kept as .hdev-kept-a-1")))

    assert row.tone == "bad"
    assert ".hdev-kept-a-1" in row.remark


def test_a_state_that_was_found_instead_is_told():
    found, unknown = rows(
        log(changed("drift", "a", observed=OLD), changed("failed", "b", evidence="unverified"))
    )

    assert found.change.endswith(", found aaaaaaaa/bbbbbbbb 3 B")
    assert unknown.change.endswith(", found not known")


MIXED = log(
    record("planned", run="p1"),
    record("started", run="r1"),
    changed("intent", "a/1", run="r1"),
    changed("done", "a/1", run="r1"),
    record("finished", run="r1"),
    record("refused", run="r2", reason="DriftFound"),
)


@pytest.mark.parametrize(
    ("wanted", "events"),
    [
        ({"key": "a/*"}, ["done"]),
        ({"key": "b"}, []),
        ({"event": "refused"}, ["refused"]),
        ({"event": "intent"}, ["intent"]),
        ({"run": "r1"}, ["started", "done", "finished"]),
        ({"run": "r", "event": "finished"}, ["finished"]),
    ],
)
def test_only_what_is_wanted_is_shown_and_runs_without_it_are_left_out(wanted, events):
    parts = told(MIXED, **wanted)

    assert [part.event for part in parts if isinstance(part, story.Row)] == events
    openings = sum(isinstance(part, story.Opening) for part in parts)
    assert openings == sum(isinstance(part, story.Closing) for part in parts) <= 1


def test_counts_of_a_run_are_whole_whatever_is_left_out():
    (closing,) = (part for part in told(MIXED, event="finished") if isinstance(part, story.Closing))

    assert dict(closing.counts) == {"overwritten": 1}


HOSTILE = "\x1b[31m\u202egnp<script>alert(1)</script>&\"'\r\n2026-01-02  done  x"


@pytest.mark.parametrize("form", ["terminal", "html", "csv"])
def test_foreign_text_is_inert_in_every_form(form):
    records = log(
        record("started", actor=HOSTILE, run=HOSTILE),
        changed("failed", HOSTILE, reason=HOSTILE, run=HOSTILE, evidence=HOSTILE),
    )
    text = drawn(form, records)

    for hidden in ("\x1b", "\u202e", "\r\n2026", *(["<script"] if form == "html" else [])):
        assert hidden not in text
    assert text.count("u{1b}") == (6 if form == "csv" else 5)


def test_a_key_with_spaces_cannot_draw_columns_of_its_own():
    text = drawn("terminal", log(changed("done", "a  absent -> 12 B  (x)")))

    assert "a\\u{20} absent -> 12 B\\u{20} (x)" in text


class Page(html.parser.HTMLParser):
    """The elements, attributes and style sheets of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.policy, self.style = [], set(), "", ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}
        values = dict(attrs)
        if values.get("http-equiv") == "Content-Security-Policy":
            self.policy = values["content"]

    def handle_data(self, text):
        if self.tags[-1:] == ["style"] and not self.style:
            self.style = text


def test_the_page_allows_its_own_style_sheet_and_nothing_else():
    page = Page(drawn("html", MIXED))
    digest = base64.b64encode(hashlib.sha256(page.style.encode()).digest()).decode()

    assert page.policy.split("; ") == [
        "default-src 'none'",
        f"style-src 'sha256-{digest}'",
        "base-uri 'none'",
        "form-action 'none'",
    ]
    assert not {"script", "link", "img", "iframe", "a", "form", "base"} & set(page.tags)
    assert page.attributes <= {
        "lang", "charset", "http-equiv", "content", "name", "class", "id", "scope"
    }  # fmt: skip
    assert "url(" not in page.style
    assert "prefers-color-scheme: dark" in page.style


def test_the_page_has_a_section_for_each_run_and_a_row_for_each_record():
    page = Page(drawn("html", MIXED))

    assert page.tags.count("section") == 3
    assert page.tags.count("tr") - page.tags.count("thead") == 5


def test_the_json_is_one_document_of_the_very_records():
    document = json.loads(drawn("json", MIXED))

    assert document["format"] == "hdev-timeline/1"
    assert msgspec.convert(document["records"], list[audit.Record]) == MIXED
    assert drawn("json", log(record("started", actor=HOSTILE))).isascii()


def test_the_json_of_no_records_is_a_document_as_well():
    assert json.loads(drawn("json", []))["records"] == []


def test_the_csv_is_that_of_rfc_4180():
    text = drawn("csv", MIXED)
    lines = list(csv.reader(io.StringIO(text, newline=""), strict=True))

    assert text.endswith("\r\n")
    assert tuple(lines[0]) == csv_form.COLUMNS
    assert [line[0] for line in lines[1:]] == ["1", "2", "3", "4", "5", "6"]
    assert {len(line) for line in lines} == {len(csv_form.COLUMNS)}
    assert lines[4][7:13] == ["a" * 64, "b" * 64, "3", "c" * 64, "d" * 64, "5"]


def undone(cell):
    """What a cell says, by the rules of docs/formats.md; None for what no text gives."""
    text = cell.removeprefix("'")
    plain = re.sub(r"\\(\\|u\{([0-9a-f]+)\})", _char, text)
    return plain if csv_form.cell(plain) == cell else None


def _char(found):
    return "\\" if found[1] == "\\" else chr(int(found[2], 16))


BEGINNINGS = [
    before + start for before in ("", " ", "'", "''", "  ") for start in "=+-@\t\r;\uff1d'"
]
FORMULAS = st.builds(str.__add__, st.sampled_from(BEGINNINGS), st.text(max_size=8))


@given(st.text() | FORMULAS)
def test_a_cell_is_no_formula_and_still_says_what_it_said(text):
    cell = csv_form.cell(text)

    assert not re.match("[ ]*[=+\\-@\t\r\uff1d\uff0b\uff0d\uff20]", cell)
    assert ";" not in cell
    assert inert(cell.replace("\\", "")) == cell.replace("\\", "")
    assert undone(cell) == text


def long_log(entries, batch=100):
    yield record("started")
    seq = 1
    for start in range(0, entries, batch):
        for event in ("intent", "done"):
            for number in range(start, start + batch):
                seq += 1
                yield changed(event, f"notes/{number:06}", seq, reason="r" * 200)
    yield record("finished", seq + 1)


@pytest.mark.parametrize("form", FORMS)
def test_a_long_log_is_drawn_with_flat_memory(form):
    """Four thousand entries, whose records take some 12 MB when they are held."""
    for _ in FORMS[form](long_log(100)):
        pass
    tracemalloc.start()
    try:
        drawn_bytes = sum(map(len, FORMS[form](long_log(4_000))))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert drawn_bytes > 800_000
    assert peak < 1_000_000
