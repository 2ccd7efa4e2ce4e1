"""Signatures by `ssh-keygen -Y`: made with a key, an agent or a token, and verified as git does.

The program does the cryptography. What it is asked is kept narrow, because three of its ways lead
astray: `check-novalidate` accepts any key, a `-Overify-time` in the past revives a key that has
expired, and `find-principals` shows the first matching line only. So the trust root is read here
first and in a strict form, whose meaning is the same to both of us; the key is taken from the
signature itself; and one `verify`, for the one principal that the statement names, at the present
time, decides. OpenSSH documents the form of signatures in PROTOCOL.sshsig.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import struct
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from hdev_memory.core.approval import MAX_SIGNATURE_BYTES, is_principal
from hdev_memory.errors import ApprovalError, TrustError

NAMESPACE = "hdev-plan"
"""What a signature is for; one that was made for anything else is none of ours."""

VERIFY_SECONDS = 30
SIGN_SECONDS = 300
"""A passphrase is to be typed or a token to be touched meanwhile."""

_KEY_TYPES = (
    "ssh-ed25519",
    "ssh-rsa",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "sk-ssh-ed25519@openssh.com",
    "sk-ecdsa-sha2-nistp256@openssh.com",
)
_OPTION = re.compile(
    r'(?P<name>namespaces)="[A-Za-z0-9@._,*?!-]+"'
    r'|(?P<time>valid-after|valid-before)="[0-9]{8}(?:[0-9]{4}(?:[0-9]{2})?)?Z?"'
)
_PASSED_ON = (
    "PATH", "HOME", "LANG", "TERM",
    "SSH_AUTH_SOCK", "SSH_ASKPASS", "SSH_ASKPASS_REQUIRE", "SSH_SK_PROVIDER", "SSH_SK_HELPER",
    "DISPLAY", "WAYLAND_DISPLAY", "XDG_RUNTIME_DIR", "XAUTHORITY",
)  # fmt: skip
"""Of the environment only what an agent, a token and a question for a passphrase need."""


class Unproven(ValueError):
    """A signature proves nothing; the text says why in words for people."""


@dataclass(frozen=True)
class Signer:
    """One line of `allowed_signers`: whose key it is, and what restricts it."""

    line: int
    principals: tuple[str, ...]
    options: tuple[str, ...]
    key: bytes
    text: str

    def as_line(self, options: Sequence[str]) -> str:
        """The line with other options."""
        words = (",".join(self.principals), ",".join(options), self.text)
        return " ".join(word for word in words if word)


@dataclass(frozen=True)
class TrustRoot:
    """Who may sign, and a file of keys that are revoked."""

    signers: tuple[Signer, ...]
    revoked: bytes = b""


def parse_signers(raw: bytes, origin: str) -> tuple[Signer, ...]:
    """The lines of an `allowed_signers` file. Raises TrustError with the number of the line.

    A line is `PRINCIPALS [OPTIONS] TYPE KEY [COMMENT]` as in ssh-keygen(1), of which a part is
    taken: principals are plain names, because a pattern would make anybody a signer; no
    certificate authority vouches for others; the options are `namespaces`, `valid-after` and
    `valid-before`.
    """
    try:
        lines = raw.decode("ascii").split("\n")
    except UnicodeDecodeError as error:
        raise _bad(origin, raw.count(b"\n", 0, error.start) + 1, "it is not ASCII") from None
    return tuple(
        _signer(line, number, origin)
        for number, line in enumerate(lines, start=1)
        if line.strip(" ") and not line.startswith("#")
    )


def _signer(line: str, number: int, origin: str) -> Signer:
    if not line.isprintable():
        raise _bad(origin, number, "it holds a control character")
    names, *words = line.split(" ")
    principals = tuple(names.split(","))
    for name in principals:
        if re.search(r"[*?!]", name):
            raise _bad(origin, number, f"{name} is a pattern: it could match anybody")
        if not is_principal(name):
            raise _bad(origin, number, f"{name!r} is no plain name of a principal")
    options = _options(words.pop(0), number, origin) if words and words[0] not in _KEY_TYPES else ()
    if len(words) < 2 or words[0] not in _KEY_TYPES:
        raise _bad(origin, number, "it has no key of a type that can sign")
    key = _base64(words[1])
    if key is None or _strings(key, 1)[:1] != [words[0].encode()]:
        raise _bad(origin, number, "its key cannot be read")
    return Signer(number, principals, options, key, f"{words[0]} {words[1]}")


def _options(word: str, number: int, origin: str) -> tuple[str, ...]:
    found: list[str] = []
    rest = word
    while True:
        match = _OPTION.match(rest)
        if match is None:
            name = re.split('[=,"]', rest)[0]
            if name == "cert-authority":
                why = "certificate authorities are not supported"
            else:
                why = f"{name!r} is no option that is supported, or no option at all"
            raise _bad(origin, number, why)
        found.append(match.group())
        rest = rest[match.end() :]
        if not rest:
            break
        if not rest.startswith(","):
            raise _bad(origin, number, "its options cannot be told apart")
        rest = rest[1:]
    names = [option.partition("=")[0] for option in found]
    if len(set(names)) != len(names):
        raise _bad(origin, number, "it gives an option twice")
    return tuple(found)


def _bad(origin: str, line: int, why: str) -> TrustError:
    return TrustError(
        "The file of allowed signers is not one that plans can be judged by.",
        why=f"{origin}:{line}: {why}.",
        hint="Write PRINCIPAL[,PRINCIPAL] [OPTIONS] TYPE KEY, one line for each key.",
    )


def _base64(text: str) -> bytes | None:
    """The bytes of canonical base64, or None."""
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    return raw if base64.b64encode(raw).decode() == text else None


def _strings(raw: bytes, most: int | None = None) -> list[bytes]:
    """The SSH strings at the beginning of some bytes: all of them, or `most`.

    The list is shorter, or empty, where there are none; nothing is read beyond the end.
    """
    found: list[bytes] = []
    while raw and (most is None or len(found) < most):
        if len(raw) < 4 or len(raw) - 4 < (size := struct.unpack(">I", raw[:4])[0]):
            return []
        found.append(raw[4 : 4 + size])
        raw = raw[4 + size :]
    return found


def self_signed(signature: bytes, principal: str) -> TrustRoot:
    """A trust root of the one key that a signature was made with: by it only the fit of signature
    and statement can be told. Raises Unproven."""
    key = signing_key(signature)
    (kind,) = _strings(key, 1) or (b"",)
    text = f"{kind.decode(errors='replace')} {base64.b64encode(key).decode()}"
    return TrustRoot((Signer(1, (principal,), (), key, text),))


_BEGIN, _END = "-----BEGIN SSH SIGNATURE-----\n", "-----END SSH SIGNATURE-----\n"
_WIDTH = 70
_PREAMBLE = b"SSHSIG" + struct.pack(">I", 1)


def signing_key(signature: bytes) -> bytes:
    """The public key that a signature says it was made with. Raises Unproven.

    Only the one spelling that ssh-keygen writes is taken, made for our namespace.
    """
    if len(signature) > MAX_SIGNATURE_BYTES:
        raise Unproven("its signature is too long")
    text = signature.decode("ascii", errors="replace")
    if not text.startswith(_BEGIN) or not text.endswith(_END):
        raise Unproven("its signature is no SSH signature")
    blob = _base64(text[len(_BEGIN) : -len(_END)].replace("\n", ""))
    if blob is None or _armoured(blob) != text or not blob.startswith(_PREAMBLE):
        raise Unproven("its signature is damaged")
    parts = _strings(blob[len(_PREAMBLE) :])
    if len(parts) != 5:
        raise Unproven("its signature is damaged")
    key, namespace, reserved, algorithm, _ = parts
    if namespace != NAMESPACE.encode():
        raise Unproven("its signature was made for another purpose than plans (its namespace)")
    if reserved or algorithm not in (b"sha512", b"sha256"):
        raise Unproven("its signature is of a kind that is not supported")
    return key


def _armoured(blob: bytes) -> str:
    text = base64.b64encode(blob).decode()
    lines = (text[start : start + _WIDTH] + "\n" for start in range(0, len(text), _WIDTH))
    return _BEGIN + "".join(lines) + _END


def fingerprint(key: bytes) -> str:
    """A public key's name, as `ssh-keygen -l` prints it."""
    digest = base64.b64encode(hashlib.sha256(key).digest()).decode().rstrip("=")
    return f"SHA256:{digest}"


