"""The actions, workflows and templates, script by script, from a pull request to the apply."""

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from hdev_memory import plandir
from hdev_memory.backends.base import Secret
from hdev_memory.backends.filesystem import FilesystemBackend
from hdev_memory.review.inert import inert
from hdev_memory.server.app import create_app
from hdev_memory.server.run import serve_in_thread
from tests.conftest import put_entry, tree_of
from tests.forge.fake import TOKEN, FakeGitHub, FakeGitLab
from tests.forge.runner import PATH, ROOT, Runner, event_file, parsed

PLAN = ROOT / "docs/ci/github-plan.yml"
APPLY = ROOT / "docs/ci/github-apply.yml"
GITLAB = ROOT / "docs/ci/gitlab.yml"
ACTIONS = sorted((ROOT / ".github/actions").glob("*/action.yml"))

WRITE, READ = "write-key-of-the-test", "read-key-of-the-test"


@dataclass(frozen=True)
class Memory:
    """A memory that is served."""

    root: Path
    url: str


@pytest.fixture
def memory(home):
    """A repository with one note, and a server with another one and an older copy."""
    workspace = home / "work"
    put_entry(workspace / "memory", "new", "new")
    put_entry(workspace / "memory", "both", "from the repository")
    served = home / "served"
    put_entry(served, "both", "as it was")
    with FilesystemBackend(str(served), must_exist=True) as store:
        app = create_app(store, store_id="s", api_key=Secret(WRITE), read_only_api_key=Secret(READ))
        with serve_in_thread(app) as url:
            yield Memory(served, url)


@pytest.fixture
def github(home, memory, tmp_path):
    with FakeGitHub("") as fake:
        fake.runner = lambda **github: Runner(
            home=home,
            workspace=home / "work",
            artifacts=tmp_path / "artifacts",
            contexts={
                "github": {
                    "token": TOKEN,
                    "repository": "team/notes",
                    "ref_name": "main",
                    "event": {"repository": {"default_branch": "main", "private": True}},
                    **github,
                },
                "vars": {"HDEV_MEMORY_URL": memory.url},
                "secrets": {"HDEV_MEMORY_READ_ONLY_KEY": READ, "HDEV_MEMORY_WRITE_KEY": WRITE},
                "inputs": {},
            },
            environ={
                "GITHUB_ACTIONS": "true",
                "GITHUB_API_URL": fake.api,
                "GITHUB_REPOSITORY": "team/notes",
                "GITHUB_EVENT_PATH": str(
                    event_file(home, {"pull_request": {"number": 7}, "action": "synchronize"})
                ),
            },
        )
        yield fake


def event_of(repository: str) -> dict[str, object]:
    return {
        "pull_request": {"number": 7, "head": {"repo": {"full_name": repository}}},
        "repository": {"default_branch": "main", "private": True},
    }


def planned(github) -> Runner:
    runner = github.runner(event=event_of("team/notes"))
    assert runner.job(PLAN, "plan"), runner.ran
    return runner


def test_a_pull_request_gets_comment_label_summary_outputs_and_artifact(github, memory):
    before = tree_of(memory.root)
    runner = planned(github)
    with plandir.load(runner.artifacts / "hdev-plan") as opened:
        plan_id = opened.plan.plan_id

    assert [ran.name for ran in runner.ran][:3] == [
        "Plan",
        "Set the outputs",
        "Add the review to the job's summary",
    ]
    assert runner.outputs["plan_id"] == plan_id
    assert {name: runner.outputs[name] for name in ("changes", "to_create", "to_overwrite")} == {
        "changes": "true",
        "to_create": "1",
        "to_overwrite": "1",
    }
    assert plan_id in runner.summary
    assert len(github.bodies) == 1
    assert plan_id in github.bodies[0]
    assert github.labels == ["hdev: overwrites"]
    assert tree_of(memory.root) == before
    assert not any(secret in ran.out for ran in runner.ran for secret in (TOKEN, READ))


