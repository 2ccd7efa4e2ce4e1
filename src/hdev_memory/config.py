"""Where settings come from, and how the two ends of a migration are found in them.

Precedence: flag > environment (`HDEV_MEMORY_*`) > project file (`hdev.toml`) > user file
(`~/.hdev/config.yaml`).
Everything from outside (environment, folders) is an argument; nothing here prints.
"""

from __future__ import annotations

import os.path
import re
import shlex
import subprocess
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from hdev_memory.backends import postgres_url
from hdev_memory.backends.base import Endpoint, Secret, Where
from hdev_memory.core.approval import MAX_APPROVALS, Bind, Group, Requirement, is_principal
from hdev_memory.core.rules import span_seconds
from hdev_memory.core.tomllines import lines_of
from hdev_memory.errors import ConfigError, UsageError

PROJECT_FILE = "hdev.toml"
POLICY_FILE = "hdev-policy.toml"
USER_FILE = Path(".hdev") / "config.yaml"
DEFAULT_STORE = Path(".hdev") / "memory"
DEFAULT_TIMEOUT = 30.0
DEFAULT_HANDSHAKE = 1.5
"""Seconds, both requests together: with the start of the program, that is under two. A configured
timeout stands for the handshake as well."""

_KEY_FORMS = ("api_key", "api_key_env", "api_key_file", "api_key_command", "api_key_keyring")
_S3 = ("bucket", "region", "access_key_id", "secret_access_key", "endpoint_url")
_HTTP = ("url", "timeout", *_KEY_FORMS)
_PLAIN = ("backend", "principal", "signing_key")
_MEMORY: dict[str, tuple[str, ...]] = {"filesystem": ("path",), "http": _HTTP, "s3": _S3}
_ENVIRONMENT = (
    "endpoint", "timeout", "protected", "policy",
    "api_key_env", "api_key_file", "api_key_command", "api_key_keyring",
)  # fmt: skip

SECRET_NAMES = frozenset(
    {"http.api_key", "postgres.password", "s3.access_key_id", "s3.secret_access_key"}
)


@dataclass(frozen=True)
class Value:
    """A setting and where it was found."""

    value: str
    origin: str


@dataclass(frozen=True)
class Environment:
    """A named endpoint of the project file.

    One that is `protected` takes no plan where there is no policy, or nobody has said who may sign.
    Its `policy` stands in the place of the project's for plans that lead there.
    """

    name: str
    endpoint: str
    key: Value | None
    timeout: str | None
    origin: str
    protected: bool = False
    policy: Path | None = None


@dataclass(frozen=True)
class Approvals:
    """The `[approvals]` of a project file: what approvals are asked for, and who may give them.

    Paths are relative to `folder`. `agents` are principals that never count, `unattended` those
    that may sign without a person at a terminal.
    """

    origin: str
    folder: Path
    requirement: Requirement
    allowed_signers: str | None
    revoked: str | None
    agents: tuple[str, ...]
    unattended: tuple[str, ...]

    def shown(self) -> Iterator[tuple[str, str]]:
        """Each setting as names and texts for people."""
        asked = self.requirement
        yield "require", str(asked.count)
        for name, group in asked.groups.items():
            yield f"groups.{name}", f"{group.require} of {', '.join(group.principals)}"
        yield "bind", asked.bind
        yield "exclude_author", str(asked.exclude_author).lower()
        yield "allowed_signers", self.allowed_signers or "(none)"
        yield "revoked", self.revoked or "(none)"
        if asked.max_age is not None:
            yield "max_age", f"{asked.max_age} seconds"
        yield "agents", ", ".join(self.agents) or "(none)"
        yield "unattended", ", ".join(self.unattended) or "(none)"


@dataclass(frozen=True)
class Settings:
    """Everything that was found, with the strongest source of each value."""

    values: dict[str, Value]
    environments: dict[str, Environment]
    approvals: Approvals | None
    cwd: Path
    home: Path
    environ: Mapping[str, str] = field(repr=False)
    project: str | None = field(default=None, repr=False)
    """The project file as it was read, None where there is none."""

    def get(self, name: str) -> str | None:
        found = self.values.get(name)
        return found.value if found is not None else None


def load(environ: Mapping[str, str], cwd: Path, home: Path) -> Settings:
    """Read every source. Raises ConfigError naming file, line and key."""
    values: dict[str, Value] = {}
    environments: dict[str, Environment] = {}
    approvals: Approvals | None = None
    user = home / USER_FILE
    if (text := _read(user)) is not None:
        values |= _memory(_Yaml(user, text), environ)
    project = _project_file(cwd)
    text = _read(project) if project is not None else None
    if project is not None and text is not None:
        document = _Toml(project, text)
        values |= _memory(document, environ)
        environments = _environments(document, environ)
        approvals = _approvals(document)
        values |= _policy(document)
    if "policy" not in values and (policy := _found(cwd, POLICY_FILE, project)) is not None:
        values["policy"] = Value(str(policy), "default")
    values |= dict(_from_environ(environ, cwd))
    settings = Settings(values, environments, approvals, cwd, home, environ, text)
    _check(settings)
    return settings


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except UnicodeDecodeError:
        raise ConfigError(
            "A configuration file is not UTF-8.", why=f"{path}.", hint="Save it as UTF-8."
        ) from None
    except OSError as error:
        raise ConfigError(
            "A configuration file cannot be read.",
            why=f"{path}: {error.strerror}.",
            hint="Let this user read it, or remove it.",
        ) from None


