"""The lock of our own server, held from afar: a lease that is renewed, and a fence."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Self

from hdev_memory.backends.base import Holder, locked
from hdev_memory.backends.http_transport import (
    Answer,
    RequestFailed,
    Transport,
    failure,
    unreachable,
)
from hdev_memory.core.entry import display_name
from hdev_memory.errors import BackendError

PATH = "/api/locks/target"
SECONDS = 15
"""How long a lease lasts without being renewed; it is renewed three times in that time."""

_FAREWELL = 2.0
"""Seconds that giving the lock back may take."""

_HOLDER_LENGTH = 200


class Lease:
    """The lock while the context lasts; `fence` goes with every write."""

    def __init__(self, transport: Transport, location: str, holder: str) -> None:
        self._transport = transport
        self._location = location
        self._holder = display_name(holder)[:_HOLDER_LENGTH]
        self._ended = threading.Event()
        self._renewing = threading.Thread(target=self._renew, name="hdev-lease", daemon=True)
        self.fence: int | None = None

    def __enter__(self) -> Self:
        """Raises LockedError, or BackendError. A key that may only read takes no lock: each of its
        writes will be refused in its own words."""
        answer = self._ask("PUT", body={"holder": self._holder, "ttl": SECONDS})
        if answer.status == 403:
            return self
        if answer.status == 409:
            raise locked(self._location, holder_of(answer))
        fence = answer.body.get("fence")
        if answer.status != 200 or not isinstance(fence, int) or isinstance(fence, bool):
            raise BackendError(
                "The memory server does not give its lock.",
                why=failure("PUT", PATH, answer.cause) + ".",
                hint="Look at the server's log.",
            )
        self.fence = fence
        self._renewing.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._ended.set()
        if self.fence is None:
            return
        try:
            fence = {"Hdev-Fence": str(self.fence)}
            self._transport.request("DELETE", PATH, headers=fence, seconds=_FAREWELL)
        except (RequestFailed, BackendError):
            return  # it ends by itself; what was written is what matters now

    def _renew(self) -> None:
        while not self._ended.wait(SECONDS / 3):
            try:
                self._transport.request(
                    "PUT",
                    PATH,
                    body={"holder": self._holder, "ttl": SECONDS},
                    headers={"Hdev-Fence": str(self.fence)},
                )
            except (RequestFailed, BackendError):
                continue  # the next renewal may get through; if none does, the fence stops us

    def _ask(self, method: str, body: dict[str, object]) -> Answer:
        try:
            return self._transport.request(method, PATH, body=body)
        except RequestFailed as error:
            raise unreachable(self._location, error) from None


def status(transport: Transport, location: str) -> Holder | None:
    """Who holds the lock now. Raises BackendError."""
    try:
        answer = transport.get(PATH)
    except RequestFailed as error:
        raise unreachable(location, error) from None
    if answer.status != 200 or not isinstance(answer.body.get("held"), bool):
        raise BackendError(
            "The memory server does not tell who holds its lock.",
            why=failure("GET", PATH, answer.cause) + ".",
        )
    return holder_of(answer) if answer.body["held"] else None


def force(transport: Transport, location: str) -> bool:
    """Break the lock, and shut out whoever held it; False when nobody did. Raises BackendError."""
    try:
        answer = transport.request("DELETE", f"{PATH}?force=true")
    except RequestFailed as error:
        raise unreachable(location, error) from None
    if answer.status != 200 or not isinstance(answer.body.get("released"), bool):
        raise BackendError(
            "The memory server does not release its lock.",
            why=failure("DELETE", PATH, answer.cause) + ".",
            hint="It takes a key that may write.",
        )
    return bool(answer.body["released"])


def holder_of(answer: Answer) -> Holder:
    """Who holds the lock, from an answer that says so."""
    seconds = answer.body.get("expires_in")
    return Holder(
        name=str(answer.body.get("holder"))[:_HOLDER_LENGTH],
        expires_in=seconds if isinstance(seconds, int) else None,
    )
