"""Bad input: the error's three parts, the exit status, nothing written, no traceback, no key."""

import json
import os

import pytest
from tests.backends.test_http import serving
from tests.conftest import put_entry, tree_of

from hdev_memory.backends.base import Secret
from hdev_memory.backends.filesystem import FilesystemBackend
from hdev_memory.server.app import create_app
from hdev_memory.server.run import serve_in_thread
from hdev_memory.server.store import store_identity

KEY = "canary-of-bad-input"


@pytest.fixture
def store(home):
    """The local store, with one entry."""
    put_entry(home / ".hdev/memory", "a", "x")
    return home / ".hdev/memory"


@pytest.fixture
def server(home):
    """Our server on a folder of its own: (url, root)."""
    root = home / "served"
    root.mkdir()
    backend = FilesystemBackend(str(root), must_exist=True)
    app = create_app(backend, store_id=store_identity(root), api_key=Secret(KEY))
    with serve_in_thread(app) as url:
        yield url, root


def refused(result, status, *texts):
    """The form of an error: what, why and what next, each on its line of stderr."""
    assert result.status == status, (result.out, result.err)
    assert result.out == ""
    error = [line for line in result.err.splitlines() if not line.startswith("Warning: ")]
    assert error[0].startswith("Error: ")
    assert all(line.startswith(("  Why: ", "  Next: ")) for line in error[1:])
    assert len(error) in (2, 3)
    assert "Traceback" not in result.err
    assert "bug in itself" not in result.err
    assert KEY not in result.err
    for text in texts:
        assert text in result.err
    return True


def nothing_written(home):
    return not any((home.parent / "work").rglob("*"))


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ((200, b"<html>a page</html>", {}), "not a memory server"),
        ((200, {}, {}), "not a memory server"),
        ((200, b"", {}), "not a memory server"),
        ((404, {"detail": "Not Found"}, {}), "not a memory server"),
        ((302, b"", {"Location": "http://127.0.0.1:9/"}), "redirects to another address"),
        ((500, b"oops", {}), "not a memory server"),
    ],
)
@pytest.mark.parametrize("command", ["plan", "migrate-memory", "dry-run"])
def test_what_is_no_memory_server(hdev, home, store, answer, text, command):
    with serving(lambda method, path: answer) as url:
        words = {
            "plan": ("plan", "filesystem", url),
            "migrate-memory": ("migrate-memory", "--target", "http", "--target-url", url),
            "dry-run": ("migrate-memory", "--target", url, "--dry-run"),
        }[command]
        result = hdev(*words, "--api-key", KEY)

    assert refused(result, 9, text, "HTTP request failed: GET /api/")
    assert nothing_written(home)


def test_a_wrong_key(hdev, home, store, server):
    url, root = server
    result = hdev("plan", "filesystem", url, "--api-key", "wrong")

    assert refused(result, 9, "refused the key", "401 Invalid API key", "--api-key")
    assert nothing_written(home)
    assert list(tree_of(root)) == [".hdev-store"]


def test_a_dead_server(hdev, home, store):
    result = hdev("plan", "filesystem", "http://127.0.0.1:9")

    assert refused(result, 9, "cannot be reached", "HTTP request failed: ", "127.0.0.1:9")
    assert nothing_written(home)


def test_a_server_that_never_answers_is_given_up_soon(hdev, home, store, monkeypatch):
    """The handshake waits for 1.5 seconds, or as long as was configured; here that is less."""
    import socket

    monkeypatch.setenv("HDEV_MEMORY_HTTP_TIMEOUT", "0.2")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        result = hdev("plan", "filesystem", f"http://127.0.0.1:{port}")

    assert refused(result, 9, "cannot be reached", "within 0.2 seconds", "HDEV_MEMORY_HTTP_TIMEOUT")
    assert nothing_written(home)


@pytest.mark.parametrize("command", ["plan", "migrate"])
@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("store", "store"),
        ("store", "store/below"),
        ("store/below", "store"),
        ("store", "store/../store"),
        ("link", "store"),
    ],
)
def test_source_and_target_the_same_or_one_in_the_other(
    hdev, home, command, source, target, tmp_path
):
    put_entry(tmp_path / "store", "below/a", "x")
    (tmp_path / "link").symlink_to(tmp_path / "store")
    before = tree_of(tmp_path)
    words = ("plan",) if command == "plan" else ("migrate-memory",)
    result = hdev(
        *words,
        "--source-path", f"{tmp_path}/{source}", "--target-path", f"{tmp_path}/{target}",
    )  # fmt: skip

    assert refused(result, 1, "same memory")
    assert tree_of(tmp_path) == before


