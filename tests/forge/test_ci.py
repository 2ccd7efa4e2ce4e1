"""A plan's review in a pull request: whose comment is taken, what it says, what it keeps."""

import json
import os
import re
import socket
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from hdev_memory import plandir
from hdev_memory.forge import comment, labels, outputs
from tests.conftest import put_entry
from tests.forge.fake import STRANGER, TOKEN, FakeGitHub, FakeGitLab

KINDS = {"github": (FakeGitHub, ""), "gitlab": (FakeGitLab, "/api/v4")}


@pytest.fixture
def plan(hdev, home):
    """Make a plan with so many creates, and give its folder; each call makes another plan."""
    made = []

    def make(creates: int = 1, *flags: object, target: str = "target", prefix: str = "note"):
        place = Path(f"plan{len(made)}")
        source = Path(f"source{len(made)}") if flags else Path("source")
        for number in range(creates):
            put_entry(source, f"{prefix}{number}", "x")
        Path(target).mkdir(exist_ok=True)
        done = hdev("plan", f"filesystem:{source}", f"filesystem:{target}", "-o", place, *flags)
        assert done.status == 0, done.err
        made.append(place)
        return place

    return make


@pytest.fixture
def token(home, monkeypatch):
    for name in [*os.environ]:
        if name.startswith(("CI_", "GH_", "GITLAB_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("GITHUB_TOKEN", TOKEN)
    monkeypatch.setenv("GITLAB_TOKEN", TOKEN)


@pytest.fixture(params=KINDS)
def forge(request, token):
    kind, base = KINDS[request.param]
    with kind(base) as fake:
        fake.name = request.param
        fake.flags = (
            *("--forge", request.param, "--number", 7, "--api", fake.api),
            *("--repository", "team/notes" if request.param == "github" else 42),
        )
        yield fake


@pytest.fixture
def github(token):
    with FakeGitHub("") as fake:
        fake.flags = (
            *("--forge", "github", "--number", 7, "--api", fake.api),
            *("--repository", "team/notes"),
        )
        yield fake


def plan_id(place: Path) -> str:
    with plandir.load(place) as opened:
        return opened.plan.plan_id


def test_a_comment_holds_the_review_and_the_plan_id(hdev, plan, forge):
    place = plan()
    result = hdev("ci", "comment", place, *forge.flags)

    assert result.status == 0, result.err
    assert result.out == f"Comment created: {plan_id(place)}.\n"
    ((body),) = forge.bodies
    assert "1 to create" in body
    assert "note0" in body
    assert f"hdev apply --expect {plan_id(place)}" in body


def test_the_same_plan_again_changes_nothing_and_writes_nothing(hdev, plan, forge):
    place = plan()
    hdev("ci", "comment", place, *forge.flags)
    before = list(forge.bodies)
    forge.requests.clear()
    result = hdev("ci", "comment", place, *forge.flags)

    assert result.out.startswith("Comment unchanged: ")
    assert forge.bodies == before
    assert forge.writes() == []


def test_a_comment_whose_text_was_changed_is_written_again(hdev, plan, forge):
    place = plan()
    hdev("ci", "comment", place, *forge.flags)
    before = list(forge.bodies)
    forge.comments[0]["body"] = before[0].replace("1 to create", "0 to create")
    result = hdev("ci", "comment", place, *forge.flags)

    assert result.out.startswith("Comment updated: ")
    assert forge.bodies == before


def test_another_plan_gets_a_comment_of_its_own_and_strikes_the_old_one_through(hdev, plan, forge):
    first, second = plan(), plan(2)
    hdev("ci", "comment", first, *forge.flags)
    hdev("ci", "comment", second, *forge.flags)
    old, new = forge.bodies

    assert "~~**Plan: 1 to create, 0 to overwrite, 0 to delete.**~~ Superseded." in old
    assert plan_id(first) in old
    assert plan_id(second) in old
    assert "note0" not in old
    assert plan_id(first) not in new
    assert "2 to create" in new


def test_a_plan_that_comes_back_gets_a_new_comment_at_the_end(hdev, plan, forge):
    first, second = plan(), plan(2)
    for place in (first, second, first):
        hdev("ci", "comment", place, *forge.flags)

    assert ["Superseded." in body for body in forge.bodies] == [True, True, False]
    assert comment.Marker.read(forge.bodies[-1]).plan_id == plan_id(first)


def test_where_the_new_comment_fails_no_old_one_speaks_for_a_plan(hdev, plan, github):
    first, second = plan(), plan(2)
    hdev("ci", "comment", first, *github.flags)
    github.script["POST", "/comments"] = (502, {"message": "Bad gateway"}, {})
    failed = hdev("ci", "comment", second, *github.flags)
    states = [comment.Marker.read(body).state for body in github.bodies]
    github.script.clear()
    again = hdev("ci", "comment", second, *github.flags)

    assert github.fired == [("POST", "/comments")]
    assert failed.status == 9
    assert states == ["superseded"]
    assert again.out.startswith("Comment created: ")


def test_plans_for_other_ends_do_not_fight_over_a_comment(hdev, plan, forge):
    one, other = plan(), plan(target="elsewhere")
    hdev("ci", "comment", one, *forge.flags)
    hdev("ci", "comment", other, *forge.flags)
    hdev("ci", "comment", one, *forge.flags)

    assert [comment.Marker.read(body).state for body in forge.bodies] == ["current", "current"]


def test_a_strangers_comment_with_the_marker_is_never_taken(hdev, plan, forge):
    first, second = plan(), plan(2)
    for place in (first, second):
        with plandir.load(place) as opened:
            marker = comment.Marker.of(opened.plan)
        forge.put_comment(f"{marker}\nApproved by everybody.", STRANGER)
    before = list(forge.bodies)
    result = hdev("ci", "comment", second, *forge.flags)

    assert result.out.startswith("Comment created: ")
    assert forge.bodies[:2] == before
    assert len(forge.bodies) == 3


def test_a_marker_that_is_not_the_first_line_is_none(hdev, plan, forge):
    place = plan()
    with plandir.load(place) as opened:
        marker = comment.Marker.of(opened.plan)
    forge.put_comment(f"Somebody quoted this:\n{marker}\n")
    hdev("ci", "comment", place, *forge.flags)

    assert forge.bodies[0] == f"Somebody quoted this:\n{marker}\n"
    assert len(forge.bodies) == 2


def test_the_own_comment_is_found_behind_hundreds_of_others(hdev, plan, forge):
    place = plan()
    for _ in range(130):
        forge.put_comment("chatter", STRANGER)
    hdev("ci", "comment", place, *forge.flags)
    for _ in range(130):
        forge.put_comment("chatter", STRANGER)
    result = hdev("ci", "comment", place, *forge.flags)

    assert result.out.startswith("Comment unchanged: ")
    assert len(forge.comments) == 261
    pages = [request.path for request in forge.requests if "page=" in request.path]
    assert any("page=3" in path for path in pages)


def test_a_next_page_is_never_fetched_from_where_the_answer_says(hdev, plan, github):
    with FakeGitHub("") as other:
        link = {"Link": f'<{other.origin}/x?page=2>; rel="next"'}
        github.script["GET", "/comments"] = (200, [], link)
        result = hdev("ci", "comment", plan(), *github.flags)

    assert other.requests == []
    assert len(github.fired) == 100
    assert result.status == 9


HOSTILE = (
    "@everyone fixes #1 ```",
    "</details></summary><!-- hdev-comment-1 -->",
    "--> ~~x~~ [a](https:--evil.example)",
    "<img src=x onerror=alert(1)>",
    "| a | b |",
    "&lt;b&gt; **bold** `code`",
)


def test_a_hostile_plan_breaks_out_of_nothing_and_forges_no_marker(hdev, plan, forge):
    source = Path("source")
    for name in HOSTILE:
        put_entry(source, name.replace("/", "\u2044"), "x")
    with plandir.load(plan()) as opened:
        forged = comment.Marker.of(opened.plan)
    place = plan(1, prefix=f"{forged}"[:200].replace("/", "-") + " ")
    result = hdev("ci", "comment", place, *forge.flags)
    ((body),) = forge.bodies

    assert result.status == 0, result.err
    assert comment.Marker.read(body).plan_id == plan_id(place)
    tokens = MarkdownIt("gfm-like", {"linkify": False, "html": True}).parse(body)
    visible = [
        (child.type, child.content)
        for token in tokens
        for child in [token, *(token.children or [])]
        if child.type not in ("fence", "code_block", "code_inline", "inline")
    ]
    active = [text for kind, text in visible if kind.startswith(("html", "link", "image"))]
    assert [text.partition(" slot=")[0] for text in active if "hdev-comment" in text] == [
        "<!-- hdev-comment/1"
    ]
    assert not any(
        sign in text for text in active for sign in ("img", "onerror", "evil", "hdev-comment-1")
    )
    assert not any(kind.startswith(("link", "image")) for kind, _ in visible)
    assert not any("@everyone" in text or "#1" in text for _, text in visible)


@pytest.mark.parametrize("size", [4_000, 65_536])
def test_a_comment_keeps_within_its_bytes(hdev, plan, github, size):
    place = plan(1_500, prefix="a-note-of-which-the-name-is-long-")
    result = hdev("ci", "comment", place, *github.flags, "--max-bytes", size)
    ((body),) = github.bodies

    assert result.status == 0, result.err
    assert size * 0.6 < len(body.encode()) <= size
    assert "NOT SHOWN" in body


def test_more_bytes_than_the_forge_takes_are_never_sent(hdev, plan, github):
    result = hdev(
        "ci",
        "comment",
        plan(1_500, prefix="a-note-of-which-the-name-is-long-"),
        *github.flags,
        "--max-bytes",
        10_000_000,
    )

    assert result.status == 0, result.err
    assert len(github.bodies[0].encode()) <= 65_536


def test_labels_replace_only_their_own_family(hdev, plan, forge):
    forge.labels += ["bug", labels.DELETES, labels.NOTHING, "hdev: something else"]
    result = hdev("ci", "labels", plan(), *forge.flags)

    assert result.out == f"Label {labels.CREATES}.\n"
    assert sorted(forge.labels) == ["bug", labels.CREATES, "hdev: something else"]


def test_a_label_tells_what_is_hardest_to_undo(hdev, plan, forge):
    put_entry(Path("target"), "old", "y")
    put_entry(Path("target"), "note0", "z")
    place = plan(2, "--overwrite", "--delete", "--max-delete", "5")
    result = hdev("ci", "labels", place, *forge.flags)

    assert result.out == f"Label {labels.DELETES}.\n"


def test_a_label_that_is_there_already_costs_no_write(hdev, plan, github):
    github.labels += [labels.CREATES]
    hdev("ci", "labels", plan(), *github.flags)

    assert github.writes() == []


def test_a_server_of_ones_own_is_asked_below_its_path(hdev, plan, token):
    with FakeGitHub("/api/v3") as fake:
        flags = ("--forge", "github", "--number", 7, "--repository", "team/notes")
        result = hdev("ci", "comment", plan(), *flags, "--api", fake.api)

        assert result.status == 0, result.err
        assert fake.requests[0].path == "/api/graphql"
        assert len(fake.comments) == 1


def test_the_token_is_in_no_output_and_in_no_address(hdev, plan, forge):
    place = plan()
    results = [hdev("ci", command, place, *forge.flags) for command in ("comment", "labels")]
    forge.may_write = False
    forge.labels.clear()
    results += [hdev("ci", command, plan(3), *forge.flags) for command in ("comment", "labels")]
    forge.script["GET", "/"] = (500, {"message": f"you sent {TOKEN}"}, {})
    results.append(hdev("ci", "comment", place, *forge.flags))
    shown = [result.out + result.err for result in results]

    assert [result.status for result in results] == [0, 0, 9, 9, 9]
    assert "you sent ***" in results[-1].err
    assert not any(TOKEN in text for text in shown)
    assert not any(
        TOKEN in request.path or TOKEN in str(request.body) for request in forge.requests
    )
    assert all(request.headers["authorization"] == f"Bearer {TOKEN}" for request in forge.requests)


def test_a_wrong_token_is_exit_9_and_says_so(hdev, plan, forge, monkeypatch):
    monkeypatch.setenv("GITHUB_TOKEN", "wrong-token-271828")
    monkeypatch.setenv("GITLAB_TOKEN", "wrong-token-271828")
    result = hdev("ci", "comment", plan(), *forge.flags)

    assert result.status == 9
    assert "The forge refused the token." in result.err
    assert "wrong-token" not in result.out + result.err
    assert forge.comments == []


def test_a_token_that_may_only_read_is_told_what_it_lacks(hdev, plan, forge):
    forge.may_write = False
    result = hdev("ci", "comment", plan(), *forge.flags)

    assert result.status == 9
    assert "Resource not accessible by integration" in result.err
    assert "pull-requests: write" in result.err


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ((403, {"message": "secondary rate limit"}, {"Retry-After": "3600"}), "no more requests"),
        ((429, {"message": "Too Many Requests"}, {"Retry-After": "3600"}), "3600 seconds"),
        ((404, {"message": "Not Found"}, {}), "does not show this change request"),
        ((422, {"message": "Validation Failed"}, {}), "Validation Failed"),
        ((200, {"unexpected": "object"}, {}), "in a way that is not known"),
        ((200, ["text"], {}), "in a way that is not known"),
        ((200, [{"body": "no id"}], {}), "in a way that is not known"),
    ],
)
def test_what_the_forge_will_not_do_is_exit_9_and_writes_nothing(hdev, plan, forge, answer, words):
    part = "/comments" if forge.name == "github" else "/notes"
    forge.script["GET", part] = answer
    result = hdev("ci", "comment", plan(), *forge.flags)

    assert forge.fired
    assert result.status == 9
    assert words in result.err
    assert forge.comments == []