def _project_file(cwd: Path) -> Path | None:
    return _found(cwd, PROJECT_FILE, None)


def _found(cwd: Path, name: str, project: Path | None) -> Path | None:
    """The nearest file of this name, up to the repository's root; where there is a project file,
    only the one beside it."""
    if project is not None:
        return project.with_name(name) if project.with_name(name).is_file() else None
    for folder in (cwd, *cwd.parents):
        if (folder / name).is_file():
            return folder / name
        if (folder / ".git").exists():
            return None
    return None


def _wrong(path: Path, line: int | None, key: str, why: str) -> ConfigError:
    place = f"{path}:{line}" if line is not None else str(path)
    about = f"`{key}` {why}" if key else why
    return ConfigError(
        "A configuration file is wrong.",
        why=f"{place}: {about}.",
        hint="Correct that line, then run `hdev config check`.",
    )


class _Toml:
    """The project file, with the line of every key."""

    committed = True

    def __init__(self, path: Path, text: str) -> None:
        self.path = path
        try:
            self.tree: dict[str, Any] = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            found = re.search(r"line (\d+)", str(error))
            line = int(found.group(1)) if found else len(text.splitlines())
            reason = str(error).split(" (at")[0].lower()
            raise _wrong(path, line, "", f"is not valid TOML: {reason}") from None
        except RecursionError:
            raise _wrong(path, None, "", "it is nested too deeply") from None
        self._lines = lines_of(text)
        for name in self.tree:
            if name not in ("memory", "environments", "approvals", "policy"):
                raise _wrong(path, self.line((name,)), name, "is not known")

    def line(self, keys: tuple[str, ...]) -> int | None:
        return self._lines.get(keys)


class _Yaml:
    """The user's file, with the line of every key."""

    committed = False

    def __init__(self, path: Path, text: str) -> None:
        import yaml

        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        self.path = path
        self._lines: dict[tuple[str, ...], int] = {}
        try:
            node = yaml.compose(text, Loader=loader)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark
            line = mark.line + 1 if mark is not None else None
            raise _wrong(path, line, "", f"is not valid YAML: {error.problem}") from None
        except yaml.YAMLError:
            raise _wrong(path, None, "", "is not valid YAML") from None
        self.tree: dict[str, Any] = {}
        if node is None:
            return
        if not isinstance(node, yaml.MappingNode):
            raise _wrong(path, node.start_mark.line + 1, "", "must hold names and values")
        self.tree = self._mapping(node, ())

    def _mapping(self, node: Any, above: tuple[str, ...]) -> dict[str, Any]:
        import yaml

        found: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                raise _wrong(self.path, line, "", "a name must be plain text")
            keys = (*above, key_node.value)
            if key_node.value in found:
                raise _wrong(self.path, line, ".".join(keys), "is given twice")
            self._lines[keys] = line
            if isinstance(value_node, yaml.MappingNode):
                found[key_node.value] = self._mapping(value_node, keys)
            elif isinstance(value_node, yaml.ScalarNode):
                # Plain text as it stands: a key like 0123 or `yes` is not to be reinterpreted.
                empty = value_node.tag == "tag:yaml.org,2002:null"
                found[key_node.value] = None if empty else value_node.value
            else:
                found[key_node.value] = []
        return found

    def line(self, keys: tuple[str, ...]) -> int | None:
        return self._lines.get(keys)


def _memory(document: _Toml | _Yaml, environ: Mapping[str, str]) -> dict[str, Value]:
    """The `memory` table of a file, flattened; other tools' tables are left alone."""
    memory = document.tree.get("memory")
    if memory is None:
        return {}
    if not isinstance(memory, dict):
        raise _wrong(document.path, document.line(("memory",)), "memory", "must hold settings")
    values: dict[str, Value] = {}
    for name, item in memory.items():
        if name in _PLAIN:
            values[name] = _value(document, ("memory", name), item)
        elif name not in _MEMORY:
            line = document.line(("memory", name))
            raise _wrong(document.path, line, f"memory.{name}", "is not known")
        elif not isinstance(item, dict):
            line = document.line(("memory", name))
            raise _wrong(document.path, line, f"memory.{name}", "must hold settings")
        else:
            values |= _section(document, name, item, environ)
    return values


def _section(
    document: _Toml | _Yaml, name: str, section: dict[str, Any], environ: Mapping[str, str]
) -> dict[str, Value]:
    values: dict[str, Value] = {}
    for key, item in section.items():
        keys = ("memory", name, key)
        if key not in _MEMORY[name]:
            raise _wrong(document.path, document.line(keys), ".".join(keys), "is not known")
        value = _value(document, keys, item)
        if key not in _KEY_FORMS:
            values[f"{name}.{key}"] = value
    secret = _file_key(document, ("memory", name), section, environ)
    if secret is not None:
        values[f"{name}.api_key"] = secret
    return values


