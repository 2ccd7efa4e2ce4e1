"""Every limit of the server, in one place."""

from __future__ import annotations

from dataclasses import dataclass

KIB = 1024
MIB = 1024 * KIB


@dataclass(frozen=True)
class Limits:
    """What the server takes and gives at most. Sizes are bytes, times are seconds.

    entry_bytes      content, and metadata, of one entry
    batch_entries    changes or keys in one request of many
    batch_least      bytes of such a request, or of its answer, unless one entry needs more
    waiting_bytes    bodies of all clients together that are kept while they come in and wait
    connections      open at once, of each process; the requests of more are answered with 503
    spare            so many more are heard; those beyond are cut off at once
    head_seconds     from the connect, or from the first byte after an answer, to a whole head
    idle_seconds     of silence between an answer and the next request
    linger_seconds   for a client to take the next 64 KiB of an answer, or what is left of it
    ready_seconds    for the storage to say that it is there, before it counts as gone
    body_seconds     for the whole body of a request, and one more for each 64 KiB of it
    """

    entry_bytes: int = MIB
    batch_entries: int = 2048
    batch_least: int = 16 * MIB
    waiting_bytes: int = 256 * MIB
    connections: int = 1000
    spare: int = 100
    head_seconds: float = 15.0
    idle_seconds: int = 5
    linger_seconds: float = 60.0
    ready_seconds: float = 2.0
    body_seconds: float = 30.0

    @property
    def body_bytes(self) -> int:
        """The body of one entry: an escaped character takes six bytes at most, so this is past any
        that is allowed."""
        return 6 * self.entry_bytes * 2 + 64 * KIB

    @property
    def batch_bytes(self) -> int:
        """The body of a request of many entries, or of its answer."""
        return max(self.batch_least, self.body_bytes)

    def body_time(self, length: int) -> float:
        """Seconds for a body of so many bytes."""
        return self.body_seconds * (1 + length / (30 * 64 * KIB))


DEFAULT = Limits()