def test_a_rate_limit_that_ends_soon_is_waited_for(hdev, plan, github, monkeypatch):
    answers = iter([(429, {"message": "slow down"}, {"Retry-After": "0"})])
    usual = github.answer
    monkeypatch.setattr(
        github, "answer", lambda request: usual(request) if request.method != "GET"
        else next(answers, None) or usual(request),
    )  # fmt: skip
    result = hdev("ci", "comment", plan(), *github.flags)

    assert next(answers, None) is None
    assert result.status == 0, result.err


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_redirect_never_takes_the_token_elsewhere(hdev, plan, github, method):
    with FakeGitHub("") as other:
        location = {"Location": f"{other.origin}/repos/team/notes/issues/7/comments"}
        github.script[method, "/comments"] = (307, {"message": "Temporary Redirect"}, location)
        result = hdev("ci", "comment", plan(), *github.flags)

    assert github.fired
    assert result.status == 9
    assert other.requests == []


def test_a_redirect_of_a_write_is_not_followed_within_the_origin_either(hdev, plan, github):
    location = {"Location": f"{github.origin}/moved"}
    github.script["POST", "/comments"] = (307, {"message": "Temporary Redirect"}, location)
    result = hdev("ci", "comment", plan(), *github.flags)

    assert github.fired
    assert result.status == 9
    assert "--repository" in result.err
    assert not any("/moved" in request.path for request in github.requests)


