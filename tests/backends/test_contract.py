"""The backends that we ship keep every promise; HTTP over real sockets."""

import contextlib
import re
from pathlib import Path

import pytest
from tests.backends.contract import KINDS, store, subject
from tests.conftest import tree_of

from hdev_memory.backends.base import EVERYTHING
from hdev_memory.conformance.checks import CHECKS
from hdev_memory.conformance.run import Broken, Kept, Left, Skipped, examine, run
from hdev_memory.core.entry import Normalisation
from hdev_memory.durable import KEPT_PREFIX

BY_KIND = {
    "ephemeral": {"unreadable", "vanished", "entry-limit", "lock-excludes"},
    "filesystem": {"entry-limit"},
    "sqlite": {"entry-limit"},
    "postgres": {"entry-limit"},
    "http-ephemeral": {"unreadable", "vanished"},
    "http-filesystem": set(),
    "http-sqlite": set(),
    "http-postgres": set(),
    "http-filesystem-classic": set(),
    "http-existing": {
        "names-with-dots",
        "entry-beside-folder",
        "interleaved-create",
        "interleaved-overwrite",
        "interleaved-removal",
        "one-winner",
        "no-lost-update",
        "overwrites-seen-whole",
        "creations-seen-whole",
        "lock-excludes",
        "entry-limit",
    },
}
"""The promises that do not concern a backend; every other one has to be kept."""


@pytest.fixture(scope="module")
def subjects(tmp_path_factory, request):
    """A subject for each kind of store, opened at first use, for all checks."""
    with contextlib.ExitStack() as stack:
        made = {}

        def get(kind):
            if kind not in made:
                root = tmp_path_factory.mktemp("store") / "root"
                again, faults = stack.enter_context(
                    store(kind, root, lambda: request.getfixturevalue("postgres"))
                )
                made[kind] = subject(stack.enter_context(again()), again, faults)
            return made[kind]

        yield get


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
@pytest.mark.parametrize("kind", KINDS)
def test_promise(subjects, kind, check):
    result = examine(subjects(kind), check)

    wanted = Skipped if check.name in BY_KIND[kind] else Kept
    assert isinstance(result, wanted), result


@pytest.mark.long
@pytest.mark.parametrize("kind", ["filesystem", "http-sqlite"])
def test_a_whole_run_keeps_every_promise_and_leaves_no_entry(kind, tmp_path):
    told = []
    with store(kind, tmp_path / "root") as (again, faults), again() as backend:
        made = subject(backend, again, faults)
        before = made.record.outside
        summary = run(made, told.append)
        after = {item.key: item.state for item in backend.snapshot(EVERYTHING, Normalisation())}

    assert summary.failed == 0
    assert summary.not_applicable == len(BY_KIND[kind])
    assert summary.ok + summary.not_applicable == len(CHECKS)
    assert after == before
    assert [result.check for result in told if not isinstance(result, Left)] == [
        check.name for check in CHECKS
    ]
    assert not [result for result in told if isinstance(result, Broken)]
    left = [name for name in tree_of(tmp_path / "root") if name.startswith("check/")]
    assert [name for name in left if KEPT_PREFIX not in name] == []


def test_the_documentation_lists_every_check_with_its_promise():
    text = (Path(__file__).parents[2] / "docs/backends.md").read_text()
    rows = re.findall(r"^\| `(.*)` \| (.*) \| (.*) \|$", text, re.M)

    assert rows == [(check.name, check.group, check.promise) for check in CHECKS]