def _value(document: _Toml | _Yaml, keys: tuple[str, ...], item: Any) -> Value:
    line = document.line(keys)
    if isinstance(item, bool) or not isinstance(item, str | int | float):
        raise _wrong(document.path, line, ".".join(keys), "must be a text or a number")
    return Value(str(item), f"{document.path}:{line}" if line else str(document.path))


def _file_key(
    document: _Toml | _Yaml,
    above: tuple[str, ...],
    section: dict[str, Any],
    environ: Mapping[str, str],
) -> Value | None:
    given = [form for form in _KEY_FORMS if form in section]
    if not given:
        return None
    keys = (*above, given[0])
    if len(given) > 1:
        line = document.line((*above, given[1]))
        raise _wrong(document.path, line, given[1], f"stands beside `{given[0]}`: give one")
    if given[0] == "api_key" and document.committed:
        raise _wrong(
            document.path,
            document.line(keys),
            ".".join(keys),
            "must not be in a file that is committed; use api_key_env, api_key_file, "
            "api_key_command or api_key_keyring",
        )
    value = _value(document, keys, section[given[0]])
    if given[0] == "api_key":
        return value
    if given[0] == "api_key_env":
        named = environ.get(value.value)
        return Value(named, f"{value.origin} (environment {value.value})") if named else None
    if given[0] == "api_key_file":
        path = (document.path.parent / Path(value.value).expanduser()).absolute()
        return Value(_key_from_file(path, value.origin), f"{value.origin} (file)")
    if given[0] == "api_key_keyring":
        return Value(_key_from_keyring(value.value, value.origin), f"{value.origin} (keyring)")
    return Value(_key_from_command(value.value, value.origin), f"{value.origin} (command)")


def _environments(document: _Toml, environ: Mapping[str, str]) -> dict[str, Environment]:
    tables = document.tree.get("environments", {})
    if not isinstance(tables, dict):
        line = document.line(("environments",))
        raise _wrong(document.path, line, "environments", "must hold tables")
    found: dict[str, Environment] = {}
    for name, table in tables.items():
        above = ("environments", name)
        if not isinstance(table, dict):
            raise _wrong(document.path, document.line(above), ".".join(above), "must be a table")
        for key, item in table.items():
            keys = (*above, key)
            if key not in _ENVIRONMENT and key != "api_key":
                raise _wrong(document.path, document.line(keys), ".".join(keys), "is not known")
            if key == "policy":
                _policy_path(document, keys, item)
            elif key != "protected":
                _value(document, keys, item)
            elif not isinstance(item, bool):
                line = document.line(keys)
                raise _wrong(document.path, line, ".".join(keys), "must be true or false")
        if "endpoint" not in table:
            raise _wrong(document.path, document.line(above), ".".join(above), "has no `endpoint`")
        if _holds_password(str(table["endpoint"])):
            line = document.line((*above, "endpoint"))
            raise _wrong(
                document.path,
                line,
                ".".join((*above, "endpoint")),
                "must hold no password: this file is committed; use api_key_env, api_key_file, "
                "api_key_command, api_key_keyring or ~/.pgpass",
            )
        found[name] = Environment(
            name=name,
            endpoint=str(table["endpoint"]),
            key=_file_key(document, above, table, environ),
            timeout=str(table["timeout"]) if "timeout" in table else None,
            origin=f"{document.path}:{document.line(above)}",
            protected=table.get("protected", False),
            policy=_policy_path(document, (*above, "policy"), table.get("policy")),
        )
    return found


def _holds_password(endpoint: str) -> bool:
    user, at, _ = endpoint.partition("://")[2].partition("/")[0].rpartition("@")
    return bool(at) and ":" in user


def _policy(document: _Toml) -> dict[str, Value]:
    """Where the project file says that its policy is; the path is relative to the file."""
    named = document.tree.get("policy")
    if named is None:
        return {}
    line = document.line(("policy",))
    path = _policy_path(document, ("policy",), named)
    return {"policy": Value(str(path), f"{document.path}:{line}")}


def _policy_path(document: _Toml, keys: tuple[str, ...], named: Any) -> Path | None:
    if named is None:
        return None
    if not isinstance(named, str) or not named or "\0" in named:
        line = document.line(keys)
        raise _wrong(document.path, line, ".".join(keys), "must be the path of a file")
    return document.path.parent / named


@dataclass(frozen=True)
class Judging:
    """What a project file says of how plans are judged; nothing of it is carried out.

    `policy` is the path of its policy file, where it names one; `places` are settings with its
    environments and default places, which say where each name lies and whether it has a policy of
    its own, and with no key of them.
    """

    policy: Path | None
    places: Settings


_PLACES = ("filesystem.path", "http.url")


