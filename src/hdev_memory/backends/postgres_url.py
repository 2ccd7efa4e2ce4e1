"""URLs of memories in PostgreSQL: taken apart, and written without what is secret."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, quote, unquote, urlencode

from hdev_memory.backends.base import Secret
from hdev_memory.errors import UsageError

SCHEMES = ("postgres", "postgresql")
DEFAULT_SCHEMA = "hdev_memory"
DEFAULT_PORT = "5432"

_PARAMETERS = (
    "channel_binding",
    "gssencmode",
    "host",
    "port",
    "schema",
    "service",
    "sslmode",
    "sslrootcert",
    "target_session_attrs",
)
"""What may follow the `?`: parameters of libpq that hold no secret, and `schema`, which is ours."""

_SECRETS = ("password", "passfile", "sslpassword", "sslkey")

_HINT = "Write it as postgres://HOST/DATABASE or postgres://USER@HOST:PORT/DATABASE."


@dataclass(frozen=True)
class PostgresUrl:
    """A URL in its parts; what it does not say is left to libpq and its environment."""

    hosts: tuple[tuple[str, str], ...]
    database: str
    schema: str
    parameters: tuple[tuple[str, str], ...]
    user: str | None = None
    password: Secret | None = field(default=None, repr=False)

    @property
    def location(self) -> str:
        """The URL without user and password."""
        hosts = ",".join(f"{_bracketed(h)}:{p}" if p else _bracketed(h) for h, p in self.hosts)
        shown = list(self.parameters)
        if self.schema != DEFAULT_SCHEMA:
            shown.append(("schema", self.schema))
        query = f"?{urlencode(sorted(shown), quote_via=quote, safe='/')}" if shown else ""
        return f"postgres://{hosts}/{quote(self.database, safe='')}{query}"

    @property
    def place(self) -> tuple[object, ...]:
        """What is the same for every URL of one memory, as far as that can be seen from it."""
        asked = dict(self.parameters)
        hosts = self.hosts
        if "host" in asked or not hosts:
            hosts = ((asked.get("host", ""), asked.get("port", "")),)
        where = tuple(
            ("loopback" if h in ("localhost", "127.0.0.1", "::1") else h, p or DEFAULT_PORT)
            for h, p in hosts
        )
        return where, asked.get("service", ""), self.database, self.schema

    @property
    def label(self) -> str:
        """What people call it, where it is no environment."""
        host = self.hosts[0][0] if self.hosts else ""
        schema = self.schema if self.schema != DEFAULT_SCHEMA else ""
        return "-".join(part for part in (host, self.database, schema) if part)


def is_postgres_url(text: str) -> bool:
    """Whether a text means to be such a URL."""
    return text.partition("://")[0] in SCHEMES and "://" in text


def parse(text: str) -> PostgresUrl:
    """The parts of a URL. Raises UsageError, which quotes nothing of it: it may hold a password."""
    rest = text.partition("://")[2]
    rest, _, query = rest.partition("?")
    authority, _, path = rest.partition("/")
    userinfo, at, hosts = authority.rpartition("@")
    user, colon, password = userinfo.partition(":")
    if not is_postgres_url(text) or "#" in text or "/" in path or not text.isprintable():
        raise _wrong("It has another form than one.")
    asked = parse_qsl(query, keep_blank_values=True)
    for name, value in asked:
        if name in _SECRETS:
            raise UsageError(
                "A URL holds no secrets behind its question mark.",
                why=f"It has `{name}`.",
                hint="Give the password with HDEV_MEMORY_POSTGRES_PASSWORD, PGPASSWORD or "
                "~/.pgpass, the rest as libpq's environment variables.",
            )
        if name not in _PARAMETERS:
            raise _wrong(f"Its parameter `{name[:60]}` is none of {', '.join(_PARAMETERS)}.")
        if not value or not value.isprintable():
            raise _wrong(f"Its parameter `{name}` has no value.")
    if len(dict(asked)) != len(asked):
        raise _wrong("It has a parameter twice.")
    schema = dict(asked).get("schema", DEFAULT_SCHEMA)
    if not re.fullmatch(r"[a-z_][a-z0-9_]{0,62}", schema) or schema.startswith("pg_"):
        raise _wrong("Its schema is no plain name of small letters, digits and underscores.")
    return PostgresUrl(
        hosts=tuple(_host(part) for part in hosts.split(",")) if hosts else (),
        database=unquote(path),
        schema=schema,
        parameters=tuple(sorted((n, v) for n, v in asked if n != "schema")),
        user=unquote(user) if at and user else None,
        password=Secret(unquote(password)) if colon and password else None,
    )


def _host(text: str) -> tuple[str, str]:
    found = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([^\[\]:]*))(?::([0-9]{1,5}))?", text)
    if found is None or (found.group(3) and not 0 < int(found.group(3)) < 65536):
        raise _wrong("Its host and port are none.")
    host = unquote(found.group(1) or found.group(2))
    return host.rstrip(".").lower() if "/" not in host else host, found.group(3) or ""


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else quote(host, safe="")


def _wrong(why: str) -> UsageError:
    return UsageError("This is no URL of a PostgreSQL database.", why=why, hint=_HINT)