def test_a_plan_that_the_policy_refuses_is_shown_and_fails_at_the_end(github, home):
    policy = '[rules.max_overwrite]\nlevel = "hard"\nlimit = 0\n'
    (home / "work/hdev-policy.toml").write_text(policy)
    runner = github.runner(event=event_of("team/notes"))

    assert not runner.job(PLAN, "plan")
    assert [ran.name for ran in runner.ran if ran.status] == [
        "Fail where the policy refuses the plan"
    ]
    assert runner.ran[-1].status == 5
    assert "max_overwrite" in runner.summary
    assert "max_overwrite" in github.bodies[0]
    assert (runner.artifacts / "hdev-plan/plan.json").exists()


def test_a_second_push_strikes_the_first_plan_through(github, home):
    first = planned(github).outputs["plan_id"]
    shutil.rmtree(home / "work/hdev-plan")
    put_entry(home / "work/memory", "more", "more")
    second = planned(github).outputs["plan_id"]
    old, new = github.bodies

    assert "~~**Plan: 1 to create, 1 to overwrite, 0 to delete.**~~" in old
    assert first in old
    assert second in new
    assert first not in new


def test_a_pull_request_of_a_fork_runs_no_step(github):
    runner = github.runner(event=event_of("mallory/notes"))

    assert not runner.job(PLAN, "plan")
    assert runner.ran == []
    assert github.requests == []


def applying(github, plan_id: str, job: str) -> tuple[bool, Runner]:
    runner = github.runner()
    runner.contexts["inputs"] = {"plan_id": plan_id, "plan_run": "1"}
    shutil.rmtree(runner.workspace / "hdev-plan", ignore_errors=True)
    return runner.job(APPLY, job), runner


def test_the_approved_plan_is_shown_and_then_applied(github, memory):
    plan_id = planned(github).outputs["plan_id"]
    shown, review = applying(github, plan_id, "review")
    before = dict(tree_of(memory.root))
    done, applied = applying(github, plan_id, "apply")

    assert shown, review.ran
    assert plan_id in review.summary
    assert before["both.md"] == b"as it was"
    assert done, applied.ran
    assert tree_of(memory.root)["both.md"] == b"from the repository"
    assert tree_of(memory.root)["new.md"] == b"new"
    assert "Audit log intact: " in applied.summary
    kept = applied.artifacts
    assert (kept / "hdev-applied/receipt.json").exists()
    assert not (kept / "hdev-applied/backup").exists()
    assert (kept / "hdev-applied-backup/both.md").read_bytes() == b"as it was"
    assert not any(secret in ran.out for ran in applied.ran for secret in (TOKEN, WRITE))


@pytest.mark.parametrize("job", ["review", "apply"])
def test_a_plan_that_was_not_approved_is_not_applied(github, memory, job):
    planned(github)
    before = tree_of(memory.root)
    done, runner = applying(github, "sha256:" + "0" * 64, job)

    assert not done
    assert [ran.status for ran in runner.ran] == [0, 8]
    assert "apply" in runner.skipped
    assert tree_of(memory.root) == before


def test_a_plan_that_changes_behind_the_check_is_not_applied(github, memory):
    """The step that applies binds the plan id by itself."""
    planned(github)
    runner = github.runner()
    action = parsed(ROOT / ".github/actions/hdev-apply/action.yml")
    inputs = {"plan": "hdev-plan", "expect": "sha256:" + "0" * 64, "apply": "true"}
    (step,) = [step for step in action["runs"]["steps"] if step.get("id") == "apply"]
    runner.steps([step], {**runner.contexts, "inputs": inputs}, {})

    assert [ran.status for ran in runner.ran] == [8]
    assert tree_of(memory.root)["both.md"] == b"as it was"


def test_pre_images_of_a_public_repository_are_no_artifact(github):
    plan_id = planned(github).outputs["plan_id"]
    runner = github.runner(event={"repository": {"default_branch": "main", "private": False}})
    runner.contexts["inputs"] = {"plan_id": plan_id, "plan_run": "1"}
    shutil.rmtree(runner.workspace / "hdev-plan")

    assert runner.job(APPLY, "apply"), runner.ran
    assert not (runner.artifacts / "hdev-applied-backup").exists()


def test_an_apply_that_fails_still_keeps_its_audit_log(github, memory):
    plan_id = planned(github).outputs["plan_id"]
    put_entry(memory.root, "both", "changed meanwhile")
    done, runner = applying(github, plan_id, "apply")

    assert not done
    assert runner.ran[-1].status == 3
    assert "drift" in (runner.artifacts / "hdev-applied/audit.jsonl").read_text()
    assert tree_of(memory.root)["both.md"] == b"changed meanwhile"


