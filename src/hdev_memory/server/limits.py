"""Every limit of the server, in one place."""

from __future__ import annotations

from dataclasses import dataclass

KIB = 1024
MIB = 1024 * KIB


@dataclass(frozen=True)
class Limits:
    """What the server takes and gives at most; `docs/formats.md` says what happens beyond.

    Names that end with `bytes` and `seconds` have these units, all others are counts.

    entry_bytes         content, and metadata, of one entry
    batch_entries       changes or keys in one request of many
    batch_least_bytes   such a request, or its answer, unless the largest entry needs more
    waiting_least_bytes bodies of all clients together, while they come in and wait; where four
                        requests of many entries need more, it is that
    head_bytes          the head of a request
    lock_bytes          the body of a request for the lock
    lock_holder         characters of a holder's name
    lock_least_seconds  the shortest lease
    lock_most_seconds   the longest one
    page_records        records in a page of the log of writes
    page_bytes          such a page ends with the record that reaches this
    connections         open at once, of each process; the requests of more are answered with 503
    spare               so many more are heard; those beyond are cut off at once
    head_seconds        from the connect, or from the first byte after an answer, to a whole head
    idle_seconds        of silence between an answer and the next request
    body_seconds        for the whole body of a request, and one more for each 64 KiB of it
    linger_seconds      for a client to take the next 64 KiB of an answer, or what is left of it
    ready_seconds       for the storage to say that it is there, before it counts as gone
    wrong_keys          from one address at once
    wrong_key_seconds   after so many one more may come
    addresses           that are remembered; the one that was quiet longest is forgotten first
    proven_keys         good keys that are remembered of one address
    """

    entry_bytes: int = MIB
    batch_entries: int = 2048
    batch_least_bytes: int = 16 * MIB
    waiting_least_bytes: int = 256 * MIB
    head_bytes: int = 16 * KIB
    lock_bytes: int = 4 * KIB
    lock_holder: int = 200
    lock_least_seconds: int = 5
    lock_most_seconds: int = 300
    page_records: int = 1000
    page_bytes: int = MIB
    connections: int = 1000
    spare: int = 100
    head_seconds: float = 15.0
    idle_seconds: int = 5
    body_seconds: float = 30.0
    linger_seconds: float = 60.0
    ready_seconds: float = 2.0
    wrong_keys: int = 10
    wrong_key_seconds: float = 6.0
    addresses: int = 4096
    proven_keys: int = 64

    @property
    def body_bytes(self) -> int:
        """The body of one entry: an escaped character takes six bytes at most, so this is past any
        that is allowed."""
        return 6 * self.entry_bytes * 2 + 64 * KIB

    @property
    def batch_bytes(self) -> int:
        """The body of a request of many entries, or of its answer."""
        return max(self.batch_least_bytes, self.body_bytes)

    @property
    def waiting_bytes(self) -> int:
        """The bodies of all clients together."""
        return max(self.waiting_least_bytes, 4 * self.batch_bytes)

    def body_time(self, length: int) -> float:
        """Seconds for a body of so many bytes."""
        return self.body_seconds * (1 + length / (30 * 64 * KIB))


DEFAULT = Limits()
