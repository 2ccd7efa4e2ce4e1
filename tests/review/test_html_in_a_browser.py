"""The page in a real Chromium: what it asks for, what it runs, and what its controls do."""

import os
import shutil

import pytest
from tests.browser import Browser
from tests.review import pages, plans

from hdev_memory.review import document, html
from hdev_memory.review.inert import inert

DOCUMENTS = {
    "ordinary": pages.ordinary,
    "hostile": pages.hostile,
    "reasons": pages.reasons,
}
KEYS = ".entry .key"


@pytest.fixture(scope="session")
def browser():
    if shutil.which("chromium") is None or shutil.which("chromedriver") is None:
        assert os.environ.get("CI") != "true", "chromium or chromedriver is missing"
        pytest.skip("chromium or chromedriver is missing (Debian: chromium, chromium-driver)")
    with Browser() as started:
        yield started


@pytest.fixture
def show(browser, tmp_path):
    """Opens the page of a document, `also` put into its body as if the template had let it in."""

    def opened(described, *, width=1280, dark=False, also=""):
        page = tmp_path / "review.html"
        page.write_text(html.render(described).replace("<main>", f"<main>{also}", 1))
        browser.window(width, dark=dark)
        browser.open(page)
        return page

    return opened


@pytest.fixture
def ordinary(show, tmp_path):
    described = pages.ordinary(tmp_path)
    show(described)
    return described


def rows(described):
    return [row for kind in document.GRAVEST for row in described.rows[kind]]


def keys(described, wanted=lambda row: True):
    return [row.key for row in rows(described) if wanted(row)]


@pytest.mark.parametrize("kind", DOCUMENTS)
def test_a_page_asks_for_itself_only_and_says_nothing_on_the_console(browser, show, tmp_path, kind):
    page = show(DOCUMENTS[kind](tmp_path))

    assert browser.requests() == [page.as_uri()]
    assert browser.console() == []
    assert browser.dialog() is None


ATTACKS = {
    "script": "<script>document.title = 'ran'</script>",
    "handler": """<input autofocus onfocus="document.title = 'ran'">""",
    "image": "<img src='https://evil.example/x'>",
    "style": "<p style='display: none'>x</p>",
    "frame": "<iframe src='https://evil.example/x'></iframe>",
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_what_would_slip_through_the_template_is_refused_by_the_policy(
    browser, show, tmp_path, attack
):
    show(pages.ordinary(tmp_path), also=ATTACKS[attack])
    (refusal,) = browser.console()

    assert "Content Security Policy" in refusal
    assert "https://evil.example/x" not in browser.requests()
    assert browser.run("return document.title").startswith("Plan: ")


@pytest.mark.parametrize("kind", DOCUMENTS)
def test_no_element_of_the_page_comes_from_content(browser, show, tmp_path, kind):
    show(DOCUMENTS[kind](tmp_path))
    count = "return arguments[0].map((name) => document.querySelectorAll(name).length)"

    assert browser.run(count, ["script", "style", "dialog", "form", "footer", "main"]) == [
        1, 2, 1, 1, 1, 1,
    ]  # fmt: skip
    assert browser.run(count, ["img", "iframe", "link", "base", "object", "embed", "video"]) == (
        [0] * 7
    )
    assert browser.run("return document.comments ?? 0") == 0


@pytest.mark.parametrize("kind", DOCUMENTS)
def test_a_person_sees_the_inert_texts_and_no_others(browser, show, tmp_path, kind):
    described = DOCUMENTS[kind](tmp_path)
    show(described)

    assert browser.texts(KEYS) == keys(described)
    for shown, row in zip(browser.texts(".reason"), rows(described), strict=True):
        assert shown.startswith(row.reason)
    assert browser.texts("h1") == [document.totals(described.heading.summary)]
    assert browser.texts("#plan-id") == [described.heading.plan_id]


def test_lines_of_a_difference_are_seen_when_their_entry_is_opened(browser, ordinary):
    before = browser.texts(".line.new .text")
    browser.click("#overwrite li:nth-child(2) summary")

    assert before == []
    assert "Line seven of a long note." in browser.texts(".line.new .text")
    assert browser.texts(".line.new ins") == ["seven"]
    assert browser.texts(".line.gone del") == ["7"]


@pytest.mark.parametrize(("width", "columns"), [(1280, 2), (390, 1)])
def test_a_difference_has_two_columns_where_there_is_room(browser, show, tmp_path, width, columns):
    show(pages.ordinary(tmp_path), width=width)
    browser.click("#overwrite li:nth-child(2) summary")
    lefts = browser.run(
        """return [...document.querySelectorAll('.line')].filter((node) => node.checkVisibility())
        .map((node) => Math.round(node.getBoundingClientRect().left / 10))"""
    )

    assert len(set(lefts)) == columns
    if columns == 1:
        assert browser.texts(".again .text") == []


@pytest.mark.parametrize("width", [360, 768, 1600])
@pytest.mark.parametrize("kind", DOCUMENTS)
def test_nothing_reaches_over_the_side_of_the_window(browser, show, tmp_path, kind, width):
    show(DOCUMENTS[kind](tmp_path), width=width)
    browser.click("#open-all")

    assert browser.run("return document.documentElement.scrollWidth <= innerWidth")


def test_a_card_lists_its_kind_alone_until_it_is_chosen_again(browser, ordinary):
    browser.click(".card.delete")
    one = browser.texts(KEYS)
    status = browser.texts("#status")
    browser.click(".card.create")
    both = browser.texts(KEYS)
    browser.click(".card.create")
    browser.click(".card.delete")

    assert one == keys(ordinary, lambda row: row.kind == "delete")
    assert status == ["2 of 7 actions"]
    assert both == keys(ordinary, lambda row: row.kind in ("delete", "create"))
    assert browser.texts(KEYS) == keys(ordinary)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("OLD", lambda row: "old" in row.key),
        ("not target", lambda row: row.reason == "not in the target"),
        ("nothing has this", lambda row: False),
    ],
)
def test_a_search_goes_through_keys_and_reasons(browser, ordinary, text, wanted):
    browser.type("#search", text)
    found = browser.texts(KEYS)
    nothing = browser.texts("#nothing")
    browser.click("#clear")

    assert found == keys(ordinary, wanted)
    assert bool(nothing) == (found == [])
    assert browser.texts(KEYS) == keys(ordinary)


