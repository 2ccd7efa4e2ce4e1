"""What a pipeline's runner does with our actions and templates: just so much that each of their
scripts is run by bash, with the environment and the files that it would have there."""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
ACTIONS = "example-org/hdev-memory/.github/actions/"
PATH = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"


@functools.cache
def parsed(path: Path) -> dict[str, Any]:
    """A YAML file; nobody changes what is read from it."""
    found: dict[str, Any] = yaml.safe_load(path.read_text())
    return found


@dataclass
class Ran:
    """One script: where it stood, its exit status, and what it said."""

    name: str
    status: int
    out: str


@dataclass
class Runner:
    """One run of a workflow; `contexts` are those that its expressions name."""

    home: Path
    workspace: Path
    contexts: dict[str, Any]
    environ: dict[str, str]
    artifacts: Path
    ran: list[Ran] = field(default_factory=list)
    summary: str = ""
    failed: bool = False
    skipped: list[str] = field(default_factory=list)
    leave_out: frozenset[str] = frozenset({"install"})
    """Steps that cannot be run here: what is installed would come from a package index."""

    def job(self, workflow: Path, name: str) -> bool:
        """Whether the job ran (its `if` held) and succeeded; steps behind a failed one are not run
        but for those that are `always()`."""
        job = parsed(workflow)["jobs"][name]
        self.failed = False
        if not self.true(job.get("if", "true"), self.contexts):
            return False
        self.steps(job["steps"], self.contexts, {})
        return not self.failed

    def steps(
        self, steps: list[dict[str, Any]], contexts: dict[str, Any], outer: dict[str, str]
    ) -> dict[str, Any]:
        outputs: dict[str, Any] = {}
        contexts = {**contexts, "steps": outputs}
        for step in steps:
            wanted = str(step.get("if", "true"))
            if (self.failed and "always()" not in wanted) or not self.true(wanted, contexts):
                self.skipped.append(step.get("id", step["name"]))
                continue
            environ = outer | {
                key: self.text(value, contexts) for key, value in step.get("env", {}).items()
            }
            given = {key: self.text(value, contexts) for key, value in step.get("with", {}).items()}
            if "uses" in step:
                self.use(step["uses"], given, contexts, environ)
            elif step.get("id") not in self.leave_out:
                outputs[step.get("id", "")] = {"outputs": self.bash(step, environ)}
        return outputs

    def use(
        self, uses: str, given: dict[str, str], contexts: dict[str, Any], environ: dict[str, str]
    ) -> None:
        name = uses.partition("@")[0]
        if name == "actions/checkout":
            return
        if name == "actions/upload-artifact":
            self.upload(given)
        elif name == "actions/download-artifact":
            shutil.copytree(self.artifacts / given["name"], self.workspace / given["path"],
                            dirs_exist_ok=True)  # fmt: skip
        else:
            assert name.startswith(ACTIONS), name
            place = ROOT / ".github/actions" / name.removeprefix(ACTIONS)
            action = parsed(place / "action.yml")
            assert given.keys() <= action["inputs"].keys(), given
            missing = [
                key for key, spec in action["inputs"].items()
                if spec.get("required") and key not in given
            ]  # fmt: skip
            assert missing == []
            inputs = {
                key: given.get(key, self.text(spec.get("default", ""), contexts))
                for key, spec in action["inputs"].items()
            }
            inner = self.steps(
                action["runs"]["steps"], {**contexts, "inputs": inputs},
                {**environ, "GITHUB_ACTION_PATH": str(place)},
            )  # fmt: skip
            self.outputs = {
                key: self.text(spec["value"], {"steps": inner})
                for key, spec in action.get("outputs", {}).items()
            }

    def bash(self, step: dict[str, Any], environ: dict[str, str]) -> dict[str, str]:
        assert "${{" not in step["run"], "an expression in a script is an injection"
        files = {"GITHUB_OUTPUT": "out", "GITHUB_STEP_SUMMARY": "md", "GITHUB_PATH": "path"}
        places = {key: self.home / f"runner-{name}" for key, name in files.items()}
        for place in places.values():
            place.write_text("")
        done = subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]],
            cwd=self.workspace,
            env={
                "PATH": PATH, "HOME": str(self.home), "RUNNER_TEMP": str(self.home),
                **self.environ, **environ, **{key: str(place) for key, place in places.items()},
            },
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,  # one log, in the order of writing
            text=True, timeout=50, check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        self.ran.append(Ran(step["name"], done.returncode, done.stdout))
        self.failed = self.failed or done.returncode != 0
        self.summary += places["GITHUB_STEP_SUMMARY"].read_text()
        return read_outputs(places["GITHUB_OUTPUT"].read_text())

    def upload(self, given: dict[str, str]) -> None:
        """Without hidden files and empty folders, as that action does it."""
        wanted, *unwanted = given["path"].split()
        place = self.workspace / wanted
        for file in sorted(place.rglob("*")):
            inside = file.relative_to(place)
            hidden = any(part.startswith(".") for part in inside.parts)
            out = any(f"!{wanted}/{inside.parts[0]}" == pattern for pattern in unwanted)
            if file.is_file() and not hidden and not out:
                copy = self.artifacts / given["name"] / inside
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(file, copy)

    def text(self, value: Any, contexts: dict[str, Any]) -> str:
        def found(match: re.Match[str]) -> str:
            return as_text(look_up(match[1], contexts))

        return re.sub(r"\$\{\{\s*([\w.-]+)\s*\}\}", found, as_text(value))

    def true(self, condition: str, contexts: dict[str, Any]) -> bool:
        """`&&` of comparisons, names and `always()`: what our files use."""
        return all(self._holds(term.strip(), contexts) for term in str(condition).split("&&"))

    def _holds(self, term: str, contexts: dict[str, Any]) -> bool:
        if term in ("always()", "true"):
            return True
        left, compared, right = (part.strip() for part in term.partition("=="))
        value = look_up(left, contexts)
        if not compared:
            return value is True or (isinstance(value, str) and value != "")
        expected = right[1:-1] if right.startswith("'") else look_up(right, contexts)
        return as_text(value) == as_text(expected)


def as_text(value: Any) -> str:
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)


def look_up(name: str, contexts: dict[str, Any]) -> Any:
    found: Any = contexts
    for part in name.split("."):
        found = found.get(part) if isinstance(found, dict) else None
    return found


def read_outputs(text: str) -> dict[str, str]:
    """The file of GITHUB_OUTPUT, both forms."""
    found = {}
    lines = iter(text.splitlines())
    for line in lines:
        name, here, mark = line.partition("<<")
        if here and "=" not in name:
            found[name] = "\n".join(iter(lambda: next(lines), mark))
        else:
            name, _, found[line.partition("=")[0]] = line.partition("=")
    return found


def event_file(home: Path, event: dict[str, Any]) -> Path:
    place = home / "event.json"
    place.write_text(json.dumps(event))
    return place
