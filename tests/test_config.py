"""Settings: precedence, where keys come from, and to which server a key may go."""

import os
import shutil
import subprocess
import sys

import pytest

from hdev_memory.backends.base import Secret
from hdev_memory.config import EndFlags, load, resolve
from hdev_memory.errors import ConfigError, UsageError
from tests.processes import PROGRAM

ONE = "https://one.example.com"
TWO = "https://two.example.com"


@pytest.fixture
def place(tmp_path):
    """(cwd, home), both there."""
    cwd, home = tmp_path / "repo" / "inner", tmp_path / "home"
    cwd.mkdir(parents=True)
    (home / ".hdev").mkdir(parents=True)
    return cwd, home


def user(place, text):
    (place[1] / ".hdev/config.yaml").write_text(text)


def project(place, text):
    (place[0].parent / "hdev.toml").write_text(text)


def settings(place, **environ):
    return load(environ, *place)


def key_of(end):
    return end.where.key.reveal() if end.where.key is not None else None


def ends(place, source, target, environ=None, **more):
    return resolve(load(environ or {}, *place), source, target, **more)


LOCAL = EndFlags(kind="filesystem")


def test_flag_beats_environment_beats_project_beats_user(place):
    user(place, "memory:\n  http:\n    url: https://user\n")
    assert settings(place).get("http.url") == "https://user"
    project(place, "[memory.http]\nurl = 'https://project'\n")
    assert settings(place).get("http.url") == "https://project"
    environ = {"HDEV_MEMORY_HTTP_URL": "https://environ"}
    assert settings(place, **environ).get("http.url") == "https://environ"
    flags = EndFlags(kind="http", url="https://flag")
    assert ends(place, LOCAL, flags, environ).target.where.location == "https://flag"


def test_an_empty_variable_is_none(place):
    user(place, "memory:\n  http:\n    url: https://user\n")

    assert settings(place, HDEV_MEMORY_HTTP_URL="").get("http.url") == "https://user"


def test_every_value_tells_where_it_comes_from(place):
    user(place, "memory:\n  filesystem:\n    path: /p\n")
    project(place, "[memory.http]\n\ntimeout = 3\n")
    found = settings(place, HDEV_MEMORY_BACKEND="http").values

    assert found["filesystem.path"].origin == f"{place[1]}/.hdev/config.yaml:3"
    assert found["http.timeout"].origin == f"{place[0].parent}/hdev.toml:3"
    assert found["backend"].origin == "environment HDEV_MEMORY_BACKEND"


def test_the_project_file_is_looked_for_up_to_the_repository(place):
    project(place, "[memory.http]\nurl = 'https://project'\n")
    (place[0] / ".git").mkdir()

    assert settings(place).get("http.url") is None


def test_what_other_tools_keep_in_the_user_file_is_left_alone(place):
    user(place, "agents:\n  model: large\nmemory:\n  backend: http\n")

    assert settings(place).get("backend") == "http"


def test_the_source_is_the_local_folder_unless_given(place):
    user(place, f"memory:\n  backend: http\n  http:\n    url: {ONE}\n")
    found = ends(place, EndFlags(), EndFlags(kind="http"))

    assert found.source.where.kind == "filesystem"
    assert found.source.where.location == str(place[1] / ".hdev/memory")
    assert found.target.where.location == ONE


def test_a_target_must_be_given(place):
    with pytest.raises(UsageError):
        ends(place, LOCAL, EndFlags())


@pytest.mark.parametrize(
    "flags",
    [
        EndFlags(endpoint=f"http:{ONE}"),
        EndFlags(endpoint=ONE),
        EndFlags(kind="http", url=ONE),
        EndFlags(url=ONE),
        EndFlags(endpoint="http", url=ONE + "/"),
    ],
)
def test_the_forms_of_an_http_endpoint(place, flags):
    where = ends(place, LOCAL, flags).target.where

    assert (where.kind, where.location) == ("http", ONE)


