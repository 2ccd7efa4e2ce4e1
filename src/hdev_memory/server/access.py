"""Who a client of the server is, and what it may do."""

from __future__ import annotations

import hashlib
import hmac
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from starlette.exceptions import HTTPException

from hdev_memory.backends.base import Secret
from hdev_memory.errors import ConfigError
from hdev_memory.server import keysfile
from hdev_memory.server.attempts import Attempts
from hdev_memory.server.keysfile import ROLES, Role
from hdev_memory.server.limits import DEFAULT, Limits

LOOK_SECONDS = 1.0
"""The file with the keys is looked at once in so many seconds at most."""

TOO_MANY = 429

log = logging.getLogger("hdev_memory.server")


@dataclass(frozen=True)
class Client:
    """The name of the key that a client has, and its roles."""

    name: str
    roles: frozenset[Role]

    def may(self, role: Role) -> bool:
        """Whoever may write may read as well; nothing else follows from a role."""
        return role in self.roles or (role == "read" and "write" in self.roles)

    def require(self, role: Role) -> None:
        """Raises HTTPException 403."""
        if self.may(role):
            return
        if self.roles == {"read"} and role == "write":
            raise HTTPException(403, "This API key may only read")
        doing = {
            "read": "read",
            "write": "write",
            "audit": "read the audit log",
            "metrics": "read the metrics",
        }[role]
        raise HTTPException(403, f"This API key may not {doing}")


ANYBODY = Client("anonymous", frozenset(ROLES))
"""Every client of a server without keys."""


@dataclass(frozen=True)
class _Held:
    client: Client
    digest: bytes
    expires: datetime | None = None


def digest_of(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


class Access:
    """The keys of a server: two that it was started with, and those in a file that may change.

    `clock` gives seconds and never runs backwards, `now` is the time that keys expire by. The file
    is read again when it has changed. One that cannot be used changes nothing: the keys of before
    stay in force. Once there was a file, a server is never open to everybody again.
    """

    def __init__(
        self,
        api_key: Secret | None,
        read_only_api_key: Secret | None,
        file: Path | None,
        clock: Callable[[], float],
        now: Callable[[], datetime],
        wrong_key: Callable[[], None] = lambda: None,
        limits: Limits = DEFAULT,
    ) -> None:
        """`wrong_key` is called for each. Raises ConfigError where the file is there and cannot be
        used.
        """
        self._fixed: list[_Held] = []
        if api_key is not None:
            owner = Client("default", frozenset(ROLES))
            self._fixed.append(_Held(owner, digest_of(api_key.reveal())))
        if read_only_api_key is not None:
            reader = Client("read-only", frozenset(("read",)))
            self._fixed.append(_Held(reader, digest_of(read_only_api_key.reveal())))
        self._file = file
        self._clock = clock
        self._now = now
        self._wrong_key = wrong_key
        self._attempts = Attempts(clock, limits)
        self._listed: list[_Held] = []
        self._mark: tuple[int, ...] | None = None
        self._looked: float | None = clock()
        try:
            there = file is not None and keysfile.mark_of(file) is not None
        except OSError:
            there = True  # what cannot even be looked at is not taken for absent
        self._open = not there and not self._fixed
        if there:
            self._read()

    def look_again(self) -> None:
        """Look at the file at the next request, however soon that is."""
        self._looked = None

    def client(self, authorization: str | None, address: str) -> Client:
        """Who sends this header from this address. Raises HTTPException 401 or 429.

        All digests are compared, whichever it is, each in the same time.
        """
        self._refresh()
        if self._open:
            return ANYBODY
        scheme, _, key = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not key:
            raise HTTPException(401, "API key required", {"WWW-Authenticate": "Bearer"})
        given = digest_of(key)
        matches = [held.client for held in self._good() if hmac.compare_digest(given, held.digest)]
        wait = self._attempts.wait(address)
        if wait and not (matches and self._attempts.proven(address, matches[0].name)):
            # Right or wrong: the answer is the same, so that there is nothing to learn from it.
            headers = {"Retry-After": str(wait)}
            raise HTTPException(TOO_MANY, "Too many wrong API keys came from this address", headers)
        if not matches:
            self._wrong_key()
            if self._attempts.failed(address):
                log.warning("too many wrong API keys from %s: no new ones are looked at", address)
            raise HTTPException(401, "Invalid API key", {"WWW-Authenticate": "Bearer"})
        self._attempts.succeeded(address, matches[0].name)
        return matches[0]

    def _good(self) -> Sequence[_Held]:
        now = self._now()
        listed = [held for held in self._listed if held.expires is None or now < held.expires]
        return [*self._fixed, *listed]

    def _refresh(self) -> None:
        """Read the file again if it has changed."""
        now = self._clock()
        if self._file is None:
            return
        if self._looked is not None and now - self._looked < LOOK_SECONDS:
            return
        self._looked = now
        try:
            mark = keysfile.mark_of(self._file)
            if mark == self._mark:
                return
            if mark is None:
                self._mark = None
                log.error("%s is gone; the keys of before stay in force", self._file)
                return
            self._open = False
            self._read()
        except ConfigError as error:
            self._mark = mark
            log.error("%s The keys of before stay in force.", error)
        except OSError as error:
            self._open = False
            log.error("%s: %s; the keys of before stay in force", self._file, error.strerror)

    def _read(self) -> None:
        assert self._file is not None
        found = keysfile.read(self._file)
        self._listed = [
            _Held(
                Client(key.name, frozenset(key.roles)),
                bytes.fromhex(key.digest),
                datetime.fromisoformat(key.expires) if key.expires is not None else None,
            )
            for key in found.keys.keys
            if key.revoked is None
        ]
        self._mark = found.mark
