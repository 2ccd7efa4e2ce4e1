"""The preconditions of a request, as RFC 9110 (section 13) has them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from hdev_memory.core.entry import Entry, Metadata, tag_of

ANY: Literal["*"] = "*"

_TAG = re.compile(r'(W/)?"[\x21\x23-\x7e\x80-\xff]*"')
_GAP = re.compile(r"[ \t]*(,[ \t]*|$)")


class Malformed(ValueError):
    """The header is no condition; the text says which one."""


class PreconditionFailed(Exception):
    """If-Match or If-None-Match did not hold; `etag` is what stands there, None for nothing."""

    def __init__(self, etag: str | None) -> None:
        super().__init__("precondition failed")
        self.etag = etag


def etag(entry: Entry) -> str:
    """A strong ETag over everything that a GET of the entry returns."""
    return etag_of(entry.content, entry.metadata)


def etag_of(content: bytes, metadata: Metadata) -> str:
    """The ETag of an entry with this content and metadata."""
    return f'"{tag_of(content, metadata)}"'


@dataclass(frozen=True)
class Conditions:
    """What must hold for a request to be carried out.

    Each is None where the header is missing, `*`, or the entity tags of its list.
    """

    if_match: Literal["*"] | tuple[str, ...] | None = None
    if_none_match: Literal["*"] | tuple[str, ...] | None = None

    @property
    def any(self) -> bool:
        return self.if_match is not None or self.if_none_match is not None

    def check(self, current: str | None) -> None:
        """Raises PreconditionFailed unless the entry with the ETag `current` (None: no entry) may
        be written."""
        if not self.matched(current) or self.not_modified(current):
            raise PreconditionFailed(current)

    def matched(self, current: str | None) -> bool:
        """Whether If-Match holds. Tags are compared strongly: a weak one never matches."""
        if self.if_match is None:
            return True
        return current is not None and (self.if_match == ANY or current in self.if_match)

    def not_modified(self, current: str | None) -> bool:
        """Whether If-None-Match does not hold. Tags are compared weakly, as it is defined."""
        if self.if_none_match is None or current is None:
            return False
        tags = self.if_none_match
        return tags == ANY or current in (tag.removeprefix("W/") for tag in tags)


NONE = Conditions()


def parse(if_match: Sequence[str], if_none_match: Sequence[str]) -> Conditions:
    """The conditions in the values of these headers, one value for each line. Raises Malformed."""
    return Conditions(_condition("If-Match", if_match), _condition("If-None-Match", if_none_match))


def _condition(name: str, lines: Sequence[str]) -> Literal["*"] | tuple[str, ...] | None:
    if not lines:
        return None
    text = ", ".join(lines).strip(" \t")
    if text == ANY:
        return ANY
    tags = []
    at = 0
    while at < len(text):
        # A list may have empty elements (RFC 9110, section 5.6.1.2).
        if (tag := _TAG.match(text, at)) is not None:
            tags.append(tag.group())
            at = tag.end()
        gap = _GAP.match(text, at)
        if gap is None or gap.end() == at:
            if at < len(text):
                raise Malformed(f"{name} is neither * nor a list of entity tags")
            break
        at = gap.end()
    if not tags:
        raise Malformed(f"{name} is empty")
    return tuple(tags)