def test_nothing_is_applied_from_another_branch(github):
    plan_id = planned(github).outputs["plan_id"]
    runner = github.runner(ref_name="somebody-s-branch")
    runner.contexts["inputs"] = {"plan_id": plan_id, "plan_run": "1"}

    assert not runner.job(APPLY, "review")
    assert runner.ran == []


COMMAND = "##[set-output name=plan_id;]forged"


def commands(text: str) -> list[str]:
    """The lines that the runner would take for commands to itself: both of its forms."""
    found, stopped = [], None
    for line in text.splitlines():
        if stopped is not None:
            stopped = None if line == f"::{stopped}::" else stopped
        elif line.startswith("::stop-commands::"):
            stopped = line.removeprefix("::stop-commands::")
        elif line.lstrip().startswith("::") or "##[" in line:
            found.append(line)
    return found


def test_no_key_of_an_entry_is_a_command_to_the_runner(github, home, memory):
    put_entry(home / "work/memory", COMMAND, "x")
    first = planned(github)
    put_entry(memory.root, COMMAND, "changed meanwhile")
    done, second = applying(github, first.outputs["plan_id"], "apply")

    assert not done
    for ran in (first.ran[0], second.ran[-1]):
        assert inert(COMMAND) in ran.out
        assert "::stop-commands::" in ran.out
    assert [commands(ran.out) for ran in first.ran + second.ran] == [[]] * (
        len(first.ran) + len(second.ran)
    )


HOSTILE = ("$(touch owned)", "`id`", "'; exit 0; '", "--help", "-o", 'a"b', "x\ny")


@pytest.mark.parametrize("text", HOSTILE)
def test_an_input_is_never_a_script_or_a_flag(github, home, text):
    runner = github.runner(event=event_of("team/notes"))
    runner.use(
        "example-org/hdev-memory/.github/actions/hdev-plan@0",
        {"source": text, "target": text, "plan": "./-p", "comment": "false", "labels": "false"},
        runner.contexts,
        {},
    )

    assert runner.failed
    assert [ran.name for ran in runner.ran] == ["Plan"]
    assert runner.ran[0].status != 0
    assert not (home / "work/owned").exists()


def scripts() -> list[tuple[str, str]]:
    found = []
    for path in ACTIONS:
        for step in parsed(path)["runs"]["steps"]:
            found += [(f"{path.parent.name}:{step['id']}", step["run"])] if "run" in step else []
    for name, job in parsed(GITLAB).items():
        if isinstance(job, dict):
            lines = [*job.get("before_script", []), *job.get("script", [])]
            found += [(f"gitlab:{name}:{number}", line) for number, line in enumerate(lines)]
    return found


@pytest.mark.parametrize(("name", "script"), scripts(), ids=[name for name, _ in scripts()])
def test_no_expression_of_the_forge_stands_in_a_script(name, script):
    assert "${{" not in script


def test_every_action_of_others_is_pinned_to_a_commit():
    for path in (*ACTIONS, PLAN, APPLY):
        for uses in re.findall(r"uses: (\S+)", path.read_text()):
            assert re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", uses), uses


@pytest.mark.parametrize("path", [PLAN, APPLY], ids=lambda path: path.name)
def test_a_workflow_begins_with_no_permission_and_runs_no_stranger_code_with_secrets(path):
    workflow = parsed(path)
    events = workflow[True]  # YAML reads `on` so

    assert workflow["permissions"] == {}
    assert "pull_request_target" not in events
    for job in workflow["jobs"].values():
        assert "write-all" not in str(job["permissions"])
        assert job["permissions"].get("contents") in (None, "read")


def test_only_the_job_behind_the_environment_has_the_key_that_writes():
    jobs = {
        f"{path.name}:{name}": job
        for path in (PLAN, APPLY)
        for name, job in parsed(path)["jobs"].items()
    }
    with_key = [name for name, job in jobs.items() if "HDEV_MEMORY_WRITE_KEY" in str(job)]

    assert with_key == ["github-apply.yml:apply"]
    assert jobs["github-apply.yml:apply"]["environment"] == "memory-production"
    assert jobs["github-apply.yml:apply"]["needs"] == "review"


