"""The map: areas in proportion, nothing lost, nothing outside, and never too many tiles."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hdev_memory.review import treemap
from hdev_memory.review.document import KINDS, Row
from hdev_memory.review.treemap import Box

ROWS = st.lists(
    st.builds(
        Row,
        kind=st.sampled_from(KINDS),
        key=st.lists(st.sampled_from("abc"), min_size=1, max_size=4).map("/".join),
        before=st.none() | st.integers(0, 10_000),
        after=st.none() | st.integers(0, 10_000),
        reason=st.just(""),
    ),
    max_size=40,
)


@given(
    weights=st.lists(st.floats(0.5, 1000), min_size=1, max_size=40),
    width=st.floats(1, 1000),
    height=st.floats(1, 1000),
)
def test_each_weight_gets_its_share_of_the_box_and_no_more(weights, width, height):
    weights = sorted(weights, reverse=True)
    boxes = treemap.squarify(weights, Box(x=3, y=5, width=width, height=height))
    scale = width * height / sum(weights)

    assert [box.width * box.height for box in boxes] == pytest.approx(
        [weight * scale for weight in weights]
    )
    for box in boxes:
        assert box.x >= 3 - 1e-6
        assert box.y >= 5 - 1e-6
        assert box.x + box.width <= 3 + width + 1e-6
        assert box.y + box.height <= 5 + height + 1e-6


@given(rows=ROWS, most=st.integers(1, 30))
def test_every_action_is_on_the_map_once(rows, most):
    drawn = treemap.draw(treemap.leaves(rows), 600, 400, most)
    kinds = [row.kind for row in rows]

    assert sum(tile.count for tile in drawn.tiles) == len(rows)
    for kind in KINDS:
        assert sum(tile.count for tile in drawn.tiles if tile.kind == kind) == kinds.count(kind)


@given(rows=ROWS, most=st.integers(1, 30))
def test_the_key_of_each_tile_and_of_each_region_begins_with_its_prefix(rows, most):
    drawn = treemap.draw(treemap.leaves(rows), 600, 400, most)

    for part in (*drawn.tiles, *drawn.regions):
        assert rows[part.number - 1].key.startswith(part.prefix)


@given(rows=ROWS)
def test_everything_is_inside_the_map(rows):
    drawn = treemap.draw(treemap.leaves(rows), 600, 400, 30)

    for part in (*drawn.tiles, *drawn.regions):
        assert part.box.x >= 0
        assert part.box.y >= 0
        assert part.box.x + part.box.width <= 600.2
        assert part.box.y + part.box.height <= 400.2


@pytest.mark.parametrize("key", ["note{0:05}", "a/b/note{0:05}", "{0}/note", "d{1}/e{2}/note{0}"])
def test_ten_thousand_actions_need_hardly_more_tiles_than_asked_for(key):
    rows = [
        Row(
            kind=KINDS[number % 5],
            key=key.format(number, number % 7, number % 43),
            before=number % 900,
            after=number % 300,
            reason="",
        )
        for number in range(10_000)
    ]
    drawn = treemap.draw(treemap.leaves(rows), 1200, 400, 100)

    assert 50 <= len(drawn.tiles) <= 100 * len(KINDS)
    assert len(drawn.regions) <= 200


def test_an_action_without_a_size_is_on_the_map():
    rows = [
        Row(kind="create", key="large", before=None, after=1_000_000, reason=""),
        Row(kind="blocked", key="unknown", before=None, after=None, reason=""),
    ]
    _, blocked = treemap.draw(treemap.leaves(rows), 1200, 400, 100).tiles

    assert blocked.kind == "blocked"
    assert blocked.box.width * blocked.box.height > 1000


def test_keys_that_are_thousands_of_folders_deep_are_drawn():
    rows = [
        Row(kind="create", key="a/" * depth + "end", before=None, after=10, reason="")
        for depth in range(500)
    ]
    drawn = treemap.draw(treemap.leaves(rows), 1200, 400, 200)

    assert sum(tile.count for tile in drawn.tiles) == 500
