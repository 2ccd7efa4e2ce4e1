"""Planning's own decisions: one memory under two names, the limit on deletes, portable places."""

import subprocess
import sys

import pytest

from hdev_memory.backends.base import UNATTENDED, Endpoint, Put
from hdev_memory.backends.ephemeral import EphemeralBackend
from hdev_memory.core.entry import Normalisation
from hdev_memory.core.plan import Limits, Options, Provenance, Summary
from hdev_memory.errors import PolicyError, StoreError, UsageError
from hdev_memory.planning import (
    Request,
    guard_deletes,
    parse_max_delete,
    plan,
    portable,
    refuse_same_store,
)


class End:
    """As much of a reader as its identity."""

    def __init__(self, kind, location, store=None, stores=()):
        self.endpoint = Endpoint(kind=kind, location=location, store=store)
        self.stores = set(stores)


SAME = [
    (End("http", "http://localhost:80"), End("http", "http://127.0.0.1")),
    (End("http", "http://[::1]:8080/"), End("http", "http://localhost:8080")),
    (End("http", "https://HOST.example"), End("http", "https://host.example.:443/")),
    (End("http", "https://one", "id"), End("http", "https://two", "id")),
    (End("filesystem", "/s", "id"), End("http", "https://one", "id")),
    (End("filesystem", "/s", None, {"id"}), End("http", "https://one", "id")),
    (End("filesystem", "/s"), End("filesystem", "/s/below")),
    (End("ephemeral", "m"), End("ephemeral", "m")),
]
DIFFERENT = [
    (End("http", "http://localhost:80"), End("http", "http://127.0.0.1:81")),
    (End("http", "https://one"), End("http", "http://one")),
    (End("http", "https://one/a"), End("http", "https://one/b")),
    (End("http", "https://one", "id"), End("http", "https://two", "other")),
    (End("filesystem", "/s"), End("filesystem", "/store")),
    (End("ephemeral", "m"), End("ephemeral", "n")),
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_one_memory_under_two_names_is_refused_either_way(one, other):
    for source, target in ((one, other), (other, one)):
        with pytest.raises(StoreError):
            refuse_same_store(source, target)


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_two_memories_are_let_through(one, other):
    refuse_same_store(one, other)
    refuse_same_store(other, one)


def summary(delete, found=10):
    counts = dict.fromkeys(Summary.__struct_fields__, 0)
    return Summary(**{**counts, "delete": delete, "found": found})


@pytest.mark.parametrize(
    ("delete", "entries", "limit", "allowed"),
    [
        (5, 10, None, True),
        (6, 10, None, False),
        (1, 1, None, False),
        (0, 0, "0", True),
        (1, 10, "0", False),
        (3, 10, "3", True),
        (4, 10, "3", False),
        (1, 10, "19%", True),
        (2, 10, "19%", False),
        (10, 10, "100%", True),
    ],
)
def test_the_limit_on_deletes(delete, entries, limit, allowed):
    if allowed:
        guard_deletes(summary(delete), entries, limit)
        return
    with pytest.raises(PolicyError) as caught:
        guard_deletes(summary(delete), entries, limit)
    assert f"--max-delete {delete}" in caught.value.hint


def test_an_empty_source_never_becomes_deletes():
    with pytest.raises(PolicyError, match="empty"):
        guard_deletes(summary(1, found=0), 1, "100%")


@pytest.mark.parametrize("text", ["", "%", "-1", "1.5", "101%", "ten", "٣", "1 %"])
def test_what_is_no_limit(text):
    with pytest.raises(UsageError):
        parse_max_delete(text)


@pytest.mark.parametrize(
    ("kind", "location", "home", "recorded"),
    [
        ("filesystem", "/home/ann", "/home/ann", "~"),
        ("filesystem", "/home/ann/m", "/home/ann/", "~/m"),
        ("filesystem", "/home/annette/m", "/home/ann", "/home/annette/m"),
        ("filesystem", "/m", "/", "/m"),
        ("filesystem", "/m", "", "/m"),
        ("http", "https://home/ann", "https://home", "https://home/ann"),
    ],
)
def test_a_plan_names_no_home_folder(kind, location, home, recorded):
    assert portable(Endpoint(kind=kind, location=location), home) == recorded


def test_what_a_plan_between_folders_does_not_need_is_not_imported():
    program = "import sys, hdev_memory.cli.plan, hdev_memory.cli.steps; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )

    imported = {name.partition(".")[0] for name in done.stdout.split()}
    assert "msgspec" in imported
    unwanted = {"pathspec", "rich", "certifi", "http", "deepdiff", "yaml", "starlette", "uvicorn"}
    assert not imported & unwanted


REQUEST = Request(
    options=Options(
        overwrite=False,
        delete=False,
        max_delete=None,
        compare="all",
        include=(),
        exclude=(),
        limits=Limits(max_entry_bytes=1024),
    ),
    source_label="source",
    target_label="target",
    provenance=Provenance(created="2026-01-02T03:04:05Z", expires=None, tool="test"),
    home="",
)


def ephemeral(name, keys, kind=EphemeralBackend):
    backend = kind(name)
    state = Normalisation().state(b"text", {})
    puts = [Put(key=k, content=b"text", metadata={}, before=None, after=state) for k in keys]
    backend.write(puts, Normalisation(), UNATTENDED)
    return backend


class Breaking(EphemeralBackend):
    """Its snapshot fails behind the first entry."""

    def snapshot(self, scope, normalisation):
        yield next(super().snapshot(scope, normalisation))
        raise StoreError("It broke.")


def test_how_far_both_ends_were_read_is_told_also_when_one_fails():
    told = {}
    source, target = ephemeral("s", "abcd"), ephemeral("t", "ef", Breaking)
    with pytest.raises(StoreError):
        list(plan(source, target, REQUEST, lambda event: told.update({event.side: event})))

    assert (told["source"].entries, told["source"].bytes, told["source"].ended) == (4, 16, True)
    assert (told["target"].entries, told["target"].bytes, told["target"].ended) == (1, 4, False)
    assert (told["source"].expected, told["target"].expected) == (4, 2)