def test_a_store_and_the_server_that_serves_it(hdev, home, server):
    url, root = server
    put_entry(root, "a", "x")

    for words in ((f"filesystem:{root}", url), (url, f"filesystem:{root}")):
        assert refused(hdev("plan", *words, "--api-key", KEY), 1, "same memory")
    assert nothing_written(home)


@pytest.mark.parametrize("path", ["nowhere", "a-file", "~/typo"])
def test_a_mistyped_source_path(hdev, home, path):
    (home.parent / "work/a-file").write_text("x")
    result = hdev("plan", f"filesystem:{path}", "filesystem:target")

    assert refused(result, 1, path.removeprefix("~/"))
    assert [path.name for path in (home.parent / "work").iterdir()] == ["a-file"]


def test_a_target_that_is_a_file(hdev, home, store):
    (home.parent / "work/a-file").write_text("x")

    assert refused(hdev("plan", "filesystem", "filesystem:a-file"), 1, "must be a folder")


@pytest.mark.parametrize(
    ("key", "content", "metadata", "reason"),
    [
        ("b", b"\xff", {}, "not UTF-8"),
        ("b", "x", b"{", "metadata"),
        ("b", "x", b"[]", "metadata"),
        ("b", "x", b"\xff", "metadata is not UTF-8"),
        ("b", "x", b'{"k":1,"k":2}', "metadata"),
        ("b", "x", b'{"k":NaN}', "metadata"),
        ("b", "x", b'{"k":"\\ud800"}', "metadata"),
        ("b", "x", b'{"k":9007199254740993}', "metadata"),
        ("back\\slash", "x", {}, "backslash"),
        ("new\nline", "x", {}, "control"),
    ],
)
def test_a_bad_entry_is_named_with_its_reason_and_the_others_are_copied(
    hdev, home, store, key, content, metadata, reason
):
    put_entry(store, key, content, metadata if isinstance(metadata, dict) else {})
    if isinstance(metadata, bytes):
        (store / f"{key}.metadata.json").write_bytes(metadata)
    result = hdev("migrate-memory", "--target-path", "target")

    assert result.status == 4
    assert "with errors. 1 entries were copied, 0 skipped, 1 failed." in result.out
    (error,) = result.out.partition("Errors:\n")[2].splitlines()
    assert error.startswith("  ")
    assert reason in error
    assert set(tree_of(home.parent / "work/target")) == {"a.md", "a.metadata.json"}


def test_missing_metadata_is_copied_and_told(hdev, store):
    put_entry(store, "b", "x", ...)
    result = hdev("plan", "filesystem", "filesystem:target")

    assert result.status == 0
    assert "its metadata file is missing" in result.out


@pytest.fixture
def planned(hdev, home, store):
    """A plan folder for the local store, with an entry to create."""
    assert hdev("plan", "filesystem", "filesystem:target", "-o", "p").status == 0
    return home.parent / "work/p"


def untouched(home):
    return not (home.parent / "work/target").exists()


