"""How many requests are under way at once, against servers that are told by two numbers."""

import itertools
import threading

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
    gate = Gate(most, lambda: next(ticks) / 1000)
    busy, highest, guard = 0, 0, threading.Lock()

    def call():
        nonlocal busy, highest
        for _ in range(30):
            with gate.passing():
                with guard:
                    busy += 1
                    highest = max(highest, busy)
                with guard:
                    busy -= 1

    threads = [threading.Thread(target=call) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)

    assert busy == 0
    assert 1 <= highest <= most


def test_a_call_that_fails_gives_its_turn_back():
    ticks = itertools.count()
    gate = Gate(1, lambda: next(ticks) / 1000)
    for _ in range(3):
        with pytest.raises(KeyError), gate.passing():
            raise KeyError
