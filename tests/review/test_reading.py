"""What is read for a review: checked against the plan, bounded, and honest about what was not."""

from dataclasses import replace

import pytest
from tests.review import plans

from hdev_memory.backends.base import Put
from hdev_memory.core.diff import Create
from hdev_memory.core.entry import Entry
from hdev_memory.errors import StoreError
from hdev_memory.review import document, reading
from hdev_memory.review.reading import BRIEF, read


def changed(store, key, content, metadata=None):
    """Write over an entry as somebody else would."""
    (held,) = store.read([key])
    before = plans.NORMAL.state(held.content, held.metadata)
    after = plans.NORMAL.state(content, metadata or {})
    put = Put(key=key, content=content, metadata=metadata or {}, before=before, after=after)
    (receipt,) = store.write([put], plans.NORMAL)
    assert type(receipt).__name__ == "Stored"


@pytest.fixture
def ordinary(tmp_path):
    opened, ours, theirs = plans.compared(tmp_path, plans.SOURCE, plans.TARGET)
    with opened, ours, theirs:
        yield opened, ours, theirs


def test_every_action_is_compared(ordinary):
    looked = read(*ordinary)

    assert looked.left == {}
    assert looked.why == ""
    assert set(looked.details) == {action.key for action in ordinary[0].actions()}
    assert all(details.drift == "" for details in looked.details.values())


def test_an_entry_that_stays_shows_the_metadata_alone(ordinary):
    details = read(*ordinary).details["only-metadata"]

    assert details.content is None
    assert [change.line for change in details.metadata] == ["reviewed: false -> true"]


def test_bookkeeping_is_told_apart(ordinary):
    told = {c.path: c.bookkeeping for c in read(*ordinary).details["notes/old"].metadata}

    assert told == {"owner": False, "tags[1]": False, "updated": True}


def test_names_that_look_alike_are_pointed_out_on_both(ordinary):
    twins = read(*ordinary).twins

    assert twins["people/\u0430nn"] == ("people/ann",)
    assert twins["people/ann"] == ("people/\u0430nn",)


def test_a_twin_that_only_the_target_holds_is_found(tmp_path):
    source, target = {"people/ann": ("y", {})}, {"People/Ann": ("x", {})}
    opened, ours, theirs = plans.compared(tmp_path, source, target, delete=False)
    with opened:
        assert read(opened, ours, theirs).twins == {"people/ann": ("People/Ann",)}


@pytest.mark.parametrize(
    ("end", "key", "words"),
    [
        (2, "notes/old", "the target has changed since the plan was made"),
        (1, "notes/old", "the source has changed since the plan was made"),
        (2, "scratch", "the target has changed since the plan was made"),
        (1, "notes/new", "the source has changed since the plan was made"),
    ],
)
def test_drift_of_an_end_is_shown_and_nothing_else_of_that_entry(ordinary, end, key, words):
    changed(ordinary[end], key, b"by somebody else")
    details = read(*ordinary).details

    assert details[key] == reading.Details(drift=words)
    assert [k for k, found in details.items() if found.drift] == [key]


def test_an_entry_that_came_and_one_that_went_are_drift(tmp_path):
    opened, ours, _ = plans.compared(tmp_path, plans.SOURCE, plans.TARGET)
    with opened:
        other = read(opened, ours, plans.filled("t", {"notes/new": ("others", {})}))

    assert other.details["notes/old"].drift == "the target has no such entry any more"
    assert other.details["notes/new"].drift == "the target has such an entry by now"


def test_what_is_done_already_is_no_drift(tmp_path):
    opened, _, _ = plans.compared(tmp_path, plans.SOURCE, plans.TARGET)
    with opened:
        done = read(opened, plans.filled("s", {}), plans.filled("t", plans.SOURCE))

    assert set(done.details.values()) == {reading.Details(note=reading.DONE)}


class Failing:
    """A reader that fails at the first batch that holds a key."""

    def __init__(self, reader, key):
        self._reader = reader
        self._key = key
        self.failed = False

    def read(self, keys):
        if self._key in keys:
            self.failed = True
            raise StoreError("The store went away.", why="\x1b[2J")
        return self._reader.read(keys)

    def keys(self, scope):
        return self._reader.keys(scope)


@pytest.mark.parametrize("end", [1, 2])
def test_an_end_that_fails_in_the_middle_leaves_what_was_read(tmp_path, end):
    source = {f"key/{number:02}": (f"{number}\n", {}) for number in range(40)}
    made = list(plans.compared(tmp_path, source, {}, delete=False))
    made[end] = failing = Failing(made[end], "key/20")
    with made[0]:
        looked = read(*made)
        described = plans.described(made[0], looked)

    assert failing.failed
    assert sorted(looked.details) == [f"key/{number:02}" for number in range(16)]
    assert looked.left == {"create": 24}
    assert looked.why == "The store went away. \\u{1b}[2J"
    assert document.unread(described) == (
        "CONTENTS NOT SHOWN HERE: of 24 create. The store went away. \\u{1b}[2J"
    )


def test_what_destroys_is_read_first(ordinary):
    looked = read(*ordinary, replace(BRIEF, entries=3))

    assert set(looked.details) == {"people/ann", "scratch", "notes/end"}
    assert looked.left == {"overwrite": 2, "create": 2}


def test_the_bytes_that_are_read_are_bounded(ordinary):
    looked = read(*ordinary, replace(BRIEF, bytes=60))

    assert set(looked.details) == {"people/ann", "scratch"}


def test_the_lines_that_are_shown_are_bounded_in_all(ordinary):
    looked = read(*ordinary, replace(BRIEF, all_lines=6))
    changes = [d.content for d in looked.details.values() if d.content is not None]

    assert sum(len(hunk.lines) for change in changes for hunk in change.hunks) <= 6
    assert all(change.left for change in changes if not change.hunks)


def test_an_entry_that_is_too_large_says_so(ordinary):
    details = read(*ordinary, replace(BRIEF, entry_bytes=900)).details["notes/old"]

    assert details.content is None
    assert details.note == "its content is too large to be compared here (951 bytes)"


@pytest.mark.parametrize("only", [None, "create", "delete"])
@pytest.mark.parametrize("key", [None, "notes/*", "nothing"])
def test_only_what_is_asked_for_is_read(ordinary, only, key):
    class Watched(Failing):
        def __init__(self, reader):
            super().__init__(reader, None)
            self.seen = set()

        def read(self, keys):
            self.seen |= set(keys)
            return super().read(keys)

    opened, ours, theirs = ordinary
    watched = Watched(theirs)
    looked = read(opened, ours, watched, only=only, key=key)
    asked = {a.key for a in opened.actions() if reading.asked(reading.kind_of(a), a.key, only, key)}

    assert set(looked.details) == watched.seen == asked
    assert looked.left == {}


def test_a_content_of_ten_megabytes_is_not_compared(tmp_path):
    after = plans.NORMAL.state(b"x" * 10_000_000, {})

    class Huge(Failing):
        def __init__(self):
            super().__init__(plans.filled("huge", {}), None)

        def read(self, keys):
            for key in keys:
                yield Entry(key=key, content=b"x" * 10_000_000, metadata={})

    with plans.opened(tmp_path, (Create(key="a", after=after, reason="new"),)) as opened:
        looked = read(opened, Huge(), plans.filled("t", {}))

    assert looked.details["a"].note == (
        "its content is too large to be compared here (10000000 bytes)"
    )