class Verifier:
    """Verifies statements by one trust root, of which it keeps a private copy while it is open.

    The copy is why a change of the files during a run changes nothing.
    """

    def __init__(self, root: TrustRoot, environ: Mapping[str, str]) -> None:
        self._root = root
        self._environ = {"PATH": environ.get("PATH", ""), "TZ": "UTC", "LC_ALL": "C"}

    def __enter__(self) -> Self:
        try:
            self._folder = tempfile.TemporaryDirectory(prefix="hdev-trust-")
            self._place = Path(self._folder.name)
            (self._place / "revoked").write_bytes(self._root.revoked)
        except OSError as error:
            raise _no_room(error) from None
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._folder.cleanup()

    def verify(
        self, statement: bytes, signature: bytes, principal: str, now: datetime
    ) -> tuple[str, tuple[str, ...]]:
        """The fingerprint of the key that signed `statement` as `principal`, and all principals
        that the key belongs to. Raises Unproven, and ApprovalError where that cannot be found out.

        `now` is the present time, in UTC; keys that are not valid then sign nothing.
        """
        key = signing_key(signature)
        own = [signer for signer in self._root.signers if signer.key == key]
        lines = [signer for signer in own if principal in signer.principals]
        if not lines:
            raise Unproven(_stranger(fingerprint(key), principal, own))
        try:
            (self._place / "signature").write_bytes(signature)
        except OSError as error:
            raise _no_room(error) from None
        check = _Check(self._place, self._environ, principal, statement, fingerprint(key), now)
        if check.holds(lines, revocation=True):
            return fingerprint(key), _owners(own)
        raise Unproven(_reason(check, lines, fingerprint(key)))


