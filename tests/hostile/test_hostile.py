"""Each thing that a hostile server does, and that the table in the documentation tells it."""

from pathlib import Path

import pytest

from tests.hostile import answers, batches, reads, writes
from tests.hostile.scene import CASES, played

TABLE = Path(__file__).parents[2] / "docs/hostile-servers.md"


@pytest.mark.parametrize("name", CASES)
def test_what_a_hostile_server_does_comes_to_its_outcome(name, hdev, home):
    chosen = CASES[name]
    with played(chosen, hdev, home) as scene:
        chosen.show(scene)


def test_the_table_in_the_documentation_is_the_list_of_cases():
    rows = [line for line in TABLE.read_text().splitlines() if line.startswith("| ")]

    assert rows[1:] == [chosen.row for chosen in CASES.values()]
    assert len(rows) > 45
    assert {chosen.show.__module__ for chosen in CASES.values()} == {
        module.__name__ for module in (answers, reads, writes, batches)
    }
