"""Preconditions by RFC 9110, and what a store that demands them refuses, over a socket."""

import threading
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from tests.conftest import put_entry, tree_of
from tests.direct import DIRECT
from tests.processes import MemoryServer

from hdev_memory.server.conditions import Malformed, PreconditionFailed, etag_of, parse

KEY = "key-of-the-conditions"
ENTRY = "/api/memory/entry/"
OTHER = '"' + "0" * 64 + '"'
WRITERS = 32


@pytest.fixture(scope="module")
def process(tmp_path_factory):
    """One process for all: it takes a second to start."""
    with MemoryServer(tmp_path_factory.mktemp("conditions") / "store", KEY) as running:
        yield running


@pytest.fixture(scope="module")
def strict(tmp_path_factory):
    root = tmp_path_factory.mktemp("strict") / "store"
    with MemoryServer(root, KEY, "--require-preconditions") as running:
        yield running


def asking(url):
    return httpx.Client(
        base_url=url, headers={"Authorization": f"Bearer {KEY}"}, **DIRECT, timeout=30
    )


@pytest.fixture
def client(process):
    put_entry(process.root, "there", "text", {"k": 1})
    put_entry(process.root, "folder/inner", "text")
    (process.root / "missing.md").unlink(missing_ok=True)
    with asking(process.url) as client:
        yield client


@pytest.fixture
def tag(client):
    return client.get(f"{ENTRY}there").headers["etag"]


def conditional(client, method, key, **headers):
    named = [(name.replace("_", "-"), value) for name, value in headers.items()]
    body = {"json": {"content": "new"}} if method == "PUT" else {}
    return client.request(method, ENTRY + key, headers=named, **body)


def test_the_etag_is_strong_and_follows_content_and_metadata(client):
    def written(content, metadata):
        client.put(
            f"{ENTRY}tagged",
            headers={"Hdev-Metadata": "replace"},
            json={"content": content, "metadata": metadata},
        )
        return client.get(f"{ENTRY}tagged").headers["etag"]

    tags = [written("a", {"k": 1}), written("b", {"k": 1}), written("b", {"k": 2})]

    assert len(set(tags)) == 3
    assert written("a", {"k": 1}) == tags[0]
    assert all(tag.startswith('"') for tag in tags)


def test_the_etag_of_a_put_is_the_etag_of_the_get_after_it(client):
    sent = {"content": "ä\r\n", "metadata": {"ö": [1.5, None, "x"], "n": 12}}

    assert (
        client.put(f"{ENTRY}tagged", json=sent).headers["etag"]
        == client.get(f"{ENTRY}tagged").headers["etag"]
    )


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
@pytest.mark.parametrize(
    ("if_match", "status"),
    [("{}", 200), ("*", 200), (OTHER + " ,, {}", 200), (OTHER, 412), ("W/{}", 412)],
)
def test_if_match_compares_strongly(client, tag, method, if_match, status):
    answer = conditional(client, method, "there", If_Match=if_match.format(tag))

    assert answer.status_code == status
    assert status == 200 or answer.headers["etag"] == tag


@pytest.mark.parametrize(
    ("if_none_match", "held"),
    [("{}", True), ("*", True), (OTHER + ", {}", True), ("W/{}", True), (OTHER, False)],
)
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_if_none_match_compares_weakly(client, tag, method, if_none_match, held):
    answer = conditional(client, method, "there", If_None_Match=if_none_match.format(tag))

    assert answer.status_code == ((304 if method == "GET" else 412) if held else 200)
    if held:
        assert answer.headers["etag"] == tag
    if answer.status_code == 304:
        assert answer.content == b""


def test_a_condition_that_failed_changes_nothing(client, process, tag):
    before = tree_of(process.root)
    for method in ("PUT", "DELETE"):
        for headers in ({"If_Match": OTHER}, {"If_None_Match": "*"}, {"If_None_Match": tag}):
            assert conditional(client, method, "there", **headers).status_code == 412

    assert tree_of(process.root) == before


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_nothing_matches_where_there_is_nothing(client, method):
    answer = conditional(client, method, "missing", If_Match="*")

    assert answer.status_code == 412
    assert "etag" not in answer.headers


def test_if_match_decides_before_if_none_match(client, tag):
    answer = conditional(client, "GET", "there", If_Match=OTHER, If_None_Match=tag)

    assert answer.status_code == 412


def test_several_lines_of_a_header_are_one_list(client, tag):
    headers = [("If-Match", OTHER), ("If-Match", tag)]

    assert client.get(f"{ENTRY}there", headers=headers).status_code == 200


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
@pytest.mark.parametrize("name", ["If_Match", "If_None_Match"])
@pytest.mark.parametrize(
    "text", ["", ",", "bare", '"open', '*, "a"', '"a" "b"', '"a"*', 'w/"a"', '"a b"', "'a'"]
)
def test_a_malformed_condition_is_400_and_changes_nothing(client, process, method, name, text):
    before = tree_of(process.root)

    assert conditional(client, method, "there", **{name: text}).status_code == 400
    assert tree_of(process.root) == before