def _stranger(key: str, principal: str, own: Sequence[Signer]) -> str:
    if not own:
        return f"its key {key} is not among the allowed signers"
    return f"its key {key} belongs to {', '.join(_owners(own))}, not to {principal}"


def _owners(own: Sequence[Signer]) -> tuple[str, ...]:
    return tuple(sorted({name for signer in own for name in signer.principals}))


def _reason(check: _Check, lines: Sequence[Signer], key: str) -> str:
    """Why a signature does not hold: which restriction, left out, would let it.

    This only finds words; nothing that it finds makes anything hold.
    """
    if check.holds(lines, revocation=False):
        return f"its key {key} is revoked, or the file of revoked keys cannot be read"
    if check.holds(lines, revocation=False, without=("valid-after", "valid-before")):
        return f"its key {key} is not valid now (valid-after, valid-before)"
    everything = ("valid-after", "valid-before", "namespaces")
    if check.holds(lines, revocation=False, without=everything):
        return f"its key {key} may not sign plans (namespaces)"
    return "its signature does not fit it: one of the two was changed"


@dataclass(frozen=True)
class _Check:
    """One question to ssh-keygen, and its narrower forms."""

    place: Path
    environ: Mapping[str, str]
    principal: str
    statement: bytes
    key: str
    now: datetime

    def holds(
        self, lines: Sequence[Signer], *, revocation: bool, without: Sequence[str] = ()
    ) -> bool:
        """Whether `ssh-keygen -Y verify` says yes, and names the key that we know of."""
        listed = (
            line.as_line([o for o in line.options if o.partition("=")[0] not in without])
            for line in lines
        )
        try:
            (self.place / "signers").write_text("".join(f"{line}\n" for line in listed))
        except OSError as error:
            raise _no_room(error) from None
        words = [
            "ssh-keygen", "-Y", "verify", "-n", NAMESPACE,
            "-f", str(self.place / "signers"),
            "-I", self.principal,
            "-s", str(self.place / "signature"),
            f"-Overify-time={self.now.astimezone(UTC):%Y%m%d%H%M%S}",
        ]  # fmt: skip
        if revocation:
            words += ["-r", str(self.place / "revoked")]
        done = _run(words, self.statement, self.environ, VERIFY_SECONDS)
        return done.returncode == 0 and done.stdout.endswith(f" key {self.key}\n".encode())


def _no_room(error: OSError) -> ApprovalError:
    return ApprovalError(
        "Temporary files, which ssh-keygen reads from, cannot be written.",
        why=f"{error.filename or tempfile.tempdir}: {error.strerror}.",
        hint="Make room there, or set TMPDIR to where you may write.",
    )


def sign(key: Path, statement: bytes, environ: Mapping[str, str], *, interactive: bool) -> bytes:
    """A signature of `statement` by a private key, or by the agent that holds a public one.

    An `interactive` one may ask for a passphrase on the terminal and to touch a token. Raises
    ApprovalError when there is none.
    """
    passed = {name: environ[name] for name in _PASSED_ON if name in environ}
    try:
        with tempfile.TemporaryDirectory(prefix="hdev-sign-") as folder:
            message = Path(folder) / "statement"
            message.write_bytes(statement)
            words = ["ssh-keygen", "-Y", "sign", "-n", NAMESPACE, "-f", str(key), str(message)]
            # A passphrase is asked for on the terminal only where stdin is one.
            done = _run(words, None, passed, SIGN_SECONDS, interactive=interactive)
            signature = Path(folder) / "statement.sig"
            if done.returncode == 0 and signature.is_file():
                return signature.read_bytes()
    except OSError as error:
        raise _no_room(error) from None
    said = " ".join((done.stderr or b"").decode(errors="replace").split())[:300]
    raise ApprovalError(
        "The statement was not signed.",
        why=f"ssh-keygen ended with status {done.returncode}. {said}".strip(),
        hint="Check --key: a private key, or a public one whose private key an agent has.",
    )


def _run(
    words: Sequence[str],
    stdin: bytes | None,
    environ: Mapping[str, str],
    seconds: float,
    *,
    interactive: bool = False,
) -> subprocess.CompletedProcess[bytes]:
    """Run ssh-keygen to its end. Raises ApprovalError when it is missing or does not end."""
    try:
        return subprocess.run(
            words,
            input=stdin,
            stdin=None if interactive or stdin is not None else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=None if interactive else subprocess.PIPE,
            env=dict(environ),
            timeout=seconds,
            check=False,
            # Ctrl-C is for us: a verification that it ended would look like one that failed.
            start_new_session=not interactive,
        )
    except subprocess.TimeoutExpired:
        why = f"It did not end within {seconds:.0f} seconds."
    except OSError as error:
        why = f"It cannot be run: {error.strerror}."
    raise ApprovalError(
        "ssh-keygen, which signs and verifies approvals, has failed.",
        why=why,
        hint="Install OpenSSH 8.9 or later; approvals need its ssh-keygen.",
    )