def judging_in(path: Path, text: str | None, settings: Settings) -> Judging:
    """What a project file says, from its text, in the place of the one that `settings` were read
    with; None for one that is not there. Raises ConfigError naming file, line and key."""
    document = _Toml(path, text or "")
    tables = document.tree.get("environments", {})
    environments = {
        name: Environment(
            name=name,
            endpoint=str(table.get("endpoint")),
            key=None,
            timeout=None,
            origin=f"{path}:{document.line(('environments', name))}",
            protected=table.get("protected") is True,
            policy=_policy_path(document, ("environments", name, "policy"), table.get("policy")),
        )
        for name, table in (tables.items() if isinstance(tables, dict) else ())
        if isinstance(table, dict)
    }
    named = _policy(document).get("policy")
    return Judging(
        policy=Path(named.value) if named is not None else None,
        places=replace(settings, values=_replaced(settings, document), environments=environments),
    )


def _replaced(settings: Settings, document: _Toml) -> dict[str, Value]:
    """The values of settings, of which the places are those of another project file."""
    here = f"{_project_file(settings.cwd)}:"
    values = {
        name: value
        for name, value in settings.values.items()
        if name not in _PLACES or not value.origin.startswith(here)
    }
    memory = document.tree.get("memory", {})
    for name in _PLACES:
        section, _, key = name.partition(".")
        table = memory.get(section) if isinstance(memory, dict) else None
        stronger = name in values and values[name].origin.startswith("environment ")
        if isinstance(table, dict) and key in table and not stronger:
            values[name] = Value(str(table[key]), str(document.path))
    return values


def span(text: str) -> timedelta | None:
    """`7d`, `12h` or `30m`; None for anything else."""
    seconds = span_seconds(text)
    return timedelta(seconds=seconds) if seconds is not None else None


def approvals_in(path: Path, text: str) -> Approvals | None:
    """The `[approvals]` of a project file, from its text; None where it has none.

    Raises ConfigError naming file, line and key.
    """
    return _approvals(_Toml(path, text))


def _approvals(document: _Toml) -> Approvals | None:
    if "approvals" not in document.tree:
        return None
    table = _Table(document, ("approvals",), document.tree["approvals"])
    groups = {
        name: _group(_Table(document, ("approvals", "groups", name), item))
        for name, item in table.table("groups").items()
    }
    age = table.text("max_age")
    bind: Bind = "effect" if table.one_of("bind", ("plan", "effect")) == "effect" else "plan"
    found = Approvals(
        origin=str(document.path),
        folder=document.path.parent,
        # Whoever writes the table down and no number wants at least one.
        requirement=Requirement(
            count=table.number("require", 0 if groups else 1),
            groups=groups,
            exclude_author=table.flag("exclude_author", True),
            bind=bind,
            max_age=table.seconds("max_age", age) if age is not None else None,
        ),
        allowed_signers=table.text("allowed_signers"),
        revoked=table.text("revoked"),
        agents=table.principals("agents"),
        unattended=table.principals("unattended"),
    )
    table.end()
    return found


def _group(table: _Table) -> Group:
    found = Group(principals=table.principals("principals"), require=table.number("require", 1))
    table.end()
    if not 1 <= found.require <= len(found.principals):
        raise table.wrong("require", "is not between 1 and the number of its principals")
    return found


class _Table:
    """A table of the project file, read strictly: each setting once, none left over."""

    def __init__(self, document: _Toml, keys: tuple[str, ...], tree: Any) -> None:
        self._document = document
        self._keys = keys
        if not isinstance(tree, dict):
            raise _wrong(document.path, document.line(keys), ".".join(keys), "must be a table")
        self._left: dict[str, Any] = dict(tree)

    def wrong(self, name: str, why: str) -> ConfigError:
        keys = (*self._keys, name)
        line = self._document.line(keys) or self._document.line(self._keys)
        return _wrong(self._document.path, line, ".".join(keys), why)

    def text(self, name: str) -> str | None:
        found = self._left.pop(name, None)
        if found is not None and (not isinstance(found, str) or not found or "\0" in found):
            raise self.wrong(name, "must be a text that is not empty")
        return found

    def one_of(self, name: str, choices: tuple[str, ...]) -> str:
        found = self.text(name)
        if found is not None and found not in choices:
            raise self.wrong(name, f"is none of {', '.join(choices)}")
        return found if found is not None else choices[0]

    def number(self, name: str, default: int) -> int:
        found = self._left.pop(name, default)
        if isinstance(found, bool) or not isinstance(found, int) or not 0 <= found <= MAX_APPROVALS:
            raise self.wrong(name, f"must be a number from 0 to {MAX_APPROVALS}")
        return found

    def flag(self, name: str, default: bool) -> bool:
        found = self._left.pop(name, default)
        if not isinstance(found, bool):
            raise self.wrong(name, "must be true or false")
        return found

    def seconds(self, name: str, text: str) -> int:
        found = span(text)
        if found is None:
            raise self.wrong(name, "must be a time span such as 72h or 7d")
        return int(found.total_seconds())

    def principals(self, name: str) -> tuple[str, ...]:
        found = self._left.pop(name, [])
        if not isinstance(found, list) or not all(
            isinstance(item, str) and is_principal(item) for item in found
        ):
            raise self.wrong(name, "must be a list of principals, each a plain name")
        if len({item.lower() for item in found}) != len(found):
            raise self.wrong(name, "names a principal twice")
        return tuple(found)

    def table(self, name: str) -> dict[str, Any]:
        found = self._left.pop(name, {})
        if not isinstance(found, dict):
            raise self.wrong(name, "must be a table")
        return found

    def end(self) -> None:
        for name in self._left:
            raise self.wrong(name, "is not known")