def test_a_list_of_many_commas_is_read_in_no_time():
    with pytest.raises(Malformed):
        parse([", \t" * 20_000 + "x"], [])


def test_conditions_of_a_folder_never_delete_it(client, process, tag):
    answers = [
        conditional(client, "DELETE", "folder", If_Match="*"),
        conditional(client, "DELETE", "folder/", If_Match=tag),
        conditional(client, "DELETE", "folder", If_None_Match="*"),
    ]

    assert [answer.status_code for answer in answers] == [412, 412, 200]
    assert answers[2].json()["success"] is False
    assert (process.root / "folder/inner.md").exists()


@pytest.mark.parametrize("key", ["there", "missing", "folder", "folder/"])
@pytest.mark.parametrize("method", ["PUT", "DELETE"])
def test_a_strict_store_refuses_writes_without_conditions(strict, method, key):
    put_entry(strict.root, "there", "text")
    put_entry(strict.root, "folder/inner", "text")
    before = tree_of(strict.root)
    with asking(strict.url) as client:
        answer = conditional(client, method, key)

    assert answer.status_code == 428
    assert list(answer.json()) == ["detail"]
    assert tree_of(strict.root) == before


def test_a_strict_store_deletes_no_folder_whatever_the_condition(strict):
    put_entry(strict.root, "folder/inner", "text")
    with asking(strict.url) as client:
        for key in ("folder", "folder/"):
            answer = conditional(client, "DELETE", key, If_None_Match="*")
            assert answer.status_code == 428

    assert (strict.root / "folder/inner.md").exists()


def test_a_strict_store_is_otherwise_the_same(strict):
    with asking(strict.url) as client:
        created = conditional(client, "PUT", "fresh", If_None_Match="*")
        read = client.get(f"{ENTRY}fresh")
        removed = conditional(client, "DELETE", "fresh", If_Match=created.headers["etag"])
        unkeyed = httpx.put(f"{strict.url}{ENTRY}fresh", json={"content": ""}, **DIRECT)

    assert (created.status_code, read.json()["content"]) == (200, "new")
    assert removed.json()["success"] is True
    assert unkeyed.status_code == 401


def race(url, key, headers):
    """The statuses of writers that all start at once."""
    start = threading.Barrier(WRITERS)

    def write(number):
        with asking(url) as client:
            client.get("/api/health")
            start.wait(timeout=30)
            sent = {"content": f"writer {number}"}
            return client.put(ENTRY + key, headers=headers, json=sent).status_code

    with ThreadPoolExecutor(WRITERS) as writers:
        return list(writers.map(write, range(WRITERS)))


def test_of_many_creators_exactly_one_wins(client, process):
    statuses = race(process.url, "raced/created", {"If-None-Match": "*"})

    assert sorted(statuses) == [200] + [412] * (WRITERS - 1)
    winner = statuses.index(200)
    assert client.get(f"{ENTRY}raced/created").json()["content"] == f"writer {winner}"


def test_of_many_writers_with_one_tag_exactly_one_wins(client, process):
    first = client.put(f"{ENTRY}raced/changed", json={"content": "first"}).headers["etag"]
    statuses = race(process.url, "raced/changed", {"If-Match": first})

    assert sorted(statuses) == [200] + [412] * (WRITERS - 1)
    winner = statuses.index(200)
    assert client.get(f"{ENTRY}raced/changed").json()["content"] == f"writer {winner}"


def test_a_parsed_condition_is_checked_against_the_current_tag():
    conditions = parse(['"a", "b"'], [])

    conditions.check('"b"')
    with pytest.raises(PreconditionFailed):
        conditions.check('"c"')


def test_each_writer_is_told_the_tag_of_what_it_wrote_itself(client, process):
    start = threading.Barrier(WRITERS)

    def write(number):
        with asking(process.url) as writer:
            writer.get("/api/health")
            start.wait(timeout=30)
            sent = {"content": str(number), "metadata": {"number": number}}
            headers = {"Hdev-Metadata": "replace"}
            return writer.put(f"{ENTRY}raced/free", headers=headers, json=sent).headers["etag"]

    with ThreadPoolExecutor(WRITERS) as writers:
        tags = list(writers.map(write, range(WRITERS)))

    assert tags == [etag_of(str(number).encode(), {"number": number}) for number in range(WRITERS)]
    assert client.get(f"{ENTRY}raced/free").headers["etag"] in tags