class GitLabJob:
    """The scripts of one job, with its variables and those of the project."""

    def __init__(self, home: Path, name: str, variables: dict[str, str]) -> None:
        jobs = parsed(GITLAB)
        chain = [jobs[name]]
        while "extends" in chain[0]:
            chain.insert(0, jobs[chain[0]["extends"]])
        environ = dict(variables)
        for job in chain:
            for key, value in job.get("variables", {}).items():
                environ[key] = re.sub(r"\$(\w+)", lambda found: environ.get(found[1], ""), value)
        lines = chain[-1]["script"]
        self.done = subprocess.run(
            ["bash", "-eo", "pipefail", "-c", "\n".join(lines)],
            cwd=home / "work",
            env={"PATH": PATH, "HOME": str(home), "GITLAB_CI": "true", **environ},
            capture_output=True, text=True, timeout=50, check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip


@pytest.fixture
def gitlab(home, memory):
    with FakeGitLab("/api/v4") as fake:
        fake.variables = {
            "CI_API_V4_URL": fake.api,
            "CI_PROJECT_ID": "42",
            "HDEV_MEMORY_HTTP_URL": memory.url,
            "HDEV_READ_ONLY_KEY": READ,
            "HDEV_WRITE_KEY": WRITE,
        }
        fake.of_request = {"CI_MERGE_REQUEST_IID": "7", "GITLAB_TOKEN": TOKEN}
        yield fake


def test_a_merge_request_gets_note_label_variables_and_report(gitlab, home, memory):
    before = tree_of(memory.root)
    job = GitLabJob(home, "plan", {**gitlab.variables, **gitlab.of_request})
    variables = dict(
        line.split("=", 1) for line in (home / "work/hdev.env").read_text().splitlines()
    )

    assert job.done.returncode == 0, job.done.stderr
    assert variables["HDEV_TO_OVERWRITE"] == "1"
    assert variables["HDEV_PLAN_ID"] in gitlab.bodies[0]
    assert gitlab.labels == ["hdev: overwrites"]
    report = (home / "work/hdev-report.json").read_text()
    assert report == '{"create":1,"update":1,"delete":0}\n'
    assert tree_of(memory.root) == before
    assert not any(secret in job.done.stdout + job.done.stderr for secret in (TOKEN, READ))


def test_gitlab_applies_only_the_plan_whose_id_was_given(gitlab, home, memory):
    merged = GitLabJob(home, "plan-merged", gitlab.variables)
    plan_id = re.search(r"HDEV_PLAN_ID=(.*)", (home / "work/hdev.env").read_text())[1]
    without = GitLabJob(home, "apply", gitlab.variables)
    wrong = GitLabJob(home, "apply", {**gitlab.variables, "HDEV_EXPECT": "sha256:" + "0" * 64})
    before = dict(tree_of(memory.root))
    right = GitLabJob(home, "apply", {**gitlab.variables, "HDEV_EXPECT": plan_id})

    assert merged.done.returncode == 0, merged.done.stderr
    assert plan_id in merged.done.stdout
    assert without.done.returncode not in (0, 8)
    assert "set it to the plan id" in without.done.stderr
    assert wrong.done.returncode == 8
    assert before["both.md"] == b"as it was"
    assert right.done.returncode == 0, right.done.stderr
    assert tree_of(memory.root)["both.md"] == b"from the repository"


UNSUITED = "SC2154,SC2250,SC2312"
"""Variables that the environment sets; braces around every name; statuses inside of `$(...)`."""


@pytest.mark.parametrize(("name", "script"), scripts(), ids=[name for name, _ in scripts()])
def test_shellcheck_finds_nothing_in_a_script(name, script):
    found = shutil.which("shellcheck", path=PATH)
    if found is None:
        pytest.skip("shellcheck is not installed; `nox -s tests` has it")
    command = [found, "--norc", "--shell=bash", "--enable=all", f"--exclude={UNSUITED}", "-"]
    done = subprocess.run(
        command, input=script, capture_output=True, text=True, timeout=50, check=False
    )

    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", ["hdev-plan", "hdev-apply"])
def test_an_action_installs_the_detector_that_a_policy_may_ask_for(name):
    text = (ROOT / ".github/actions" / name / "action.yml").read_text()

    assert '"${root}[secrets]"' in text