def test_a_forge_that_is_down_is_exit_9(hdev, plan, token):
    with socket.create_server(("127.0.0.1", 0)) as bound:
        port = bound.getsockname()[1]
    flags = ("--forge", "github", "--number", 7, "--repository", "team/notes")
    result = hdev("ci", "comment", plan(), *flags, "--api", f"http://127.0.0.1:{port}")

    assert result.status == 9
    assert "The forge cannot be reached" in result.err


def test_a_token_is_not_sent_in_the_clear_to_another_machine(hdev, plan, token):
    flags = ("--forge", "github", "--number", 7, "--repository", "team/notes")
    result = hdev("ci", "comment", plan(), *flags, "--api", "http://forge.example")

    assert result.status == 64
    assert "unencrypted" in result.err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--forge", "github"), "which repository is meant"),
        (("--forge", "github", "--repository", "team/notes"), "which pull request is meant"),
        (("--forge", "github", "--repository", "team/../notes", "--number", "7"), "is not one"),
        (("--forge", "github", "--repository", "../..", "--number", "7"), "is not one"),
        (("--forge", "gitlab"), "which project is meant"),
        (("--forge", "gitlab", "--repository", "42"), "which merge request is meant"),
        (("--forge", "gitlab", "--repository", "a b", "--number", "7"), "is not one"),
        ((), "which forge is meant"),
        (
            ("--repository", "team/notes", "--number", "7", "--forge", "github")
            + ("--api", "https://user:password@forge.example"),
            "is not one",
        ),
    ],
)
def test_what_is_missing_is_a_usage_error_that_names_it(hdev, plan, token, flags, words):
    result = hdev("ci", "comment", plan(), *flags)

    assert result.status == 64
    assert words in result.err
    assert "password" not in result.err.replace("nor a password", "")