@pytest.mark.parametrize(
    ("flags", "path"),
    [
        (EndFlags(endpoint="filesystem:sub/x"), "{cwd}/sub/x"),
        (EndFlags(endpoint="filesystem:/abs"), "/abs"),
        (EndFlags(endpoint="filesystem:~/x"), "{home}/x"),
        (EndFlags(path="../x"), "{cwd}/../x"),
        (EndFlags(endpoint="filesystem", path="x"), "{cwd}/x"),
        (EndFlags(endpoint="filesystem"), "{home}/.hdev/memory"),
    ],
)
def test_the_forms_of_a_filesystem_endpoint(place, flags, path):
    import os.path

    found = ends(place, flags, EndFlags(url=ONE)).source.where.location

    assert found == os.path.normpath(path.format(cwd=place[0], home=place[1]))


def test_an_environment_has_its_own_endpoint_key_and_timeout(place):
    project(
        place,
        f"[environments.staging]\nendpoint = '{ONE}'\napi_key_env = 'STAGING'\ntimeout = 5\n"
        f"[environments.local]\nendpoint = 'filesystem:~/notes'\n",
    )
    found = ends(place, EndFlags(endpoint="local"), EndFlags(endpoint="staging"), {"STAGING": "k"})

    assert (found.source.label, found.target.label) == ("local", "staging")
    assert found.source.where.location == str(place[1] / "notes")
    assert (key_of(found.target), found.target.where.timeout) == ("k", 5.0)


@pytest.mark.parametrize(
    ("environ", "flags", "shared", "key"),
    [
        ({"HDEV_MEMORY_HTTP_API_KEY": "general"}, {}, None, "general"),
        ({"HDEV_MEMORY_HTTP_API_KEY": "general"}, {}, "shared", "shared"),
        ({"HDEV_MEMORY_TARGET_API_KEY": "own"}, {}, "shared", "own"),
        ({"HDEV_MEMORY_TARGET_API_KEY": "own"}, {"api_key": Secret("flag")}, "shared", "flag"),
        ({"HDEV_MEMORY_SOURCE_API_KEY": "other"}, {}, None, None),
    ],
)
def test_which_key_an_end_gets(place, environ, flags, shared, key):
    secret = Secret(shared) if shared else None
    found = ends(place, LOCAL, EndFlags(url=ONE, **flags), environ, shared_api_key=secret)

    assert key_of(found.target) == key


def test_a_configured_key_goes_to_its_own_origin_only(place):
    user(place, f"memory:\n  http:\n    url: {ONE}\n    api_key: k\n")
    same = ends(place, LOCAL, EndFlags(url=ONE + "/base"))
    other = ends(place, LOCAL, EndFlags(url=TWO))
    downgraded = ends(place, LOCAL, EndFlags(url=ONE.replace("https", "http")))

    assert key_of(same.target) == "k"
    assert (key_of(other.target), key_of(downgraded.target)) == (None, None)
    assert any("is not sent" in warning for warning in other.warnings)


def test_one_key_for_two_servers_is_warned_about(place):
    found = ends(place, EndFlags(url=ONE), EndFlags(url=TWO), shared_api_key=Secret("k"))

    assert (key_of(found.source), key_of(found.target)) == ("k", "k")
    assert any("both servers" in warning for warning in found.warnings)


@pytest.mark.parametrize("form", ["file", "command"])
@pytest.mark.parametrize("where", ["environ", "project"])
def test_a_key_from_a_file_or_a_command(place, form, where):
    path = place[0].parent / "key.txt"
    path.write_text("from-file\n")
    value = str(path) if form == "file" else f"cat '{path}'"
    environ = {}
    if where == "environ":
        environ[f"HDEV_MEMORY_HTTP_API_KEY_{form.upper()}"] = value
    else:
        project(place, f'[memory.http]\napi_key_{form} = "{value}"\n')

    assert settings(place, **environ).get("http.api_key") == "from-file"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("FILE", "/nowhere/key"),
        ("FILE", "/dev/null"),
        ("COMMAND", "false"),
        ("COMMAND", "/nowhere/program"),
        ("COMMAND", "echo"),
        ("COMMAND", "'"),
    ],
)
def test_a_key_that_cannot_be_had_is_an_error_that_names_its_origin(place, name, value):
    with pytest.raises(ConfigError) as caught:
        settings(place, **{f"HDEV_MEMORY_HTTP_API_KEY_{name}": value})

    assert f"HDEV_MEMORY_HTTP_API_KEY_{name}" in str(caught.value)