def test_look_alikes_can_be_listed_alone(browser, ordinary):
    browser.click("[data-flag=twins]")

    assert browser.texts(KEYS) == keys(ordinary, lambda row: row.twins != ())
    assert len(browser.texts(KEYS)) == 2


def test_filters_narrow_each_other(browser, ordinary):
    browser.click("[data-flag=twins]")
    browser.click(".card.delete")

    assert browser.texts(KEYS) == ["people/ann"]


def test_a_part_of_the_map_lists_what_is_below_it_until_it_is_chosen_again(browser, ordinary):
    region = ".map.wide .region[data-prefix='notes/'] text"
    click = "document.querySelector(arguments[0]).dispatchEvent(new MouseEvent('click', {bubbles: true, cancelable: true}))"  # noqa: E501
    browser.run(click, region)
    below = browser.texts(KEYS)
    browser.run(click, region)

    assert below == keys(ordinary, lambda row: row.key.startswith("notes/"))
    assert browser.texts(KEYS) == keys(ordinary)


def test_a_click_on_a_tile_lists_its_entry(browser, ordinary):
    browser.click(".map.wide .tile[data-prefix='notes/old']")

    assert browser.texts(KEYS) == ["notes/old"]
    assert browser.run("return document.querySelector('#prefix').value") == "notes/old"


ARROW_RIGHT, ENTER, TAB, ESCAPE = "\ue014", "\ue007", "\ue004", "\ue00c"


def test_the_map_is_one_stop_of_the_tab_key_and_the_arrows_go_through_it(browser, ordinary):
    browser.run("document.querySelector('.map.wide a').focus()")
    browser.press(ARROW_RIGHT, ENTER)
    prefix = browser.run("return document.activeElement.dataset.prefix")
    browser.press(TAB)

    assert browser.texts(KEYS) == keys(ordinary, lambda row: row.key.startswith(prefix))
    assert browser.run("return document.activeElement.closest('.map')") is None
    assert (
        browser.run("return document.querySelectorAll('.map.wide a[tabindex=\"0\"]').length") == 1
    )


def test_keys_go_from_entry_to_entry_and_open_them(browser, ordinary):
    def here():
        return browser.run(
            "return document.activeElement.closest('.entry')?.querySelector('.key').textContent"
        )

    browser.press("j", "j")
    second = here()
    browser.press("o")
    opened = browser.run("return document.activeElement.closest('details').open")
    browser.press("k")

    assert [here(), second] == keys(ordinary)[:2]
    assert opened


