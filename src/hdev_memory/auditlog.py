"""A chained log in a file: checked when opened, mended after a power cut, added to durably."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Generic

from hdev_memory import durable
from hdev_memory.backends.base import Closing
from hdev_memory.core import audit
from hdev_memory.core.audit import R
from hdev_memory.errors import StoreError

_MAX_TORN_BYTES = 32 * 1024 * 1024


class AuditLog(Closing, Generic[R]):
    """A log of one kind of records, open for appending.

    torn   the name under which a torn last line was kept aside; empty when there was none
    """

    def __init__(self, path: Path, kind: type[R], *, mode: int = 0o666) -> None:
        """Check the whole chain, then stand ready at its end; `mode` is that of a new file.

        A torn last line (power was lost while it was written) is cut off and kept aside as
        `NAME.torn-N`. Raises AuditError for any earlier damage, and StoreError when the file
        cannot be opened or repaired. A link is not followed.
        """
        self._path = path
        self._kind = kind
        self._broken = False
        self.torn = ""
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            self._descriptor = os.open(path, flags, mode)
        except OSError as error:
            raise self._unusable(error) from None
        try:
            # Its name is to survive as well as its lines. It may be there and not be durable: who
            # made it may have been cut off.
            with durable.opened_folder(path.parent) as above:
                durable.disk.sync(above)
            self.head = self._check()
        except BaseException as error:
            os.close(self._descriptor)
            if isinstance(error, OSError):
                raise self._unusable(error) from None
            raise

    def _unusable(self, error: OSError) -> StoreError:
        return StoreError(
            "The audit log cannot be opened.",
            why=f"{self._path}: {error.strerror}.",
            hint="Make room or give access, then run the command again.",
        )

    def _check(self) -> audit.Headmark:
        head = audit.EMPTY
        with os.fdopen(os.dup(self._descriptor), "rb") as file:
            file.seek(0)
            whole = 0
            for line in iter(lambda: file.readline(audit.MAX_LINE_BYTES + 1), b""):
                if not line.endswith(b"\n"):
                    # Many records go into one write, and what a power cut left of it may be long.
                    torn = line + file.read(_MAX_TORN_BYTES)
                    if b"\n" not in torn and len(torn) < _MAX_TORN_BYTES:
                        self._cut(whole, torn)
                    break
                whole += len(line)
            file.seek(0)
            for record, behind in audit.chained(iter(file.readline, b""), self._kind):
                head = behind
                self._note(record, file.tell())
            self._end = file.tell()
        return head

    def _note(self, record: R, end: int) -> None:
        """Look at each record once, those that are there and those that are appended; the line of
        the record ends at the byte `end` of the file."""

    def _cut(self, whole: int, torn: bytes) -> None:
        number = 1
        while (aside := self._path.with_name(f"{self._path.name}.torn-{number}")).exists():
            number += 1
        durable.write_whole(aside, torn)
        durable.disk.truncate(self._descriptor, whole)
        durable.disk.sync(self._descriptor)
        self.torn = aside.name

    @property
    def broken(self) -> bool:
        """Whether an append has failed, so that nothing more can be recorded by this process."""
        return self._broken

    def append(self, records: Iterable[R]) -> None:
        """Chain the records to the log, in one durable write.

        Raises StoreError when that fails; whether the records are there is not known then, and
        nothing more can be appended.
        """
        records = list(records)
        if not records:
            return
        lines, head = audit.chain(records, self.head)
        if self._broken:
            raise StoreError("The audit log could not be written before; it is not tried again.")
        try:
            durable.append(self._descriptor, b"".join(lines))
        except OSError as error:
            self._broken = True
            raise StoreError(
                "The audit log cannot be written.",
                why=f"{self._path}: {error.strerror}.",
                hint="Make room or give access, then run the command again.",
            ) from None
        except BaseException:  # a signal: part of it may be there
            self._broken = True
            raise
        self.head = head
        for record, line in zip(records, lines, strict=True):
            self._end += len(line)
            self._note(record, self._end)

    def close(self) -> None:
        os.close(self._descriptor)