KEYRINGS = {
    "held": ("keyrings.alt.file.PlaintextKeyring", "ci/ann", 0, "key (set)"),
    "of a service with a slash": ("keyrings.alt.file.PlaintextKeyring", "a/b/ann", 0, "key (set)"),
    "of nobody": ("keyrings.alt.file.PlaintextKeyring", "ci/bob", 1, "There is none for ci/bob."),
    "in a keyring of nothing": ("keyring.backends.null.Keyring", "ci/ann", 1, "There is none"),
    "where no keyring is": ("keyring.backends.fail.Keyring", "ci/ann", 1, "(NoKeyringError)"),
    "of a keyring that is none": ("nowhere.Keyring", "ci/ann", 1, "cannot be opened"),
    "without a user": ("keyrings.alt.file.PlaintextKeyring", "ci", 1, "SERVICE/USER"),
    "without a service": ("keyrings.alt.file.PlaintextKeyring", "/ann", 1, "SERVICE/USER"),
    "without the package": (None, "ci/ann", 1, "hdev-memory[keyring]"),
}


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """A home with a real keyring that holds two keys."""
    home = tmp_path_factory.mktemp("filled")
    program = "import keyring as k; [k.set_password(s, 'ann', 's3cret') for s in ('ci', 'a/b')]"
    environ = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "PYTHON_KEYRING_BACKEND": "keyrings.alt.file.PlaintextKeyring",
    }
    run([sys.executable, "-c", program], environ, home, 0)
    return home


@pytest.mark.parametrize("name", KEYRINGS)
def test_a_key_from_the_keyring_is_had_or_it_is_said_why_not(filled, tmp_path, name):
    """Real keyrings, chosen as everybody chooses one: by the environment of the process."""
    backend, named, status, told = KEYRINGS[name]
    shutil.copytree(filled, tmp_path, dirs_exist_ok=True)
    (tmp_path / "hdev.toml").write_text(
        f'[environments.x]\nendpoint = "http://127.0.0.1:1"\napi_key_keyring = "{named}"\n'
    )
    environ = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    if backend is None:
        (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['keyring'] = None\n")
        environ["PYTHONPATH"] = str(tmp_path)
    else:
        environ["PYTHON_KEYRING_BACKEND"] = backend
    done = run([*PROGRAM, "config", "show"], environ, tmp_path, status)

    assert told in done
    assert "s3cret" not in done
    assert "Traceback" not in done


def run(words, environ, folder, status):
    done = subprocess.run(
        words, env=environ, cwd=folder, capture_output=True, text=True, timeout=50, check=False
    )
    assert done.returncode == status, done.stderr
    return done.stdout + done.stderr


def test_a_secret_shows_itself_to_nobody():
    import pickle

    secret = Secret("canary")

    assert "canary" not in f"{secret} {secret!r} {[secret]} {EndFlags(api_key=secret)}"
    with pytest.raises(TypeError):
        pickle.dumps(secret)


@pytest.mark.parametrize(
    ("environ", "timeout", "handshake"),
    [
        ({}, 30.0, 1.5),
        ({"HDEV_MEMORY_HTTP_TIMEOUT": "7"}, 7.0, 7.0),
        ({"HDEV_MEMORY_HTTP_TIMEOUT": "0.5"}, 0.5, 0.5),
    ],
)
def test_a_configured_timeout_is_how_long_the_handshake_may_take(
    place, environ, timeout, handshake
):
    where = ends(place, LOCAL, EndFlags(kind="http", url=ONE), environ).target.where

    assert (where.timeout, where.handshake) == (timeout, handshake)


def test_durability_is_about_the_target_and_none_is_refused_for_a_server(place):
    found = ends(place, LOCAL, EndFlags(path="there"), durability="none")

    assert (found.source.where.durability, found.target.where.durability) == ("full", "none")
    with pytest.raises(UsageError, match="--durability none"):
        ends(place, LOCAL, EndFlags(kind="http", url=ONE), durability="none")


@pytest.mark.parametrize(
    ("text", "line", "about"),
    [
        ("memory:\n  http:\n    [a, b]: c\n", 3, "plain text"),
        ("memory:\n  s4: {}\n", 2, "memory.s4"),
        ("memory: [a]\n", 1, "memory"),
        ("memory:\n  backend: \x00\n", None, "not valid YAML"),
        ("memory:\n  http:\n    timeout: 0\n", 3, "http.timeout"),
        ("memory:\n  http:\n    timeout: nan\n", 3, "http.timeout"),
        ("memory:\n  http:\n    timeout: 1e9\n", 3, "http.timeout"),
        ("memory:\n  http:\n    api_key: schlüssel\n", 3, "characters"),
    ],
)
def test_what_is_wrong_in_the_users_file_is_named_with_its_line(place, text, line, about):
    user(place, text)

    with pytest.raises(ConfigError) as caught:
        settings(place)
    told = f"{caught.value.what} {caught.value.why}"
    assert about in told
    assert line is None or f"config.yaml:{line}" in told


@pytest.mark.parametrize(
    ("text", "about"),
    [
        ("environments = 3\n", "environments"),
        ("[environments]\na = 3\n", "environments.a"),
        ("[environments.a]\nendpoint = 'filesystem'\ntimeout = 'soon'\n", "timeout"),
        ("[environments.a]\nendpoint = 'a'\n", "endpoint"),
        ("[environments.a]\nendpoint = true\n", "environments.a.endpoint"),
    ],
)
def test_what_is_wrong_in_the_project_file_is_named(place, text, about):
    project(place, text)

    with pytest.raises(ConfigError) as caught:
        settings(place)
    assert "hdev.toml" in caught.value.why
    assert about in caught.value.why


def test_a_configuration_that_cannot_be_read_is_no_empty_one(place):
    path = place[1] / ".hdev/config.yaml"
    path.write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="not UTF-8"):
        settings(place)

    path.unlink()
    path.mkdir()
    with pytest.raises(ConfigError, match="cannot be read"):
        settings(place)