def test_keys_reach_entries_that_do_not_open(browser, show, tmp_path):
    described = pages.reasons(tmp_path)
    show(described)
    browser.press("j", "j", "j")

    assert (
        browser.run("return document.activeElement.querySelector('.key').textContent")
        == (keys(described)[2])
    )


def test_keys_search_and_filter(browser, ordinary):
    browser.press("/", "o", "l", "d")
    found = browser.texts(KEYS)
    browser.press(ENTER, "0", "1")

    assert found == keys(ordinary, lambda row: "old" in row.key)
    assert browser.texts(KEYS) == keys(ordinary, lambda row: row.kind == "delete")


def test_a_question_mark_lists_the_keys_and_escape_closes_the_list(browser, ordinary):
    browser.press("?")
    shown = browser.texts("#keys h2")
    browser.press(ESCAPE)

    assert shown == ["Keys"]
    assert browser.texts("#keys h2") == []


@pytest.mark.parametrize("by", ["key", "button"])
def test_the_plan_id_can_be_copied(browser, ordinary, by):
    both = ["clipboardReadWrite", "clipboardSanitizedWrite"]
    browser.devtools("Browser.grantPermissions", permissions=both)
    if by == "key":
        browser.press("c")
    else:
        browser.click("#copy")
    copied = browser.run(
        """return new Promise((resolve) => {
            const look = () => document.querySelector('#copy').textContent === 'Copy'
                ? requestAnimationFrame(look)
                : resolve(navigator.clipboard.readText());
            look();
        })"""
    )

    assert copied == ordinary.heading.plan_id
    assert browser.texts("#copy") == ["Copied"]


def test_the_plan_id_is_selected_where_a_page_may_not_copy(browser, ordinary):
    browser.devtools("Browser.grantPermissions", permissions=["geolocation"])  # and nothing else
    browser.click("#copy")
    selected = browser.run(
        """return new Promise((resolve) => {
            const look = () => document.querySelector('#copy').textContent === 'Copy'
                ? requestAnimationFrame(look)
                : resolve(getSelection().toString());
            look();
        })"""
    )

    assert selected == ordinary.heading.plan_id
    assert browser.texts("#copy") == ["Selected"]


@pytest.mark.parametrize("dark", [False, True])
def test_the_page_is_as_light_as_the_system_until_it_is_told_otherwise(
    browser, show, tmp_path, dark
):
    def background():
        return browser.run("return getComputedStyle(document.body).backgroundColor")

    show(pages.ordinary(tmp_path), dark=dark)
    first = background()
    browser.press("t")
    second = background()
    browser.click("#theme")

    assert {first, second} == {"rgb(247, 246, 243)", "rgb(18, 20, 23)"}
    assert (first == "rgb(18, 20, 23)") == dark
    assert background() == first


def test_without_a_script_everything_is_there_and_no_control_that_would_not_work(
    browser, show, tmp_path
):
    described = pages.ordinary(tmp_path)
    browser.devtools("Emulation.setScriptExecutionDisabled", value=True)
    try:
        show(described)
        browser.click("#overwrite li:nth-child(2) summary")
        found = browser.texts(KEYS), browser.texts("button"), browser.texts(".line.new ins")
    finally:
        browser.devtools("Emulation.setScriptExecutionDisabled", value=False)

    assert found == (keys(described), [], ["seven"])


def test_on_paper_every_entry_is_open_and_no_control_is_left(browser, ordinary):
    browser.devtools("Emulation.setEmulatedMedia", media="print")

    assert browser.texts("button") == []
    assert "Line seven of a long note." in browser.texts(".line.new .text")
    assert browser.texts(KEYS) == keys(ordinary)
    assert browser.paper().startswith(b"%PDF-")


def test_ten_thousand_actions_can_be_filtered(browser, show, tmp_path):
    described = pages.many(tmp_path, 10_000)
    show(described)
    browser.click(".card.delete")
    deletes = browser.texts("#status")
    browser.type("#search", "note000012")

    assert deletes == ["1,000 of 10,000 actions"]
    assert browser.texts(KEYS) == ["area000/topic0000/note000012"]
    assert browser.run("return document.querySelectorAll('.map a').length") < 2_000
    assert browser.console() == []


def test_hostile_names_can_be_searched_for_as_they_are_shown(browser, show, tmp_path):
    described = pages.reasons(tmp_path)
    show(described)
    browser.type("#prefix", inert(plans.KEYS[0]))

    assert browser.texts(KEYS) == keys(
        described, lambda row: row.key.startswith(inert(plans.KEYS[0]))
    )
    assert len(browser.texts(KEYS)) == 10
