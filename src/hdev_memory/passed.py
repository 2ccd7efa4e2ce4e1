"""The keys that a snapshot has passed, to be gone through again without reading the store again."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator

import msgspec

from hdev_memory.backends.base import Closing
from hdev_memory.core.diff import Seen
from hdev_memory.core.stretch import Stretch

_MEMORY_BYTES = 4 * 1024 * 1024
_BLOCK_BYTES = 256 * 1024

_encode = msgspec.json.Encoder().encode
_lines = msgspec.json.Decoder[list[tuple[str, msgspec.Raw]]](list[tuple[str, msgspec.Raw]])


class Passed(Closing):
    """Keeps keys in a file without a name, so that memory stays flat; a few stay in memory."""

    def __init__(self) -> None:
        self._file = tempfile.SpooledTemporaryFile(  # noqa: SIM115 - `close` ends it
            _MEMORY_BYTES
        )

    def close(self) -> None:
        self._file.close()

    def add(self, item: Seen) -> None:
        """Keep the keys of an item of the snapshot. Raises OSError where there is no room."""
        line = item.lines if isinstance(item, Stretch) else _encode([item.key, None]) + b"\n"
        self._file.write(line)

    def __iter__(self) -> Iterator[str]:
        """The keys, in their order; one iteration at a time, and none beside `add`."""
        self._file.seek(0)
        while block := self._file.read(_BLOCK_BYTES):
            block += self._file.readline()
            for key, _ in _lines.decode(b"[" + block[:-1].replace(b"\n", b",") + b"]"):
                yield key