def test_without_a_token_it_is_told_which_variable_to_set(hdev, plan, home, monkeypatch):
    for name in ("GH_TOKEN", "GITLAB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CI_JOB_TOKEN", TOKEN)
    place = plan()
    github = hdev("ci", "comment", place, "--forge", "github", "--repository", "a/b", "--number", 7)
    gitlab = hdev("ci", "comment", place, "--forge", "gitlab", "--repository", 42, "--number", 7)

    assert (github.status, gitlab.status) == (64, 64)
    assert "GITHUB_TOKEN" in github.err
    assert "CI_JOB_TOKEN may not write notes" in gitlab.err


@pytest.mark.parametrize(
    ("event", "status"),
    [
        ({"pull_request": {"number": 7}}, 0),
        ({"issue": {"number": 7, "pull_request": {}}}, 0),
        ({"issue": {"number": 7}}, 64),
        ({"pull_request": {"number": "7; rm"}}, 64),
        ({"pull_request": {"number": -7}}, 64),
        ([], 64),
        ("not JSON", 64),
    ],
)
def test_the_number_comes_from_the_event_of_the_workflow(
    hdev, plan, github, monkeypatch, event, status
):
    Path("event.json").write_text(event if isinstance(event, str) else json.dumps(event))
    monkeypatch.setenv("GITHUB_EVENT_PATH", "event.json")
    monkeypatch.setenv("GITHUB_REPOSITORY", "team/notes")
    monkeypatch.setenv("GITHUB_API_URL", github.api)
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    result = hdev("ci", "comment", plan())

    assert result.status == status, result.err
    assert len(github.comments) == (status == 0)


