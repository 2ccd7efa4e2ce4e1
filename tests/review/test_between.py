"""What changed between two plans: every difference, no other, and inert."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.review import plans
from tests.review.test_renderers import checked_markdown

from hdev_memory.core.diff import Blocked, Create, Delete, Overwrite, Skip
from hdev_memory.review import between, terminal
from hdev_memory.review.inert import inert

ONE, TWO = plans.ONE, plans.TWO

ACTIONS = st.dictionaries(
    st.sampled_from("abcde"),
    st.sampled_from(
        [
            Create(key="", after=ONE, reason="r"),
            Create(key="", after=TWO, reason="r"),
            Overwrite(key="", before=ONE, after=TWO, reason="r"),
            Overwrite(key="", before=ONE, after=TWO, reason="s"),
            Delete(key="", before=ONE, reason="r"),
            Skip(key="", before=ONE, source=TWO, reason="r"),
            Blocked(key="", reason="r"),
        ]
    ),
)


@pytest.fixture
def opened(tmp_path):
    """Write and open a plan, as often as it is called."""

    def make(actions, **texts):
        number = len(list(tmp_path.iterdir()))
        folder = tmp_path / str(number)
        folder.mkdir()
        return plans.opened(folder, actions, **texts)

    return make


def keyed(actions):
    def put(key, action):
        fields = {name: getattr(action, name) for name in action.__struct_fields__}
        return type(action)(**{**fields, "key": key})

    return tuple(put(key, actions[key]) for key in sorted(actions))


@given(ACTIONS, ACTIONS)
def test_the_actions_that_differ_are_those_of_two_dicts(tmp_path_factory, one, other):
    folders = [tmp_path_factory.mktemp("plan") for _ in range(2)]
    ours, theirs = keyed(one), keyed(other)
    with plans.opened(folders[0], ours) as before, plans.opened(folders[1], theirs) as after:
        found = list(between.changes(before, after))
        comparison = between.compare(before, after)
    mine, yours = ({action.key: action for action in actions} for actions in (ours, theirs))

    assert [(c.key, c.before, c.after) for c in found] == [
        (key, mine.get(key), yours.get(key))
        for key in sorted(mine.keys() | yours.keys())
        if mine.get(key) != yours.get(key)
    ]
    assert sum(comparison.counts.values()) == len(found)
    for change in found:
        assert (change.how == "new") == (change.before is None)
        assert (change.how == "gone") == (change.after is None)
        assert (change.how == "reason") == (
            isinstance(change.before, Overwrite) and isinstance(change.after, Overwrite)
        )


def test_a_plan_does_not_differ_from_itself(opened):
    made = opened(plans.ORDINARY)
    with made, opened(plans.ORDINARY) as again:
        comparison = between.compare(made, again)

    assert comparison.same_effect
    assert comparison.facts == ()
    assert between.totals(comparison) == "The effect is the same; all actions are the same."


def test_an_effect_that_differs_is_told_first_and_last_in_each_form(opened):
    with opened(plans.ORDINARY) as before, opened(plans.ORDINARY[:-1]) as after:
        comparison = between.compare(before, after)
        look = terminal.Look(200, colour=False)
        shown = list(between.as_terminal(comparison, between.changes(before, after), look))
        text = "\n".join(between.as_markdown(comparison, between.changes(before, after)))
        document = json.loads("".join(between.as_json(comparison, between.changes(before, after))))
    told = "THE EFFECT DIFFERS; of the actions, 1 only in the first plan."

    assert shown[0] == shown[-1] == told
    assert text.count(f"**{told}**") == 2
    assert document["same_effect"] is False
    assert [change["key"] for change in document["changes"]] == ["scratch"]


def test_what_differs_in_an_action_is_named(opened):
    one = (Overwrite(key="k", before=ONE, after=TWO, reason="r"),)
    other = (Overwrite(key="k", before=ONE, after=ONE, reason="r"),)
    with opened(one) as before, opened(other) as after:
        comparison = between.compare(before, after)
        lines = list(
            between.as_terminal(
                comparison, between.changes(before, after), terminal.Look(300, colour=False)
            )
        )

    assert f'      after.content: "{TWO.content}" -> "{ONE.content}"' in lines
    assert f"      after.bytes: {TWO.bytes} -> {ONE.bytes}" in lines


def test_another_end_and_another_finding_are_named(opened):
    made = opened(plans.ORDINARY, location="~/memory", finding="one")
    with made, opened(plans.ORDINARY, location="~/other", finding="two") as other:
        comparison = between.compare(made, other)
    facts = {fact.path.partition("{")[0]: (fact.before, fact.after) for fact in comparison.facts}

    assert comparison.same_effect
    assert facts["source.location"] == ('"~/memory"', '"~/other"')
    assert sum(fact.path.startswith("finding") for fact in comparison.facts) == 2


def test_hostile_plans_are_compared_inertly(opened):
    one, other = plans.hostile(), plans.hostile()[::3]
    with (
        opened(one, location=plans.BIDI, finding=plans.FENCES) as before,
        opened(other, location=plans.ESCAPES, finding=plans.HTML) as after,
    ):
        comparison = between.compare(before, after)
        look = terminal.Look(60, colour=False)
        shown = list(between.as_terminal(comparison, between.changes(before, after), look))
        text = "\n".join(between.as_markdown(comparison, between.changes(before, after)))
        whole = "".join(between.as_json(comparison, between.changes(before, after)))
    fences, _ = checked_markdown(text)

    assert all(inert(line) == line.replace("\\", "\\\\") for line in shown)
    assert any("a\\u{202e}gpj.exe" in fence for fence in fences)
    assert whole.isascii()
    assert all(line.startswith(("  ", "first ", "second ", "\u22ee ")) for line in shown[2:-2])


def test_the_command_exits_2_only_where_the_effects_differ(hdev, opened):
    made = [opened(plans.ORDINARY), opened(plans.ORDINARY, finding="x"), opened(())]
    folders = [plan.folder for plan in made]
    for plan in made:
        plan.close()

    assert hdev("diff", folders[0], folders[1], "--detailed-exitcode").status == 0
    assert hdev("diff", folders[0], folders[2], "--detailed-exitcode").status == 2
    assert hdev("diff", folders[0], folders[2]).status == 0


@pytest.mark.parametrize("form", ["terminal", "markdown", "json"])
def test_a_damaged_plan_is_not_compared(hdev, opened, form):
    made = [opened(plans.ORDINARY), opened(plans.ORDINARY)]
    for plan in made:
        plan.close()
    path = made[1].folder / "plan.json"
    path.write_bytes(path.read_bytes().replace(b"notes/new", b"notes/now"))
    result = hdev("diff", made[0].folder, made[1].folder, "--format", form)

    assert (result.status, result.out) == (8, "")


@pytest.mark.parametrize("width", [40, 60, 80])
def test_wherever_a_line_is_folded_none_commands_a_build_service(opened, width):
    reasons = ["x" * pad + " ::stop-commands::t" for pad in range(width)]
    known = tuple(Blocked(key=f"{pad:03}", reason="r") for pad in range(width))
    told = tuple(Blocked(key=f"{pad:03}", reason=reason) for pad, reason in enumerate(reasons))
    with opened(known) as before, opened(told) as after:
        comparison = between.compare(before, after)
        found = between.changes(before, after)
        lines = list(between.as_terminal(comparison, found, terminal.Look(width, colour=False)))

    assert any("\u22ee ::stop" in line for line in lines)
    assert not any(line.lstrip().startswith("::") for line in lines)
