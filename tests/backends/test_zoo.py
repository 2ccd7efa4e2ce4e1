"""Every broken backend of the zoo is found by the check that is named for it."""

import contextlib

import pytest
from msgspec.structs import replace
from tests.backends.contract import store, subject
from tests.backends.zoo import ZOO, Animal, Crashes, Folder, RemovesNothing

from hdev_memory.backends.base import UNATTENDED
from hdev_memory.conformance.checks import CHECKS
from hdev_memory.conformance.run import Broken, Kept, Left, Skipped, examine, run
from hdev_memory.errors import BackendError

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


class Ends(Animal):
    """Works for a while; `error` is what the rest of the writes meet."""

    writes = 0
    error: BaseException

    def write(self, batch, normal, session=UNATTENDED):
        type(self).writes += 1
        if self.writes == 20:
            raise self.error
        return self.inner.write(batch, normal, session)


def test_an_interrupt_in_the_middle_of_a_check_leaves_nothing(caged):
    class Interrupted(Ends):
        error = KeyboardInterrupt()

    told = []
    made = caged(Interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(made, told.append)

    assert len(told) > 5
    assert [result for result in told if isinstance(result, Left)] == []
    assert list(made.backend.keys()) == ["theirs/a"]


def test_a_backend_that_goes_away_ends_the_run_and_what_may_be_left_is_named(caged):
    class Unreachable(Ends):
        gone = False

        def write(self, batch, normal, session=UNATTENDED):
            type(self).gone = self.gone or self.writes >= 20
            list(self.read([]))
            return super().write(batch, normal, session)

        def read(self, keys):
            if self.gone:
                raise BackendError("The memory server cannot be reached.")
            return self.inner.read(keys)

        error = BackendError("The memory server cannot be reached.")

    told = []
    with pytest.raises(BackendError):
        run(caged(Unreachable), told.append)

    assert isinstance(told[-1], Left)
    assert "check/new-entry/a/b" in told[-1].entries
    assert told[-1].reason == "The memory server cannot be reached."