def test_outputs_say_what_the_plan_says(hdev, plan, home, monkeypatch):
    monkeypatch.setenv("GITHUB_OUTPUT", "outputs")
    place = plan(2)
    Path("outputs").write_text("earlier=1\n")
    result = hdev("ci", "outputs", place, "--forge", "github")
    found = dict(re.findall(r"^(\w+)=(.*)$", Path("outputs").read_text(), re.M))

    assert result.status == 0, result.err
    assert found["earlier"] == "1"
    assert found["changes"] == "true"
    assert [found[name] for name in ("to_create", "to_overwrite", "to_delete")] == ["2", "0", "0"]
    assert found["plan_id"] == plan_id(place)
    assert found["effect"].startswith("sha256:")
    assert found["expires"]


def test_a_foreign_value_cannot_set_another_output():
    marks = iter(["one", "two"])
    text = outputs.github({"target": "x\nplan_id=forged", "source": "a b"}, lambda: next(marks))

    assert text == "target<<one\nx\nplan_id=forged\none\nsource<<two\na b\ntwo\n"


def test_a_dotenv_file_holds_no_foreign_value():
    text = outputs.dotenv({"plan_id": "sha256:00", "target": "$(id)\nHDEV_PLAN_ID=forged"})

    assert text == "HDEV_PLAN_ID=sha256:00\n"


def test_a_summary_is_added_to_what_the_file_holds(hdev, plan, home, monkeypatch):
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", "summary.md")
    Path("summary.md").write_text("# Before\n")
    place = plan()
    result = hdev("ci", "summary", place)
    text = Path("summary.md").read_text()

    assert result.status == 0, result.err
    assert text.startswith("# Before\n")
    assert plan_id(place) in text


def test_a_summary_keeps_to_what_is_left_of_a_mebibyte(hdev, plan, home):
    Path("summary.md").write_bytes(b"x" * (1024 * 1024 - 3_000))
    result = hdev("ci", "summary", plan(300), "--out", "summary.md")

    assert result.status == 0, result.err
    assert 1024 * 1024 - 1_000 < Path("summary.md").stat().st_size <= 1024 * 1024
    assert "NOT SHOWN" in Path("summary.md").read_text()


def test_the_report_has_the_three_members_that_gitlab_asks_for(hdev, plan, home):
    result = hdev("ci", "report", plan(2), "--forge", "gitlab", "--out", "report.json")

    assert result.status == 0, result.err
    assert json.loads(Path("report.json").read_text()) == {"create": 2, "update": 0, "delete": 0}


@pytest.mark.parametrize("command", ["summary", "outputs"])
def test_without_a_runner_it_is_asked_where_to_write(hdev, plan, home, command):
    result = hdev("ci", command, plan(), *(("--forge", "github") if command == "outputs" else ()))

    assert result.status == 64
    assert "--out" in result.err


def test_a_damaged_plan_is_never_commented(hdev, plan, forge):
    place = plan()
    (place / "plan.json").write_text((place / "plan.json").read_text().replace("note0", "note1"))
    result = hdev("ci", "comment", place, *forge.flags)

    assert result.status == 8
    assert forge.requests == []
