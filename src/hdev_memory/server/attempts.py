"""A limit on wrong API keys, for each address that they come from."""

from __future__ import annotations

import ipaddress
import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from hdev_memory.server.limits import DEFAULT, Limits


@dataclass
class _Address:
    left: float
    since: float
    proven: OrderedDict[str, None] = field(default_factory=OrderedDict)


class Attempts:
    """A bucket of wrong keys for each address; `clock` gives seconds and never runs backwards.

    When the bucket of an address is empty, no key from there is compared any more but those that
    were good there before: whoever guesses learns nothing, and whoever shares the address with them
    (behind one router, or one proxy) goes on working.
    """

    def __init__(self, clock: Callable[[], float], limits: Limits = DEFAULT) -> None:
        self._clock = clock
        self._limits = limits
        self._addresses: OrderedDict[str, _Address] = OrderedDict()

    def wait(self, address: str) -> int:
        """Seconds until the next key from this address is looked at; 0 for now."""
        found = self._addresses.get(block_of(address))
        if found is None:
            return 0
        self._refill(found)
        return math.ceil((1 - found.left) * self._limits.wrong_key_seconds) if found.left < 1 else 0

    def failed(self, address: str) -> bool:
        """A wrong key came from there; whether it was the last one for now."""
        found = self._address(address)
        self._refill(found)
        found.left = max(0.0, found.left - 1)
        return found.left < 1

    def succeeded(self, address: str, name: str) -> None:
        """The key of this name came from there, and was good."""
        found = self._address(address)
        found.proven[name] = None
        found.proven.move_to_end(name)
        if len(found.proven) > self._limits.proven_keys:
            found.proven.popitem(last=False)

    def proven(self, address: str, name: str) -> bool:
        """Whether the key of this name was good before, from there."""
        found = self._addresses.get(block_of(address))
        return found is not None and name in found.proven

    def _address(self, address: str) -> _Address:
        block = block_of(address)
        found = self._addresses.get(block)
        if found is None:
            found = _Address(left=float(self._limits.wrong_keys), since=self._clock())
            self._addresses[block] = found
        self._addresses.move_to_end(block)
        if len(self._addresses) > self._limits.addresses:
            self._addresses.popitem(last=False)
        return found

    def _refill(self, found: _Address) -> None:
        now = self._clock()
        more = (now - found.since) / self._limits.wrong_key_seconds
        found.left = min(float(self._limits.wrong_keys), found.left + more)
        found.since = now


def block_of(address: str) -> str:
    """What one client has of addresses: one of IPv4, and of IPv6 a network of 64 bits."""
    if ":" not in address:
        return address
    try:
        return str(ipaddress.IPv6Network((address.partition("%")[0], 64), strict=False))
    except ValueError:
        return address
