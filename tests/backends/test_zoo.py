"""Every broken backend of the zoo is found by the check that is named for it."""

import contextlib

import pytest
from msgspec.structs import replace
from tests.backends.contract import store, subject
from tests.backends.zoo import ZOO, Animal, Crashes, Folder, RemovesNothing

from hdev_memory.conformance.checks import CHECKS
from hdev_memory.conformance.run import Broken, Kept, Left, Skipped, examine, run

BY_NAME = {check.name: check for check in CHECKS}


@pytest.fixture
def caged(tmp_path):
    """Put an animal around a store, and hand out the subject of its checks."""
    with contextlib.ExitStack() as stack:

        def cage(animal):
            again, faults = stack.enter_context(store(animal.store, tmp_path / "root"))
            opened = stack.enter_context(animal(again()))
            return subject(opened, lambda: animal(again()), faults)

        yield cage


@pytest.mark.parametrize(
    ("animal", "name"), ZOO.items(), ids=lambda item: getattr(item, "__name__", "")
)
def test_a_broken_backend_fails_its_check(caged, animal, name):
    made = caged(animal)
    if BY_NAME[name].last:
        examine(made, BY_NAME["new-entry"])
    result = examine(made, BY_NAME[name])

    assert isinstance(result, Broken)
    assert result.expected
    assert result.found


@pytest.mark.parametrize("animal", [Animal, Folder], ids=lambda animal: animal.store)
def test_what_is_around_a_store_breaks_nothing_by_itself(caged, animal):
    made = caged(animal)
    results = [examine(made, BY_NAME[name]) for name in sorted(set(ZOO.values()))]

    assert [result for result in results if isinstance(result, Broken)] == []
    assert sum(isinstance(result, Kept) for result in results) > 50


def test_every_check_finds_some_broken_backend():
    """No check is there that could not fail."""
    assert set(BY_NAME) == set(ZOO.values())


@pytest.mark.parametrize(
    ("declared", "name"),
    [
        ({"line_ends": "lf"}, "line-ends"),
        ({"metadata": "merge"}, "metadata-as-declared"),
        ({"cas": "guarded"}, "interleaved-overwrite"),
        ({"max_entry_bytes": 1000}, "entry-limit"),
        ({"max_segment_bytes": 100}, "name-limit"),
    ],
)
def test_declaring_less_than_is_kept_is_a_note(caged, declared, name):
    class Modest(Animal):
        def __init__(self, inner):
            super().__init__(inner)
            self.capabilities = replace(inner.capabilities, **declared)

    result = examine(caged(Modest), BY_NAME[name])

    assert isinstance(result, Kept | Skipped)
    assert len(result.notes) == 1


def test_a_run_goes_on_after_a_failing_check(caged):
    told = []
    summary = run(caged(Crashes), told.append)

    assert [result.check for result in told if not isinstance(result, Left)] == list(BY_NAME)
    assert summary.failed > 40
    assert next(r for r in told if isinstance(r, Broken)).found == "ZeroDivisionError"


def test_a_run_says_what_it_could_not_remove(caged):
    told = []
    made = caged(RemovesNothing)
    run(made, told.append)
    (left,) = [result for result in told if isinstance(result, Left)]

    assert "check/new-entry/a/b" in left.entries
    standing = list(made.backend.keys())
    assert set(left.entries) == {key for key in standing if key.startswith("check/")}
