"""The documentation is true: its examples run, its tables are those of the code."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from hdev_memory import errors, plandir
from hdev_memory.cli import COMMANDS, demo, eventlines
from hdev_memory.core import rules
from tests.conftest import put_entry, tree_of

ROOT = Path(__file__).parents[1]
DOCS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def fenced(path, language):
    return re.findall(rf"^```{language}\n(.*?)^```$", path.read_text(), re.M | re.S)


def test_the_workflow_of_the_readme_runs_as_written(home, tmp_path):
    """In a real shell, with real processes; only the port is another one."""
    _, _, workflow, one_step = fenced(ROOT / "README.md", "bash")
    put_entry(tmp_path / "notes", "a", "hello")
    port = free_port()
    server, _, rest = workflow.partition("\n")
    script = (
        "set -euo pipefail\n"
        + server.replace("memory-server", "memory-server --storage-path served")
        + "\ntrap 'kill %1; wait' EXIT\n"
        + "until (exec 3<>/dev/tcp/127.0.0.1/8080) 2>/dev/null; do :; done\n"
        + rest.replace("hdev apply plans/first ", "hdev apply plans/first | tee applied ").replace(
            "SEQ:DIGEST", "$(sed -n 's/^Audit head //p' applied)"
        )
        + one_step.replace("https://memory.example.com", "http://localhost:8080")
        + one_step.replace("https://memory.example.com", "http://localhost:8080").replace(
            " --dry-run", " --source-path notes"
        )
    ).replace("8080", str(port))
    put_entry(home / ".hdev/memory", "local", "x")
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=tmp_path,
        env={
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(home),
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert "Verified: 1 as planned, 0 differ." in done.stdout
    assert "Dry run completed. 1 entries would be copied" in done.stdout
    assert tree_of(tmp_path / "served")["a.md"] == b"hello"


def free_port():
    import socket

    with socket.create_server(("127.0.0.1", 0)) as found:
        return found.getsockname()[1]


def test_the_two_commands_of_the_readme_are_those_of_ci():
    demo, tests, *_ = fenced(ROOT / "README.md", "bash")

    assert demo == "python3 -m venv .venv && .venv/bin/pip install . && .venv/bin/hdev demo\n"
    assert tests in (ROOT / ".ci/run").read_text()


def test_every_command_is_in_the_documentation():
    text = (ROOT / "docs/cli.md").read_text()

    assert [name for name in COMMANDS if f"`{name}" not in text] == []


@pytest.mark.parametrize("columns", ["80", "200"])
@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_the_help_of_a_command_is_whole_at_any_width(hdev, monkeypatch, command, columns):
    monkeypatch.setenv("COLUMNS", columns)
    done = hdev(*command.split(), "--help")
    text = done.out.replace("sha256:…", "")

    assert done.status == 0
    assert max(map(len, text.splitlines())) <= int(columns)
    assert "…" not in text
    assert "a command that was not loaded" not in text
    for name, (_, help_line) in COMMANDS.items():
        if not command and " " not in name:
            assert help_line in text


def test_every_exit_status_of_an_error_is_in_the_documentation():
    table = dict(re.findall(r"^\| (\d+) \| (.*) \|$", (ROOT / "docs/cli.md").read_text(), re.M))
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]

    assert {str(kind.exit_code) for kind in kinds if hasattr(kind, "exit_code")} <= set(table)


def test_the_example_of_a_project_file_is_a_project_file(hdev, home):
    ((text),) = fenced(ROOT / "docs/cli.md", "toml")
    Path("hdev.toml").write_text(text)
    shown = hdev("config", "show")

    assert hdev("config", "check").status == 0
    for name in tomllib.loads(text)["environments"]:
        assert f"environment {name} = " in shown.out


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)#]+)", path.read_text()):
        if not target.startswith(("http:", "https:")):
            assert (path.parent / target).exists(), target


def test_files_named_in_the_documentation_exist():
    for path in DOCS:
        for name in re.findall(r"`((?:src|tests|docs|plans)/[\w./-]+)`", path.read_text()):
            assert (ROOT / name).exists(), f"{path.name}: {name}"


def test_the_architecture_names_every_module():
    text = (ROOT / "docs/architecture.md").read_text()
    source = ROOT / "src/hdev_memory"
    for path in source.rglob("*.py"):
        if path.name not in ("__init__.py", "__main__.py") and path.parent.name not in (
            "cli", "review", "server",
        ):  # fmt: skip
            assert path.name in text, path.name


def test_the_example_plan_is_intact_and_shows_as_its_review_says(hdev, home):
    place = ROOT / "plans/example"
    with plandir.load(place) as opened:
        plan_id = opened.plan.plan_id
    demo._fill(home / "laptop", demo.SAMPLE)
    demo._fill(home / "production", demo.ON_SERVER)
    shown = hdev("show", place, "--format", "markdown")

    assert plan_id in (place / "review.md").read_text()
    assert re.sub("^audit .*\n", "", shown.out, flags=re.M) == (place / "review.md").read_text()
    assert hdev("audit", "verify", place).status == 10


def test_the_example_of_a_review_for_programs_runs(hdev, home, tmp_path):
    ((text),) = fenced(ROOT / "docs/formats.md", "bash")
    put_entry(tmp_path / "work/source", "a", "x")
    put_entry(tmp_path / "work/target", "gone/b", "y")
    hdev(
        "plan", "filesystem:source", "filesystem:target", "--delete", "--max-delete", "1", "-o", "p"
    )
    done = subprocess.run(
        ["bash", "-c", text.replace("PLAN", "p")],
        env={
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(home),
        },
        capture_output=True,
        text=True,
        timeout=50,
        check=True,
    )

    assert done.stdout == "gone/b\n"


def test_the_demo_tells_the_story_and_leaves_nothing(hdev, home, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    result = hdev("demo")

    assert result.status == 0, result.err
    for text in (
        "Plan: 4 to create, 1 to overwrite, 1 to delete.",
        "Applied: 4 created, 1 overwritten, 1 deleted.",
        "Verified: 6 as planned, 0 differ.",
        "Drift: target people/ann",
        "Refused: ",
        "Audit log intact: ",
        "Nothing of this is left behind.",
    ):
        assert text in result.out + result.err, text
    assert list((tmp_path / "tmp").iterdir()) == []
    assert list(home.rglob("*")) == []


def test_the_demo_keeps_its_folder_when_told_to(hdev, home, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    result = hdev("demo", "--keep")
    place = Path(result.out.splitlines()[-1].split(" in ")[1].rstrip("."))

    assert hdev("audit", "verify", place / "plan").status == 10
    shutil.rmtree(place)


def test_every_event_line_and_each_of_its_members_is_in_the_documentation():
    """Read from the structs that make the lines."""
    text = (ROOT / "docs/formats.md").read_text().partition("## Event lines")[2]
    rows = dict(re.findall(r"^\| (?:… of )?`([a-z -]+)` \| (.*) \|$", text, re.M))
    lines = [
        kind
        for kind in vars(eventlines).values()
        if isinstance(kind, type)
        and issubclass(kind, eventlines.Line)
        and kind is not eventlines.Line
    ]

    assert len(lines) > 10
    for kind in lines:
        commanding = "command" in kind.__struct_fields__
        row = rows[kind.__struct_defaults__[-1] if commanding else kind.__struct_config__.tag]
        for member in kind.__struct_fields__:
            if member not in ("exit", "command"):
                assert f"`{member}`" in row, (kind.__name__, member)


def test_the_policies_of_the_documentation_are_policies_and_name_every_rule():
    policies = [
        rules.decode(text, "docs/policy.md") for text in fenced(ROOT / "docs/policy.md", "toml")
    ]
    told = {name for policy in policies for name in rules.RULES if getattr(policy, name)}
    text = (ROOT / "docs/policy.md").read_text()

    assert told == set(rules.RULES)
    for name, kind in rules.RULES.items():
        assert f"[rules.{name}]\n{kind.example}\n" in text, name


def test_the_protected_environment_of_the_documentation_is_one(hdev, home):
    text, *_ = fenced(ROOT / "docs/policy.md", "text")
    Path("hdev.toml").write_text(text)

    assert hdev("config", "check").status == 0
    assert tomllib.loads(text)["environments"]["production"]["protected"] is True


def test_the_check_of_the_documentation_reads_what_show_prints(hdev, home):
    (program,) = fenced(ROOT / "docs/policy.md", "python")
    put_entry(Path("source"), "a", "x" * 9)
    put_entry(Path("target"), "people/ann", "x")
    Path("hdev-policy.toml").write_text("[rules.max_entry_bytes]\nlimit = 5\n")
    made = hdev("plan", "filesystem:source", "filesystem:target", "--delete",
                "--max-delete", "100%", "-o", "p")  # fmt: skip
    shown = hdev("show", "p", "--format", "json")
    done = subprocess.run(
        [sys.executable, "-c", program],
        input=shown.out,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )

    assert made.status == 5
    assert done.returncode == 1
    assert done.stderr == (
        "people/ann would be deleted\nmax_entry_bytes: Its content has 9 bytes; the limit is 5.\n"
    )


def cases_of_approvals():
    """The tested cases of approvals as rows of a table."""
    from tests.cli import test_approvals as tested

    yield from (f"| {name} | refused: {text} |" for name, _, text in tested.REFUSED)
    yield from (f"| {name} | applied |" for name, _ in tested.ALLOWED)


def cases_of_policies():
    """The tested cases of policies as rows of a table."""
    from tests.cli import test_policy as tested

    told = {0: "goes on", 5: "refused (5)", 6: "refused (6)"}
    for name, case in tested.CASES.items():
        rules = " ".join(f"`{line}`" for line in case.rules.splitlines()) or "none"
        yield f"| {name} | {rules} | {told[case.plan]} | {told[case.apply]} |"


@pytest.mark.parametrize(
    ("page", "cases"), [("approvals", cases_of_approvals), ("policy", cases_of_policies)]
)
def test_every_case_that_is_tested_is_in_the_table_with_its_outcome(page, cases):
    section = (ROOT / f"docs/{page}.md").read_text().partition("## Every case that is tested\n")[2]
    rows = [line for line in section.splitlines() if line.startswith("| ")]

    assert rows[1:] == list(cases())
    assert len(rows) > 30
