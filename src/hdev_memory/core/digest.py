"""Canonical bytes and their SHA-256 names.

Canonical JSON is RFC 8785 (JCS). Its number domain is the IEEE double, so an integer beyond
2**53 - 1 has no canonical form; such metadata is refused instead of being hashed in a private way.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from typing import Annotated, Any, NoReturn

import msgspec
import rfc8785

Digest = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{64}\Z")]
"""A SHA-256 as 64 lower-case hex digits, as `sha256sum` prints it."""

DIGEST_PREFIX = "sha256:"
NamedDigest = Annotated[str, msgspec.Meta(pattern=r"\Asha256:[0-9a-f]{64}\Z")]
"""A digest with its algorithm, as plan ids are: see `named`."""

MAX_DEPTH = 64
"""Levels of nesting that metadata may have; keeps every recursive reader far from its limit."""

_SAFE_INTEGER = 2**53 - 1
_fast = msgspec.json.Encoder(order="sorted")


class NotCanonical(ValueError):
    """The value has no canonical form; the text says why in words for people."""


def sha256(data: bytes) -> str:
    """The SHA-256 of `data` as 64 hex digits."""
    return hashlib.sha256(data).hexdigest()


def named(digest: str) -> str:
    """The digest as people see and type it: `sha256:` and the hex digits."""
    return DIGEST_PREFIX + digest


def canonical_json(value: Any) -> bytes:
    """The RFC 8785 bytes of a JSON value.

    Values with ASCII keys and usual numbers take msgspec's sorted encoder, which gives the same
    bytes about twenty times faster (a property test holds the two together).

    Raises NotCanonical for NaN, infinities, integers beyond 2**53 - 1, lone surrogates, and
    nesting deeper than MAX_DEPTH.
    """
    try:
        if type(value) is Plain or _is_plain(value, MAX_DEPTH):
            return _fast.encode(value)
        return rfc8785.dumps(value)
    except rfc8785.IntegerDomainError:
        raise NotCanonical("holds an integer beyond 2**53 - 1") from None
    except rfc8785.FloatDomainError:
        raise NotCanonical("holds NaN or an infinite number") from None
    except (UnicodeEncodeError, rfc8785.CanonicalizationError):
        raise NotCanonical("holds text that is not valid Unicode") from None


_SCALARS = frozenset({str, bool, type(None)})


def _is_plain(value: Any, depth: int) -> bool:
    """Whether msgspec spells a value as RFC 8785 does. Raises NotCanonical for one too deep."""
    kind = type(value)
    if kind in _SCALARS:
        return True
    if kind is int:
        return bool(-_SAFE_INTEGER <= value <= _SAFE_INTEGER)
    if kind is float:
        # Where no exponent is due and none is left out, the shortest digits are the same for all.
        return bool(1e-3 <= abs(value) < 1e15 and not value.is_integer())
    if kind is not dict and not isinstance(value, dict | list):
        return isinstance(value, str)
    if depth == 0:
        raise NotCanonical(f"is nested deeper than {MAX_DEPTH} levels")
    plain = True
    items: Iterable[Any] = value
    if isinstance(value, dict):
        plain = "".join(value).isascii()
        items = value.values()
    # Asked of all at once: a call for each costs more than all else here.
    if _SCALARS.issuperset(map(type, items)):
        return plain
    for item in items:
        # No early exit: depth is checked in every branch before anything recursive runs.
        if type(item) is not str and not _is_plain(item, depth - 1):
            plain = False
    return plain


def decode_object(text: str) -> dict[str, Any]:
    """Read one JSON object strictly: no duplicate keys, no NaN, nothing but an object.

    Raises NotCanonical with the reason in words.
    """
    value = decode_value(text)
    if not isinstance(value, dict):
        raise NotCanonical("is not a JSON object")
    return value


def decode_value(text: str) -> Any:
    """Read any JSON value as strictly. Raises NotCanonical with the reason in words."""
    try:
        return _strict.decode(text)
    except NotCanonical:
        raise
    except RecursionError:
        raise NotCanonical(f"is nested deeper than {MAX_DEPTH} levels") from None
    except ValueError:
        raise NotCanonical("is not valid JSON") from None


class Plain(dict[str, Any]):
    """Metadata that msgspec spells as RFC 8785 does, as `decode_plain` gives it.

    Something may be taken out of it, and nothing put in: what it holds is not looked at again.
    """

    __slots__ = ()


_Safe = Annotated[int, msgspec.Meta(ge=-_SAFE_INTEGER, le=_SAFE_INTEGER)]
_Flat = dict[str, str | bool | _Safe | float | list[str] | None]
_Nested = dict[str, str | bool | _Safe | float | list[str] | _Flat | None]
_nested = msgspec.json.Decoder[_Nested](_Nested)
_COLON = re.compile(rb"\\u003[aA]")


def decode_plain(raw: bytes) -> dict[str, Any] | None:
    """What `decode_object` reads from these bytes, as a Plain, where that is told fast; else None.

    It is told of objects of texts, usual numbers, lists of texts, and objects of the like, which
    most metadata is. msgspec reads them as the strict decoder does, but for a key that is there
    twice: as each key is followed by one colon, there is none where there are as many colons in
    what was read.
    """
    try:
        found = Plain(_nested.decode(raw))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    kinds = set(map(type, found.values()))
    names = len(found)
    if dict in kinds:
        for value in found.values():
            if type(value) is dict:
                kinds.update(map(type, value.values()))
                names += len(value)
    colons = raw.count(b":")
    # Its repr has a colon behind each key, and those in texts.
    if colons != names and colons != repr(found).count(":"):
        return None
    if raw.isascii() and b"\\" not in raw and float not in kinds:
        return found
    # An escape could be a colon, a key beyond ASCII, or a number not a usual one.
    return found if not _COLON.search(raw) and _is_plain(found, MAX_DEPTH) else None


def canonical_plain(plain: dict[str, Any]) -> bytes:
    """The RFC 8785 bytes of what `decode_plain` gave, or of a part of it."""
    return _fast.encode(plain)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise NotCanonical("names a key twice")
    return members


def _no_constant(_name: str) -> NoReturn:
    raise NotCanonical("holds NaN or an infinite number")


_strict = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant)