_ENVIRON_NAMES = {
    "HDEV_MEMORY_BACKEND": "backend",
    "HDEV_MEMORY_PRINCIPAL": "principal",
    "HDEV_MEMORY_SIGNING_KEY": "signing_key",
    "HDEV_MEMORY_FILESYSTEM_PATH": "filesystem.path",
    "HDEV_MEMORY_HTTP_URL": "http.url",
    "HDEV_MEMORY_HTTP_TIMEOUT": "http.timeout",
    "HDEV_S3_BUCKET": "s3.bucket",
    "HDEV_S3_REGION": "s3.region",
    "HDEV_S3_ENDPOINT_URL": "s3.endpoint_url",
    "HDEV_S3_ACCESS_KEY_ID": "s3.access_key_id",
    "HDEV_S3_SECRET_ACCESS_KEY": "s3.secret_access_key",
}
_ENVIRON_KEYS = {
    "HDEV_MEMORY_HTTP_API_KEY": "http.api_key",
    "HDEV_MEMORY_POSTGRES_PASSWORD": "postgres.password",
    "HDEV_MEMORY_SOURCE_API_KEY": "source.api_key",
    "HDEV_MEMORY_TARGET_API_KEY": "target.api_key",
}


def _from_environ(environ: Mapping[str, str], cwd: Path) -> Iterator[tuple[str, Value]]:
    if environ.get("HDEV_MEMORY_POLICY"):
        place = str(cwd / environ["HDEV_MEMORY_POLICY"])
        yield "policy", Value(place, "environment HDEV_MEMORY_POLICY")
    for variable, name in _ENVIRON_NAMES.items():
        if environ.get(variable):
            yield name, Value(environ[variable], f"environment {variable}")
    for variable, name in _ENVIRON_KEYS.items():
        found = environ_key(environ, variable)
        if found is not None:
            yield name, found


def environ_key(environ: Mapping[str, str], variable: str) -> Value | None:
    """A key from VARIABLE, VARIABLE_FILE or VARIABLE_COMMAND, in this order.

    Raises ConfigError when a file or command is named and gives none.
    """
    if environ.get(variable):
        return Value(environ[variable], f"environment {variable}")
    if path := environ.get(f"{variable}_FILE"):
        origin = f"environment {variable}_FILE"
        return Value(_key_from_file(Path(path).expanduser(), origin), origin)
    if command := environ.get(f"{variable}_COMMAND"):
        origin = f"environment {variable}_COMMAND"
        return Value(_key_from_command(command, origin), origin)
    return None


def _key_from_file(path: Path, origin: str) -> str:
    try:
        key = path.read_text(encoding="utf-8").removesuffix("\n").removesuffix("\r")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise _no_key("The file with a key cannot be read.", origin, f"{path}: {reason}.") from None
    return _key(key, origin)


def _key_from_keyring(named: str, origin: str) -> str:
    """The key that the system's keyring holds as SERVICE/USER, asked through `keyring`."""
    service, slash, user = named.rpartition("/")
    if not (slash and service and user):
        why = "It is not written as SERVICE/USER."
        raise _no_key("The keyring cannot be asked for a key.", origin, why)
    try:
        import keyring
    except ImportError:
        raise ConfigError(
            "The keyring cannot be asked for a key.",
            why=f"{origin}: the package keyring is not installed.",
            hint="Run pip install 'hdev-memory[keyring]', or give the key in another way.",
        ) from None
    try:
        key = keyring.get_password(service, user)
    except Exception as error:  # noqa: BLE001 - each keyring has errors of its own kind
        # Its name only: what a keyring says of itself may quote what it holds.
        why = f"The keyring cannot be opened ({type(error).__name__})."
        raise _no_key("The keyring cannot be asked for a key.", origin, why) from None
    if key is None:
        raise _no_key("The keyring holds no such key.", origin, f"There is none for {named}.")
    return _key(key, origin)