EDITS = {
    "another key": lambda text: text.replace(b'"key":"a"', b'"key":"b"'),
    "another digest": lambda text: text.replace(b'"bytes":1', b'"bytes":2'),
    "a space": lambda text: text.replace(b'"format":', b'"format": '),
    "CRLF": lambda text: text.replace(b"\n", b"\r\n"),
    "no last newline": lambda text: text[:-1],
    "something behind": lambda text: text + b"\n",
    "cut": lambda text: text[: len(text) // 2],
    "empty": lambda text: b"",
    "no JSON": lambda text: b"hello\n",
    "re-indented": lambda text: json.dumps(json.loads(text), indent=2).encode(),
    "a BOM": lambda text: b"\xef\xbb\xbf" + text,
    "not UTF-8": lambda text: text.replace(b'"key":"a"', b'"key":"\xff"'),
    "an escaping key": lambda text: text.replace(b'"key":"a"', b'"key":"../a"'),
}


@pytest.mark.parametrize("edit", EDITS)
@pytest.mark.parametrize("command", ["apply", "show", "verify", "audit verify"])
def test_a_hand_edited_plan(hdev, home, planned, edit, command):
    path = planned / "plan.json"
    path.write_bytes(EDITS[edit](path.read_bytes()))

    assert refused(hdev(*command.split(), "p"), 8)
    assert untouched(home)


def test_a_plan_that_was_edited_and_sealed_anew_is_another_plan(hdev, home, planned):
    import hashlib

    plan_id = hdev("show", "p", "--format", "json")
    told = json.loads(plan_id.out)["plan_id"]
    path = planned / "plan.json"
    text = path.read_bytes().replace(b'"expires":"2', b'"expires":"9')
    body = text[: text.rindex(b'"seal":')]
    path.write_bytes(body + b'"seal":"%s"\n}\n' % hashlib.sha256(body).hexdigest().encode())

    assert hdev("show", "p").status == 0  # nothing but its id tells
    assert refused(hdev("apply", "p", "--expect", told), 8, "not the plan that was expected")
    assert untouched(home)


@pytest.mark.parametrize("place", ["nowhere", ".", "p/review.md", "/dev/null", "p/plan.json/x"])
def test_what_is_no_plan(hdev, home, planned, place):
    assert refused(hdev("apply", place), 8, "plan")


def test_an_expired_plan(hdev, home, store, monkeypatch):
    from datetime import UTC, datetime, timedelta

    from hdev_memory.cli import steps

    hdev("plan", "filesystem", "filesystem:target", "-o", "p", "--expires", "30m")
    monkeypatch.setattr(steps, "now", lambda: datetime.now(UTC) + timedelta(minutes=31))

    assert refused(hdev("apply", "p"), 8, "expired", "hdev plan")
    assert untouched(home)


def test_a_plan_for_another_target(hdev, home, store, server, planned):
    url, root = server
    before = tree_of(root)

    assert refused(
        hdev("apply", "p", "--target-url", url, "--target-api-key", KEY), 8, "another target"
    )
    assert tree_of(root) == before


def test_a_plan_for_another_server(hdev, home, store, server, tmp_path):
    url, _root = server
    hdev("plan", "filesystem", url, "--api-key", KEY, "-o", "p")
    other = tmp_path / "other"
    other.mkdir()
    app = create_app(
        FilesystemBackend(str(other), must_exist=True), store_id="another", api_key=Secret(KEY)
    )
    with serve_in_thread(app) as elsewhere:
        result = hdev("apply", "p", "--target-url", elsewhere, "--target-api-key", KEY)

    assert refused(result, 8, "another target", "identity")
    assert tree_of(other) == {}


@pytest.mark.parametrize(
    "words",
    [
        ("plan", "--nope"),
        ("nope",),
        ("plan", "--overwrite=yes", "filesystem", "filesystem:x"),
        ("plan", "filesystem", "filesystem:t", "--expires", "7"),
        ("plan", "filesystem", "filesystem:t", "--compare", "dates"),
        ("plan", "filesystem", "filesystem:t", "--delete", "--max-delete", "x"),
        ("plan", "filesystem", "filesystem:t", "--delete", "--max-delete", "101%"),
        ("plan", "filesystem", "filesystem:t", "--max-delete", "3"),
        ("plan", "filesystem", "filesystem:t", "--include", "!"),
        ("plan", "filesystem"),
        ("plan", "nope", "filesystem:t"),
        ("plan", "filesystem:", "filesystem:t"),
        ("plan", "filesystem", "http:"),
        ("plan", "filesystem", "http"),
        ("plan", "filesystem", "ftp://host"),
        ("plan", "filesystem", "https://"),
        ("plan", "filesystem", "https://host:99999"),
        ("plan", "filesystem", "https://host/?a=b"),
        ("plan", "filesystem", "filesystem:a", "--target", "filesystem:b"),
        ("plan", "filesystem", "filesystem:t", "three"),
        ("plan", "filesystem", "--target-path", "t", "--target-url", "https://host"),
        ("plan", "filesystem", "--target", "http", "--target-path", "t"),
        ("migrate-memory",),
        ("migrate-memory", "--target", "http"),
        ("migrate-memory", "--dry-run=maybe", "--target-path", "t"),
        ("apply",),
        ("apply", "p", "--expect", "sha256:123"),
        ("show", "p", "--format", "pdf"),
        ("show", "p", "--only", "everything"),
        ("memory-server", "--port", "x"),
        ("audit",),
        ("audit", "nope"),
        ("config", "show", "extra"),
    ],
)
def test_a_wrong_command_line(hdev, home, planned, words):
    before = tree_of(home.parent)
    result = hdev(*words)

    if words == ("audit",):  # its help is the answer, as for `hdev` alone
        assert result.status == 64
    else:
        assert refused(result, 64)
    assert tree_of(home.parent) == before


def test_a_password_in_a_url_is_refused_and_not_repeated(hdev, store):
    result = hdev("plan", "filesystem", f"https://me:{KEY}@host")

    assert refused(result, 64, "user or a password")


def test_a_key_is_not_sent_over_plain_http_to_another_machine(hdev, store):
    result = hdev("plan", "filesystem", "http://192.0.2.1", "--api-key", KEY)

    assert refused(result, 64, "unencrypted", "--insecure-http")


CONFIGS = {
    "~/.hdev/config.yaml": [
        ("memory:\n  http:\n    ulr: x\n", 3, "memory.http.ulr"),
        ("memory:\n  http:\n    url: nope\n", 3, "http.url"),
        ("memory:\n  backend: s4\n", 2, "backend"),
        ("memory:\n  http: 3\n", 2, "memory.http"),
        ("memory:\n  http:\n    timeout: soon\n", 3, "http.timeout"),
        ("memory:\n  http:\n    url: [a]\n", 3, "memory.http.url"),
        ("memory: {\n", 2, "YAML"),
        ("memory:\n\tbackend: http\n", 2, "YAML"),
        ("memory:\n  backend: http\n  backend: http\n", 3, "memory.backend"),
        ("- a\n", 1, "names and values"),
        ("memory:\n  http:\n    api_key: a\n    api_key_env: B\n", 4, "api_key_env"),
    ],
    "hdev.toml": [
        ("[memory.http]\nulr = 'x'\n", 2, "memory.http.ulr"),
        ("memory = 3\n", 1, "memory"),
        ("[memory\n", 1, "TOML"),
        ("[x]\n", 1, "x"),
        ("[memory.http]\napi_key = 'secret-in-git'\n", 2, "memory.http.api_key"),
        ("[environments.a]\n", 1, "environments.a"),
        ("[environments.a]\nendpoint = 'nope'\n", 1, "endpoint"),
        ("[environments.a]\nendpoint = 'http:https://x'\nurl = 'y'\n", 3, "environments.a.url"),
    ],
}


@pytest.mark.parametrize(
    ("name", "text", "line", "key"),
    [(name, *case) for name, cases in CONFIGS.items() for case in cases],
)
@pytest.mark.parametrize("command", ["config check", "plan filesystem filesystem:t"])
def test_a_malformed_config_file_is_named_with_line_and_key(
    hdev, home, store, name, text, line, key, command
):
    path = home / name.removeprefix("~/") if "~" in name else home.parent / "work" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)

    assert refused(hdev(*command.split()), 1, f"{path}:{line}: ", key)
    assert "secret-in-git" not in hdev(*command.split()).err


