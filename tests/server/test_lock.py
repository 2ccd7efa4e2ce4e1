"""The lock of applies: one holder at a time, an end, a fence against latecomers."""

import json

import httpx
import pytest
from tests.direct import DIRECT
from tests.processes import MemoryServer

from hdev_memory.backends.base import Secret
from hdev_memory.backends.ephemeral import EphemeralBackend
from hdev_memory.errors import StoreError
from hdev_memory.server.app import create_app
from hdev_memory.server.lease import Fences, Held, Lease, LeaseLock, Superseded
from hdev_memory.server.run import serve_in_thread

KEY, READER = "key-of-the-lock", "reader-of-the-lock"
LOCK = "/api/locks/target"
ENTRY = "/api/memory/entry/"


class Clock:
    """Seconds that pass only when told to."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def lock(clock):
    return LeaseLock(clock, Fences())


def test_a_second_holder_is_told_who_and_how_long(lock, clock):
    lock.acquire("one", 30)
    clock.now += 10.5
    with pytest.raises(Held) as refused:
        lock.acquire("two", 30)

    assert refused.value.lease == Lease(holder="one", fence=1, expires_in=20)


def test_a_lease_ends_by_the_clock_and_the_next_fence_is_higher(lock, clock):
    first = lock.acquire("one", 30)
    clock.now += 30

    assert lock.status() is None
    assert lock.acquire("two", 30).fence > first.fence


def test_renewing_moves_the_end_and_keeps_the_fence(lock, clock):
    first = lock.acquire("one", 30)
    clock.now += 29
    renewed = lock.renew("one", 30, first.fence)
    clock.now += 29

    assert renewed.fence == first.fence
    assert lock.status() == Lease(holder="one", fence=first.fence, expires_in=1)


def test_a_late_renewal_works_only_while_nobody_came_between(lock, clock):
    first = lock.acquire("one", 30)
    clock.now += 100
    assert lock.renew("one", 30, first.fence).fence == first.fence
    clock.now += 100
    lock.acquire("two", 30)

    with pytest.raises(Superseded):
        lock.renew("one", 30, first.fence)
    with pytest.raises(Superseded):
        lock.release(first.fence)


def test_releasing_lets_the_next_one_in(lock):
    lock.release(lock.acquire("one", 30).fence)

    assert lock.status() is None
    assert lock.acquire("two", 30).holder == "two"


@pytest.mark.parametrize("fence", [0, 2, 99])
def test_a_fence_that_was_not_given_out_neither_renews_nor_releases(lock, fence):
    lock.acquire("one", 30)

    with pytest.raises(Superseded):
        lock.renew("thief", 30, fence)
    with pytest.raises(Superseded):
        lock.release(fence)


def test_a_broken_lock_shuts_its_holder_out(lock):
    first = lock.acquire("one", 30)

    assert lock.force() == first
    with pytest.raises(Superseded):
        lock.check(first.fence)
    with pytest.raises(Superseded):
        lock.renew("one", 30, first.fence)


def test_only_a_fence_that_was_overtaken_is_refused(lock, clock):
    first = lock.acquire("one", 30)
    clock.now += 31
    lock.check(first.fence)  # over, and nobody else was let in
    lock.acquire("two", 30)

    lock.check(None)
    lock.check(first.fence + 1)
    with pytest.raises(Superseded):
        lock.check(first.fence)


def test_fences_grow_over_restarts(tmp_path, clock):
    path = tmp_path / ".hdev-fence"
    numbers = [LeaseLock(clock, Fences(path)).acquire("one", 30).fence for _ in range(3)]

    assert numbers == [1, 2, 3]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"fence": "1"}', '{"fence": -1}', "[[" * 9000])
def test_a_damaged_fence_file_is_refused_and_not_begun_anew(tmp_path, text):
    path = tmp_path / ".hdev-fence"
    path.write_text(text)

    with pytest.raises(StoreError):
        Fences(path)
    assert path.read_text() == text


@pytest.fixture
def ask(clock):
    app = create_app(
        EphemeralBackend(),
        store_id="locked",
        api_key=Secret(KEY),
        read_only_api_key=Secret(READER),
        clock=clock,
    )
    with serve_in_thread(app) as url, httpx.Client(base_url=url, **DIRECT) as client:

        def ask(method, path, key=KEY, fence=None, **more):
            headers = {"Authorization": f"Bearer {key}"}
            if fence is not None:
                headers["Hdev-Fence"] = str(fence)
            answer = client.request(method, path, headers=headers, **more)
            return answer.status_code, answer.json()

        yield ask


def wanted(holder="one", ttl=30):
    return {"json": {"holder": holder, "ttl": ttl}}


def test_the_life_of_a_lock_over_http(ask, clock):
    assert ask("GET", LOCK, READER) == (200, {"held": False, "fence": 0})
    taken = {"holder": "one", "fence": 1, "expires_in": 30}
    assert ask("PUT", LOCK, **wanted()) == (200, taken)
    clock.now += 10
    assert ask("GET", LOCK, READER) == (200, {"held": True, **taken, "expires_in": 20})
    status, body = ask("PUT", LOCK, **wanted("two"))
    assert (status, body["holder"], body["expires_in"]) == (409, "one", 20)
    assert ask("PUT", LOCK, fence=1, **wanted()) == (200, taken)
    assert ask("DELETE", LOCK, fence=1) == (200, {"released": True})
    assert ask("PUT", LOCK, **wanted("two"))[1]["fence"] == 2
    assert ask("PUT", LOCK, fence=1, **wanted())[0] == 409
    assert ask("DELETE", LOCK, fence=1)[0] == 409
    assert ask("DELETE", f"{LOCK}?force=true") == (200, {"released": True})
    assert ask("DELETE", f"{LOCK}?force=true") == (200, {"released": False})
    assert ask("GET", LOCK)[1]["held"] is False


def test_health_announces_the_lock(ask):
    assert ask("GET", "/api/health")[1]["details"]["lock"] is True


def test_a_read_only_key_neither_takes_nor_breaks_the_lock(ask):
    ask("PUT", LOCK, **wanted())

    assert ask("PUT", LOCK, READER, **wanted("two"))[0] == 403
    assert ask("DELETE", LOCK, READER, fence=1)[0] == 403
    assert ask("DELETE", f"{LOCK}?force=true", READER)[0] == 403
    assert ask("GET", LOCK, "wrong")[0] == 401
    assert ask("GET", LOCK)[1]["holder"] == "one"


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"holder": "x", "ttl": 4}, 422),
        ({"holder": "x", "ttl": 301}, 422),
        ({"holder": "x", "ttl": True}, 422),
        ({"holder": "x", "ttl": 5.5}, 422),
        ({"holder": "x", "ttl": "30"}, 422),
        ({"holder": "x"}, 422),
        ({"ttl": 30}, 422),
        ({"holder": "", "ttl": 30}, 422),
        ({"holder": "x" * 201, "ttl": 30}, 422),
        ({"holder": "a\nb", "ttl": 30}, 422),
        ({"holder": ["x"], "ttl": 30}, 422),
        ({"holder": "x" * 5000, "ttl": 30}, 413),
    ],
)
def test_a_wish_out_of_bounds_is_refused(ask, body, status):
    assert ask("PUT", LOCK, json=body)[0] == status
    assert ask("GET", LOCK)[1] == {"held": False, "fence": 0}


@pytest.mark.parametrize("fence", ["", "x", "-1", "1.0", "9" * 16])
@pytest.mark.parametrize("path", [LOCK, f"{ENTRY}a"])
def test_a_malformed_fence_is_400(ask, path, fence):
    for method in ("PUT", "DELETE"):
        assert ask(method, path, fence=fence)[0] == 400


def test_a_superseded_writer_is_refused_and_others_are_not(ask, clock):
    old = ask("PUT", LOCK, **wanted())[1]["fence"]
    assert ask("PUT", f"{ENTRY}a/b", fence=old, json={"content": "mine"})[1]["success"] is True
    clock.now += 31
    new = ask("PUT", LOCK, **wanted("two"))[1]["fence"]

    status, body = ask("PUT", f"{ENTRY}a/b", fence=old, json={"content": "late"})
    assert (status, body["fence"]) == (409, new)
    assert ask("DELETE", f"{ENTRY}a/b", fence=old)[0] == 409
    assert ask("DELETE", f"{ENTRY}a", fence=old)[0] == 409
    assert ask("GET", f"{ENTRY}a/b")[1]["content"] == "mine"
    assert ask("PUT", f"{ENTRY}a/b", fence=new, json={"content": "new"})[1]["success"] is True
    assert ask("PUT", f"{ENTRY}a/b", json={"content": "free"})[1]["success"] is True


def test_a_restarted_server_gives_out_higher_fences(tmp_path):
    numbers = []
    for _ in range(2):
        with MemoryServer(tmp_path / "store", KEY) as server:
            answer = httpx.put(
                server.url + LOCK,
                headers={"Authorization": f"Bearer {KEY}"},
                **DIRECT,
                **wanted(),
            )
            numbers.append(answer.json()["fence"])
            tree = httpx.get(
                f"{server.url}/api/memory/tree",
                headers={"Authorization": f"Bearer {KEY}"},
                **DIRECT,
            ).json()

    assert numbers == [1, 2]
    assert tree["items"] == {}
    assert json.loads((tmp_path / "store/.hdev-fence").read_text()) == {"fence": 2}
