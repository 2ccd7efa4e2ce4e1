"""The walk-through of docs/promotion.md runs: at a terminal, with servers, git and ssh-keygen."""

import os
import re
import sys
from pathlib import Path

import pexpect
import pytest

from hdev_memory.core.digest import sha256
from tests.test_docs import ROOT, free_port

PAGE = ROOT / "docs/promotion.md"
QUESTION = r"type the first 6 hex digits of the plan id: "


def blocks():
    """(commands, lines that they show) in order."""
    text = PAGE.read_text()
    found = re.findall(r"^```bash\n(.*?)^```\n(?:\n```text\n(.*?)^```\n)?", text, re.M | re.S)
    assert len(found) == text.count("```bash\n")
    assert sum(bool(shown) for _, shown in found) == text.count("```text\n")
    return found


def in_order(lines, shown):
    """The first line that is not shown after those before it, whole; None where all are.

    `…` stands for what is another digest or time in each run.
    """
    left = iter(shown.replace("\r", "").splitlines())
    for line in lines:
        told = re.compile(".+".join(map(re.escape, line.split("…"))))
        if not any(told.fullmatch(one) for one in left):
            return line
    return None


@pytest.mark.long
def test_the_way_to_production_runs_as_written_and_shows_what_it_says(tmp_path):
    environ = {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "COLUMNS": "200",
        "NO_COLOR": "1",
        "TERM": "dumb",
        **{f"GIT_{who}_{what}": "cid@example.com" for who in ("AUTHOR", "COMMITTER")
           for what in ("NAME", "EMAIL")},
    }  # fmt: skip
    ports = {"8081": str(free_port()), "8082": str(free_port())}
    marked = "".join(
        f"{commands}echo '<end of block {number}>'\n"
        for number, (commands, _) in enumerate(blocks())
    )
    for told, real in ports.items():
        marked = marked.replace(told, real)
    (tmp_path / "walk").write_text(
        "set -euo pipefail\ntrap 'kill ${staging:-} ${production:-} 2>/dev/null || :' EXIT\n"
        + marked
    )
    shell = pexpect.spawn(
        "bash", ["walk"], cwd=tmp_path, env=environ, timeout=50, encoding="utf-8",
        dimensions=(50, 200), echo=False,
    )  # fmt: skip
    try:
        for number, (commands, lines) in enumerate(blocks()):
            shown = ""
            while True:
                met = shell.expect([f"<end of block {number}>", QUESTION, pexpect.EOF])
                shown += shell.before
                assert met != 2, f"{commands}\n{shown}"
                if met == 0:
                    break
                plan = (tmp_path / "promotion/team/plans/to-production/plan.json").read_bytes()
                shell.sendline(sha256(plan)[:6])
            missing = in_order(lines.splitlines(), shown)

            assert missing is None, f"{commands}\nlacks {missing!r}:\n{shown}"
        shell.expect(pexpect.EOF)
    finally:
        shell.close(force=True)
    assert shell.exitstatus == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == [".cache", "promotion", "walk"]