def test_an_unreadable_folder_is_no_empty_folder(tmp_path):
    """A real kernel's refusal: as root, who may read all, another user is taken for the thread."""
    from hdev_memory.backends.base import EVERYTHING
    from hdev_memory.core.entry import Normalisation
    from hdev_memory.errors import StoreError

    root = tmp_path / "store"
    put_entry(root, "open/a", "x")
    put_entry(root, "closed/b", "x")
    closed = root / "closed"
    with FilesystemBackend(str(root), must_exist=True) as backend:
        closed.chmod(0)
        try:
            with as_another_user(), pytest.raises(StoreError) as caught:
                list(backend.snapshot(EVERYTHING, Normalisation()))
        finally:
            closed.chmod(0o700)

    assert f"{closed}: Permission denied" in caught.value.why


class as_another_user:  # noqa: N801 - reads as a sentence
    """Give up root's rights over files in this thread, by Linux's setfsuid; nothing for others."""

    def __enter__(self):
        self.setfsuid(65534)

    def __exit__(self, *error):
        self.setfsuid(0)

    @staticmethod
    def setfsuid(number):
        import ctypes

        if os.geteuid() == 0:
            ctypes.CDLL(None).setfsuid(number)


def test_an_output_folder_that_is_taken(hdev, home, planned):
    before = tree_of(planned)

    assert refused(hdev("plan", "filesystem", "filesystem:target", "-o", "p"), 1, "never overwrit")
    assert tree_of(planned) == before


def test_an_output_folder_that_cannot_be_made(hdev, home, store):
    (home.parent / "work/file").write_text("x")

    assert refused(hdev("plan", "filesystem", "filesystem:target", "-o", "file/p"), 1, "file")
    assert [path.name for path in (home.parent / "work").iterdir()] == ["file"]


@pytest.mark.parametrize("place", ["/dev/full", "nowhere/review.md", "a-folder"])
def test_a_review_that_cannot_be_written(hdev, planned, place):
    os.mkdir("a-folder")

    assert refused(hdev("show", "p", "--out", place), 1, place, "--out")
    assert not os.path.isfile("/dev/full")  # a device is written to, never replaced


def test_a_plan_that_fails_at_its_end_leaves_no_folder(hdev, home, store):
    put_entry(home.parent / "work/target", "gone", "x")
    words = ("--delete", "--max-delete", "0", "-o", "deep/er/p")

    assert refused(hdev("plan", "filesystem", "filesystem:target", *words), 5, "delete more than")
    assert [path.name for path in (home.parent / "work").iterdir()] == ["target"]