def _key_from_command(command: str, origin: str) -> str:
    try:
        done = subprocess.run(
            shlex.split(command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=30,
            check=True,
        )
        key = done.stdout.decode().partition("\n")[0]
    except subprocess.CalledProcessError as error:
        why = f"It ended with status {error.returncode}."
        raise _no_key("The command that gives a key has failed.", origin, why) from None
    except subprocess.TimeoutExpired:
        why = "It did not end within 30 seconds."
        raise _no_key("The command that gives a key has failed.", origin, why) from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no command"
        why = f"It cannot be run: {reason}."
        raise _no_key("The command that gives a key has failed.", origin, why) from None
    return _key(key, origin)


def _key(key: str, origin: str) -> str:
    if not key or not key.isascii() or not key.isprintable():
        raise _no_key("A key is empty or holds characters that no key has.", origin)
    return key


def _no_key(what: str, origin: str, why: str = "") -> ConfigError:
    return ConfigError(
        what,
        why=f"{why} It is named in {origin}.".strip(),
        hint="Correct it there, then run `hdev config check`.",
    )


def _check(settings: Settings) -> None:
    backend = settings.values.get("backend")
    if backend is not None and backend.value not in ("filesystem", "http", "ephemeral"):
        raise _bad_value("backend", backend, "is none of filesystem, http, ephemeral")
    principal = settings.values.get("principal")
    if principal is not None and not is_principal(principal.value):
        raise _bad_value("principal", principal, "is no plain name of a principal")
    url = settings.values.get("http.url")
    if url is not None and not _is_url(url.value):
        raise _bad_value("http.url", url, "is not an http or https URL")
    timeout = settings.values.get("http.timeout")
    if timeout is not None and _seconds(timeout.value) is None:
        raise _bad_value("http.timeout", timeout, "is not a number of seconds above 0")
    for name in ("http.api_key", "postgres.password", "source.api_key", "target.api_key"):
        if name in settings.values:
            _key(settings.values[name].value, settings.values[name].origin)
    for environment in settings.environments.values():
        if environment.timeout is not None and _seconds(environment.timeout) is None:
            value = Value(environment.timeout, environment.origin)
            raise _bad_value("timeout", value, "is not a number of seconds above 0")
        try:
            _split_endpoint(environment.endpoint, settings, frozenset({environment.name}))
        except UsageError as error:
            value = Value(environment.endpoint, environment.origin)
            raise _bad_value("endpoint", value, f"is no endpoint ({error.why})") from None


def _bad_value(name: str, value: Value, why: str) -> ConfigError:
    return ConfigError(
        "A setting is wrong.",
        why=f"{value.origin}: `{name}` {why}.",
        hint="Correct it there, then run `hdev config check`.",
    )


def _is_url(text: str) -> bool:
    try:
        url = urlsplit(text)
        return url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
    except ValueError:
        return False


def _seconds(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if 0 < number <= 86_400 else None


@dataclass(frozen=True)
class EndFlags:
    """What was said on the command line, or in a session, about one end."""

    endpoint: str | None = None
    kind: str | None = None
    path: str | None = None
    url: str | None = None
    api_key: Secret | None = None


@dataclass(frozen=True)
class ResolvedEnd:
    """One end, ready to be opened."""

    where: Where
    label: str

    @property
    def endpoint(self) -> Endpoint:
        """Where it is, as far as that is known before it is opened."""
        return Endpoint(kind=self.where.kind, location=self.where.location)


@dataclass(frozen=True)
class Resolved:
    source: ResolvedEnd
    target: ResolvedEnd
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class _Place:
    kind: str
    location: str
    environment: Environment | None = None
    user: str | None = None
    password: Secret | None = None


def resolve(
    settings: Settings,
    source: EndFlags,
    target: EndFlags,
    *,
    shared_api_key: Secret | None = None,
    insecure_http: bool = False,
    parallelism: int | None = None,
    durability: Literal["full", "none"] = "full",
) -> Resolved:
    """Both ends, with the key that belongs to each. Raises UsageError.

    `durability` is about the target; `none` is a usage error where that is a server.

    A source that is not given is the local folder, whatever `memory.backend` says: that is what
    "migrate to your configured server" means. A target must be given.
    """
    if source == EndFlags(api_key=source.api_key):
        source = EndFlags(kind="filesystem", api_key=source.api_key)
    if target == EndFlags(api_key=target.api_key):
        raise UsageError(
            "There is no target.",
            why="Where the entries shall go was not said.",
            hint="Give a target, for example --target http --target-url https://HOST.",
        )
    warnings: list[str] = []
    ends = {"source": source, "target": target}
    places = {side: _place(flags, side, settings) for side, flags in ends.items()}
    if durability == "none" and places["target"].kind == "http":
        raise UsageError(
            "--durability none says nothing for a server.",
            why="How durably a server writes is its own affair.",
            hint="Leave --durability out.",
        )
    own = {side: _own_key(side, flags, places[side], settings) for side, flags in ends.items()}
    keys = _shared_keys(places, own, shared_api_key, warnings)
    for side, place in places.items():
        if place.kind == "http" and keys[side] is None:
            keys[side] = _configured_key(place, settings, warnings)
    _database_passwords(places, keys, settings, warnings)
    resolved = {
        side: ResolvedEnd(
            where=Where(
                kind=place.kind,
                location=place.location,
                key=keys[side],
                user=place.user,
                timeout=_timeout(place, settings) or DEFAULT_TIMEOUT,
                handshake=_timeout(place, settings) or DEFAULT_HANDSHAKE,
                parallelism=parallelism,
                durability=durability if side == "target" else "full",
                insecure_http=insecure_http,
            ),
            label=_label(place),
        )
        for side, place in places.items()
    }
    return Resolved(resolved["source"], resolved["target"], tuple(warnings))


def place_of(text: str, settings: Settings) -> tuple[str, str]:
    """The kind and the location of an endpoint. Raises UsageError."""
    place = _split_endpoint(text, settings, frozenset())
    return place.kind, place.location


def storage_of(
    text: str, environ: Mapping[str, str], cwd: Path, home: Path
) -> tuple[Where, tuple[str, ...]]:
    """What a server is to serve: `PATH`, `filesystem:PATH`, `sqlite:PATH`, a URL of PostgreSQL or
    `ephemeral`; and what to warn of. Raises UsageError, and ConfigError for a password."""
    settings = Settings({}, {}, None, cwd, home, environ)
    kind = text.partition(":")[0]
    kinds = ("filesystem", "sqlite", "ephemeral", *postgres_url.SCHEMES)
    if kind in ("http", "https"):
        raise UsageError(
            "A server does not serve another server.",
            hint="Give a folder, sqlite:PATH or postgres://HOST/DATABASE with --storage.",
        )
    place = _split_endpoint(text if kind in kinds else f"filesystem:{text}", settings, frozenset())
    keys: dict[str, Secret | None] = {"storage": place.password}
    warnings: list[str] = []
    if place.kind == "postgres":
        variable = "HDEV_MEMORY_POSTGRES_PASSWORD"
        if (found := environ_key(environ, variable)) is not None:
            settings.values["postgres.password"] = Value(
                _key(found.value, found.origin), found.origin
            )
        _database_passwords({"storage": place}, keys, settings, warnings)
    where = Where(place.kind, place.location, key=keys["storage"], user=place.user)
    return where, tuple(warnings)


def label_of(kind: str, location: str) -> str:
    """What a place is called that is no environment."""
    return _label(_Place(kind, location))


def _own_key(side: str, flags: EndFlags, place: _Place, settings: Settings) -> Secret | None:
    if place.kind not in ("http", "postgres"):
        return None
    if place.password is not None:
        return place.password
    if flags.api_key is not None:
        return flags.api_key
    named = settings.get(f"{side}.api_key")
    if named is not None:
        return Secret(named)
    if place.environment is not None and place.environment.key is not None:
        return Secret(place.environment.key.value)
    return None


def _shared_keys(
    places: dict[str, _Place],
    own: dict[str, Secret | None],
    shared: Secret | None,
    warnings: list[str],
) -> dict[str, Secret | None]:
    """Give --api-key to the http end that has none of its own, or to both."""
    keys = dict(own)
    if shared is None:
        return keys
    without = [side for side, place in places.items() if place.kind == "http" and not own[side]]
    if not without:
        warnings.append("--api-key is not used: no HTTP end needs it.")
    if len(without) == 2:
        warnings.append(
            "--api-key is sent to both servers; use --source-api-key and --target-api-key to give "
            "each its own."
        )
    for side in without:
        keys[side] = shared
    return keys


def _database_passwords(
    places: dict[str, _Place],
    keys: dict[str, Secret | None],
    settings: Settings,
    warnings: list[str],
) -> None:
    """Give the configured password to the databases that have none of their own."""
    if any(place.password is not None for place in places.values()):
        warnings.append(
            "a password in a URL can be seen in the list of processes; "
            "HDEV_MEMORY_POSTGRES_PASSWORD_FILE, PGPASSFILE or ~/.pgpass keep it out of there."
        )
    password = settings.get("postgres.password")
    without = [s for s, place in places.items() if place.kind == "postgres" and keys[s] is None]
    if password is None or not without:
        return
    for side in without:
        keys[side] = Secret(password)
    if len(without) == 2:
        warnings.append("the configured database password is used for both databases.")


def _configured_key(place: _Place, settings: Settings, warnings: list[str]) -> Secret | None:
    """The configured key, if it belongs to this server: a key goes to its own origin only."""
    key = settings.get("http.api_key")
    if key is None:
        return None
    url = settings.get("http.url")
    if url is None or _origin(url) == _origin(place.location):
        return Secret(key)
    warnings.append(
        "The configured API key is not sent: it belongs to the configured URL, which is another "
        "server."
    )
    return None


def _origin(url: str) -> tuple[str, str, int | None]:
    parts = urlsplit(url)
    default = {"http": 80, "https": 443}.get(parts.scheme)
    return parts.scheme, (parts.hostname or "").rstrip("."), parts.port or default


def _timeout(place: _Place, settings: Settings) -> float | None:
    """The seconds that somebody configured for this end, if anybody did."""
    text = place.environment.timeout if place.environment is not None else None
    if place.kind == "http":
        text = text or settings.get("http.timeout")
    return _seconds(text) if text is not None else None


def _place(flags: EndFlags, side: str, settings: Settings) -> _Place:
    """What the flags of one end come to. Raises UsageError where they contradict each other."""
    if flags.path is not None and flags.url is not None:
        raise _contradiction(side, f"both --{side}-path and --{side}-url were given")
    text = flags.endpoint if flags.endpoint is not None else flags.kind
    if text is None and flags.url is not None and postgres_url.is_postgres_url(flags.url):
        text = "postgres"
    if text is None:
        text = "filesystem" if flags.path is not None else "http"
    place = _split_endpoint(text, settings, frozenset(), path=flags.path, url=flags.url)
    if flags.path is not None:
        if place.kind not in ("filesystem", "sqlite"):
            raise _contradiction(side, f"--{side}-path goes with a folder or an SQLite file")
        return _Place(place.kind, _absolute(flags.path, settings), place.environment)
    if flags.url is not None:
        if place.kind == "postgres":
            return replace(_database(flags.url), environment=place.environment)
        if place.kind != "http":
            raise _contradiction(side, f"--{side}-url goes with a server or PostgreSQL")
        return _Place("http", _checked_url(flags.url), place.environment)
    return place


def _contradiction(side: str, why: str) -> UsageError:
    return UsageError(f"The {side} is not clear.", why=f"{why[0].upper()}{why[1:]}.")


def _split_endpoint(
    text: str,
    settings: Settings,
    seen: frozenset[str],
    *,
    path: str | None = None,
    url: str | None = None,
) -> _Place:
    """`NAME`, `filesystem[:PATH]`, `sqlite:PATH`, `http[:URL]`, `URL` or `ephemeral`."""
    if text in settings.environments and text not in seen:
        environment = settings.environments[text]
        place = _split_endpoint(environment.endpoint, settings, seen | {text})
        return replace(place, environment=environment)
    if postgres_url.is_postgres_url(text):
        return _database(text)
    kind, colon, rest = text.partition(":")
    if kind in ("http", "https") and rest.startswith("//"):
        return _Place("http", _checked_url(text))
    if kind == "http":
        given = rest or url or (settings.get("http.url") if not colon else None)
        if not given:
            raise UsageError(
                "There is no URL for the HTTP server.",
                why="None was given, and none is configured.",
                hint="Give one as http:https://HOST, or set HDEV_MEMORY_HTTP_URL.",
            )
        return _Place("http", _checked_url(given))
    if kind == "filesystem":
        default = settings.get("filesystem.path") or str(settings.home / DEFAULT_STORE)
        if colon and not rest:
            raise UsageError(
                "There is no path behind `filesystem:`.", hint="Write filesystem:PATH."
            )
        return _Place("filesystem", _absolute(rest or path or default, settings))
    if kind == "sqlite":
        if not (rest or path):
            raise UsageError("There is no path behind `sqlite`.", hint="Write sqlite:PATH.")
        return _Place("sqlite", _absolute(rest or path or "", settings))
    if kind in postgres_url.SCHEMES:
        if rest or not url:
            raise UsageError(
                "There is no URL of the PostgreSQL database.",
                hint="Write postgres://USER@HOST/DATABASE.",
            )
        return _database(url)
    if kind == "ephemeral":
        return _Place("ephemeral", rest or "memory")
    hint = (
        "Write filesystem:PATH, http:https://HOST, sqlite:PATH, postgres://HOST/DATABASE, or the "
        "name of an environment."
    )
    names = ", ".join(sorted(settings.environments)) or "none are configured"
    raise UsageError(
        "This is no endpoint.",
        why=f"{_without_password(text)!r} is no backend, no URL, and no environment ({names}).",
        hint=hint,
    )


def _without_password(text: str) -> str:
    """The text of what may have been meant as a URL, fit to be shown."""
    return re.sub(r"[^/@]*@", "***@", text)


def _database(text: str) -> _Place:
    url = postgres_url.parse(text)
    return _Place("postgres", url.location, user=url.user, password=url.password)


def _checked_url(text: str) -> str:
    url_hint = "Write it as https://HOST or https://HOST:PORT."
    if not _is_url(text):
        raise UsageError("This is not an http or https URL.", hint=url_hint)
    url = urlsplit(text)
    if url.username is not None or url.password is not None:
        # Not quoted: the text holds a password.
        raise UsageError(
            "A URL must not hold a user or a password.",
            hint="Give the key with --api-key or HDEV_MEMORY_HTTP_API_KEY.",
        )
    if url.query or url.fragment:
        raise UsageError("A server's URL has no query and no fragment.", hint=url_hint)
    return text.rstrip("/")


def _absolute(path: str, settings: Settings) -> str:
    if path == "~" or path.startswith("~/"):
        path = str(settings.home) + path[1:]
    if not path or "\0" in path:
        raise UsageError("A path is empty or holds a NUL.", hint="Give the path of a folder.")
    # Normalised without resolving links, so that what is recorded is what was said.
    return os.path.normpath(settings.cwd / path)


def _label(place: _Place) -> str:
    if place.environment is not None:
        text = place.environment.name
        if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,59}", text):
            return text  # as it is: apply looks for the environment, and a policy for its name
    elif place.kind == "http":
        url = urlsplit(place.location)
        text = f"{url.hostname}-{url.port}" if url.port else str(url.hostname)
    elif place.kind == "postgres":
        text = postgres_url.parse(place.location).label
    else:
        text = Path(place.location).name or "root"
    return re.sub(r"[^a-z0-9._-]+", "-", text.lower()).strip("-.")[:60] or place.kind
