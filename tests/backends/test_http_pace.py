"""How many requests are under way at once, against servers that are told by two numbers."""

import itertools
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from hdev_memory.backends.http_pace import START, Gate, Width

CALL = 0.01


def settled(width, able, calls=4000):
    """The widths that come of a server that carries out `able` calls at a time, 10 ms each."""
    now, seen = 0.0, []
    width.begin(now)
    for _ in range(calls):
        waited = CALL * max(1.0, width.width / able)
        now += waited / width.width
        width.done(waited, now)
        seen.append(width.width)
    return seen


def test_it_grows_as_long_as_the_server_answers_more():
    assert settled(Width(64, 0.0), able=16)[-1] in (16, 17)


def test_it_never_grows_beyond_what_is_allowed():
    assert max(settled(Width(8, 0.0), able=100)) == 8
    assert set(settled(Width(1, 0.0), able=100)) == {1}


def test_a_server_that_does_one_thing_at_a_time_is_not_flooded():
    seen = settled(Width(64, 0.0), able=1)

    assert max(seen) == START + 1
    assert sum(seen) / len(seen) < START + 0.5


def test_it_goes_back_when_answers_take_longer():
    width = Width(16, 0.0)
    before = settled(width, able=16)[-1]
    now = 1000.0
    for latency in (CALL, CALL * 4):
        for _ in range(200):
            now += latency / width.width
            width.done(latency, now)

    assert width.width < before


def test_it_is_halved_when_the_server_asks_to_come_later_and_grows_again():
    width = Width(16, 0.0)
    settled(width, able=16)
    before = width.width
    width.refused(0.0)
    after = width.width
    for _ in range(10):
        width.refused(0.0)

    assert after == before // 2
    assert width.width == 1
    assert settled(width, able=16)[-1] > 8


@pytest.mark.parametrize("most", [1, 3])
def test_no_more_calls_are_under_way_than_the_width(most):
    ticks = itertools.count()
    busy, highest, guard = 0, 0, threading.Lock()

    def call(number):
        nonlocal busy, highest
        with guard:
            busy += 1
            highest = max(highest, busy)
        with guard:
            busy -= 1
        return number

    with ThreadPoolExecutor(8) as pool:
        gate = Gate(most, lambda: next(ticks) / 1000, pool)
        futures = [gate.submit(call, number) for number in range(240)]
        found = [future.result(20) for future in futures]

    assert found == list(range(240))
    assert busy == 0
    assert 1 <= highest <= most


def test_as_many_calls_are_under_way_as_the_width_allows():
    ticks = itertools.count()
    together = threading.Barrier(3, timeout=20)
    with ThreadPoolExecutor(8) as pool:
        gate = Gate(3, lambda: next(ticks) / 1000, pool)
        futures = [gate.submit(lambda _: together.wait(), number) for number in range(9)]
        found = [future.result(20) for future in futures]

    assert sorted(found) == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_a_call_that_fails_or_is_given_up_leaves_its_turn_to_the_next():
    ticks = itertools.count()
    first = threading.Event()

    def call(number):
        assert first.wait(20)
        if number == 0:
            raise KeyError
        return number

    with ThreadPoolExecutor(2) as pool:
        gate = Gate(1, lambda: next(ticks) / 1000, pool)
        futures = [gate.submit(call, number) for number in range(3)]
        cancelled = futures[1].cancel()
        first.set()

        assert cancelled
        assert isinstance(futures[0].exception(20), KeyError)
        assert futures[2].result(20) == 2
