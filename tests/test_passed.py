"""What a snapshot has passed can be gone through again."""

import pytest

from hdev_memory.core.entry import State, Unreadable
from hdev_memory.core.stretch import Stretch, state_line
from hdev_memory.passed import Passed

STATE = State(content="0" * 64, metadata="1" * 64, bytes=7)


def stretch(*keys):
    lines = b"".join(state_line(key, STATE) for key in keys)
    return Stretch(
        first=keys[0], last=keys[-1], count=len(keys), size=7, lines=lines, metadata=b"[]"
    )


def test_the_keys_come_again_in_their_order_as_often_as_wanted():
    with Passed() as passed:
        passed.add(stretch("a/b", 'a/"c,\\u0041', "a/é"))
        passed.add(Unreadable(key="b\n\\", reason="is a link"))
        passed.add(stretch("c"))

        expected = ["a/b", 'a/"c,\\u0041', "a/é", "b\n\\", "c"]
        assert list(passed) == expected
        assert list(passed) == expected


@pytest.mark.parametrize("count", [0, 1, 50_000])
def test_any_number_of_keys_is_kept(count):
    keys = [f"team/{number:06}" for number in range(count)]
    with Passed() as passed:
        for begin in range(0, count, 500):
            passed.add(stretch(*keys[begin : begin + 500]))

        assert list(passed) == keys