def test_an_empty_file_of_the_user_sets_nothing(place):
    user(place, "# nothing yet\n")

    assert settings(place).values == {}


@pytest.mark.parametrize(
    "flags",
    [
        EndFlags(endpoint="https://one", path="there"),
        EndFlags(endpoint="filesystem", url="https://one"),
        EndFlags(path="there", url="https://one"),
        EndFlags(endpoint="filesystem:"),
        EndFlags(endpoint="http:"),
        EndFlags(path=""),
        EndFlags(path="a\0b"),
        EndFlags(url="ftp://one"),
        EndFlags(url="https://one?key=1"),
        EndFlags(url="https://one#x"),
        EndFlags(url="https://"),
    ],
)
def test_an_end_that_is_not_clear_is_a_usage_error(place, flags):
    with pytest.raises(UsageError):
        ends(place, LOCAL, flags)


def test_the_home_folder_may_be_written_as_a_tilde(place):
    found = ends(place, EndFlags(path="~"), EndFlags(path="~/x"))

    assert found.source.where.location == str(place[1])
    assert found.target.where.location == str(place[1] / "x")


@pytest.mark.parametrize(
    ("variable", "text", "why"),
    [
        ("FILE", "/nowhere/key", "/nowhere/key: No such file"),
        ("FILE", "/", "/: Is a directory"),
        ("COMMAND", "false", "status 1"),
        ("COMMAND", "no-such-program", "cannot be run: No such file"),
        ("COMMAND", "echo 'open", "it is no command"),
        ("COMMAND", "true", "named in"),
    ],
)
def test_a_key_that_cannot_be_had_says_why_and_where_it_was_asked_for(place, variable, text, why):
    name = f"HDEV_MEMORY_HTTP_API_KEY_{variable}"

    with pytest.raises(ConfigError) as caught:
        settings(place, **{name: text})
    assert why in caught.value.why
    assert name in caught.value.why
