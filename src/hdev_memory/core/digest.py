"""Canonical bytes and their SHA-256 names.

Canonical JSON is RFC 8785 (JCS). Its number domain is the IEEE double, so an integer beyond
2**53 - 1 has no canonical form; such metadata is refused instead of being hashed in a private way.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
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

    Values with ASCII keys and no unusual floats take msgspec's sorted encoder, which gives the same
    bytes about twenty times faster (a property test holds the two together).

    Raises NotCanonical for NaN, infinities, integers beyond 2**53 - 1, lone surrogates, and
    nesting deeper than MAX_DEPTH.
    """
    if type(value) is Plain:
        return canonical_plain(value)
    return _canonical(value)


def _canonical(value: Any) -> bytes:
    try:
        if _is_plain(value, MAX_DEPTH):
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
    if isinstance(value, int):
        return -_SAFE_INTEGER <= value <= _SAFE_INTEGER
    if isinstance(value, float):  # within these both write the shortest digits, with a point
        return 1e-4 <= abs(value) < 1e15 and not value.is_integer()
    if not isinstance(value, dict | list):
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
    """Metadata as `decode_plain` gives it, of which `canonical_plain` tells the canonical form.

    Something may be taken out of it, and nothing put in: what it holds is not looked at again.
    """

    __slots__ = ()


_Safe = Annotated[int, msgspec.Meta(ge=-_SAFE_INTEGER, le=_SAFE_INTEGER)]
_Float = Annotated[float, msgspec.Meta(gt=-1e15, lt=1e15)]
_Leaf = str | bool | _Safe | _Float | None
_Inner = _Leaf | list[_Leaf] | dict[str, _Leaf | list[_Leaf]]
_Plain = dict[str, _Leaf | list[_Inner] | dict[str, _Inner]]
_plain = msgspec.json.Decoder[_Plain](_Plain)


def decode_bytes(raw: bytes) -> dict[str, Any]:
    """What `decode_object` reads from this UTF-8, told fast where it can be.

    Raises NotCanonical with the reason in words, and UnicodeDecodeError.
    """
    found = decode_plain(raw)
    return found if found is not None else decode_object(raw.decode())


def decode_plain(raw: bytes) -> Plain | None:
    """`decode_all_plain` of one."""
    found = decode_all_plain((raw,))
    return Plain(found[0]) if found is not None else None


def decode_all_plain(raws: Sequence[bytes]) -> list[dict[str, Any]] | None:
    """What `decode_object` reads from each of these, where that is told fast of all; else None.

    It is told of objects of texts and usual numbers, some levels deep, which most metadata is.
    msgspec reads them as the strict decoder does, but for a key that is there twice: of that one
    only the last is kept, so there are fewer quotes in what was read than in the bytes.
    """
    together = b"".join(raws)
    if b"\\u0022" in together:  # the one way to write a quote without one
        return None
    try:
        found = [_plain.decode(raw) for raw in raws]
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    encoded = _fast.encode(found)
    if together.count(b'"') != encoded.count(b'"'):
        return None
    # Keys are sorted by UTF-16 in the canonical form, which is the order of code points but for
    # those beyond the first 2**16.
    if not encoded.isascii() and _astral(encoded.decode()) and not all(map(_ascii_keys, found)):
        return None
    return found


def _astral(text: str) -> bool:
    return len(text.encode("utf-16-le")) != 2 * len(text)


def _ascii_keys(found: dict[str, Any] | list[Any]) -> bool:
    if isinstance(found, dict) and not "".join(found).isascii():
        return False
    inner = found.values() if isinstance(found, dict) else found
    return all(_ascii_keys(item) for item in inner if isinstance(item, dict | list))


def canonical_plain(plain: dict[str, Any]) -> bytes:
    """`canonical_all_plain` of one."""
    line = _fast.encode(plain)
    if (b"." in line or b"e-" in line) and _FLOAT.search(line):
        return _canonical(plain)
    return line


def canonical_all_plain(plain: Sequence[dict[str, Any]]) -> list[bytes]:
    """The RFC 8785 bytes of each of what `decode_all_plain` gave, or of a part of it."""
    together = _fast.encode_lines(plain)
    lines = together.split(b"\n")[:-1]
    # A float that is written in another way there has a point here, or a negative exponent.
    for mark in (b".", b"e-"):
        number = end = 0
        while (found := together.find(mark, end)) >= 0:
            number += together.count(b"\n", end, found)
            if _FLOAT.search(lines[number]):
                lines[number] = _canonical(plain[number])
            end = together.index(b"\n", found)
    return lines


_FLOAT = re.compile(rb"[:,[]-?[0-9]+[.e]")
"""Where a float begins, and what looks like one in some texts."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise NotCanonical("names a key twice")
    return members


def _no_constant(_name: str) -> NoReturn:
    raise NotCanonical("holds NaN or an infinite number")


_strict = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant)
