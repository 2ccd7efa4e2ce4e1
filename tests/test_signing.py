"""Signatures by the real ssh-keygen, and the ways in which it could lead us astray."""

import base64
import os
import re
import struct
import subprocess
from datetime import UTC, datetime, timedelta

import pytest

from hdev_memory import signing
from hdev_memory.errors import ApprovalError, TrustError
from tests.keys import NOW, Agent

MESSAGE = b'{"a":"statement"}\n'
ENVIRON = {"PATH": os.environ["PATH"]}


def root(*lines, revoked=b""):
    text = "".join(f"{line}\n" for line in lines)
    return signing.TrustRoot(signing.parse_signers(text.encode(), "signers"), revoked)


def verified(trusted, signature, principal="ann@x", *, message=MESSAGE, now=NOW):
    with signing.Verifier(trusted, ENVIRON) as verifier:
        key, owners = verifier.verify(message, signature, principal, now)
    assert principal in owners
    return key


def ssh_keygen(*words, stdin=MESSAGE):
    return subprocess.run(
        ["ssh-keygen", *map(str, words)],
        input=stdin,
        capture_output=True,
        env={**ENVIRON, "TZ": "UTC"},
        check=False,
        timeout=50,
    )


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa", "rsa"])
def test_a_signature_of_an_allowed_signer_holds(keys, kind):
    keys.private(kind, kind=kind)
    signature = keys.sign(kind, MESSAGE)
    listed = ssh_keygen("-l", "-f", keys.private(kind)).stdout.decode()

    assert verified(root(f"ann@x {keys.public(kind)}"), signature) == listed.split()[1]


def test_trap_check_novalidate_accepts_any_key_and_is_no_way_in(keys, tmp_path):
    signature = keys.sign("stranger", MESSAGE)
    (tmp_path / "sig").write_bytes(signature)
    trap = ssh_keygen("-Y", "check-novalidate", "-n", signing.NAMESPACE, "-s", tmp_path / "sig")
    assert trap.returncode == 0, "the trap is not there"

    with pytest.raises(signing.Unproven, match="is not among the allowed signers"):
        verified(root(f"ann@x {keys.public('ann')}"), signature)


def test_trap_a_time_in_the_past_revives_an_expired_key_and_is_never_given(keys, tmp_path):
    """The statement's own time is not asked: its signer wrote it."""
    signature = keys.sign("ann", MESSAGE)
    line = f'ann@x valid-before="20260101" {keys.public("ann")}'
    (tmp_path / "sig").write_bytes(signature)
    (tmp_path / "signers").write_text(line + "\n")
    words = ("-Y", "verify", "-n", signing.NAMESPACE, "-f", tmp_path / "signers", "-I", "ann@x",
             "-s", tmp_path / "sig")  # fmt: skip
    assert ssh_keygen(*words, "-Overify-time=20250101").returncode == 0, "the trap is not there"

    with pytest.raises(signing.Unproven, match="is not valid now"):
        verified(root(line), signature)
    assert verified(root(line), signature, now=datetime(2025, 6, 1, tzinfo=UTC))


def test_trap_find_principals_shows_the_first_line_only_and_is_not_asked(keys, tmp_path):
    """The key is ann's on the first line and bob's on the second; both may sign as themselves."""
    signature = keys.sign("ann", MESSAGE)
    lines = (f"ann@x {keys.public('ann')}", f"bob@x {keys.public('ann')}")
    (tmp_path / "sig").write_bytes(signature)
    (tmp_path / "signers").write_text("\n".join(lines) + "\n")
    words = ("-Y", "find-principals", "-f", tmp_path / "signers", "-s", tmp_path / "sig")
    assert ssh_keygen(*words).stdout == b"ann@x\n", "the trap is not there"

    assert verified(root(*lines), signature, "ann@x") == verified(root(*lines), signature, "bob@x")


def test_a_line_that_has_expired_does_not_hide_one_that_has_not(keys):
    signature = keys.sign("ann", MESSAGE)
    lines = (
        f'ann@x valid-before="20260101" {keys.public("ann")}',
        f"ann@x {keys.public('ann')}",
    )

    assert verified(root(*lines), signature)
    assert verified(root(*reversed(lines)), signature)


REFUSED = [
    ("a key that nobody listed", "bob@x {bob}", {}, "is not among the allowed signers"),
    ("a key of somebody else", "bob@x {ann}", {}, "belongs to bob@x, not to ann@x"),
    ("the principal in capitals", "Ann@x {ann}", {}, "belongs to Ann@x, not to ann@x"),
    ("another namespace", "ann@x {ann}", {"namespace": "git"}, "made for another purpose"),
    ("another statement", "ann@x {ann}", {"message": b"another\n"}, "does not fit it"),
    ("a longer statement", "ann@x {ann}", {"message": MESSAGE + b"\n"}, "does not fit it"),
    ("a key that has expired", 'ann@x valid-before="20260601115959" {ann}', {}, "not valid now"),
    ("a key that has expired, in UTC", 'ann@x valid-before="20260601115959Z" {ann}', {},
     "not valid now"),
    ("a key that is not valid yet", 'ann@x valid-after="20260601120001" {ann}', {},
     "not valid now"),
    ("a key for other things", 'ann@x namespaces="git,file" {ann}', {}, "may not sign plans"),
    ("a key that is expired and for other things",
     'ann@x namespaces="git",valid-before="20200101" {ann}', {}, "may not sign plans"),
    ("a revoked key", "ann@x {ann}", {"revoked": "ann"}, "is revoked"),
    ("an unreadable list of revoked keys", "ann@x {ann}", {"revoked": None},
     "is revoked, or the file of revoked keys cannot be read"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("line", "given", "why"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED]
)
def test_a_signature_that_proves_nothing_says_why(keys, line, given, why):
    listed = line.format(ann=keys.public("ann"), bob=keys.public("bob"))
    revoked = b""
    if "revoked" in given:
        revoked = (keys.public(given["revoked"]) if given["revoked"] else "garbage").encode()
    signature = keys.sign("ann", MESSAGE, given.get("namespace", signing.NAMESPACE))

    with pytest.raises(signing.Unproven, match=re.escape(why)):
        verified(root(listed, revoked=revoked), signature, message=given.get("message", MESSAGE))


@pytest.mark.parametrize(
    "options",
    [
        'namespaces="hdev-plan"', 'namespaces="git,hdev-*"', 'valid-before="20260601120001"',
        'valid-after="20260601",valid-before="20260602Z",namespaces="hdev-plan"',
    ],
)  # fmt: skip
def test_restrictions_that_are_kept_let_a_signature_hold(keys, options):
    assert verified(root(f"ann@x {options} {keys.public('ann')}"), keys.sign("ann", MESSAGE))


def test_the_times_of_a_key_mean_utc_wherever_we_are(keys, monkeypatch):
    monkeypatch.setenv("TZ", "America/New_York")
    line = f'ann@x valid-before="20260601120000" {keys.public("ann")}'
    signature = keys.sign("ann", MESSAGE)

    assert verified(root(line), signature, now=NOW - timedelta(seconds=1))
    with pytest.raises(signing.Unproven):
        verified(root(line), signature, now=NOW + timedelta(seconds=1))


def test_a_list_of_other_revoked_keys_revokes_nothing(keys):
    trusted = root(f"ann@x {keys.public('ann')}", revoked=keys.public("bob").encode())

    assert verified(trusted, keys.sign("ann", MESSAGE))


def test_a_binary_list_of_revoked_keys_is_read(keys, tmp_path):
    keys.private("ann")
    made = ssh_keygen("-k", "-f", tmp_path / "krl", keys.private("ann").with_name("ann.pub"))
    assert made.returncode == 0
    trusted = root(f"ann@x {keys.public('ann')}", revoked=(tmp_path / "krl").read_bytes())

    with pytest.raises(signing.Unproven, match="is revoked"):
        verified(trusted, keys.sign("ann", MESSAGE))


def test_a_flip_of_any_byte_of_a_signature_is_refused(keys):
    trusted = root(f"ann@x {keys.public('ann')}")
    signature = keys.sign("ann", MESSAGE)
    with signing.Verifier(trusted, ENVIRON) as verifier:
        for offset in range(len(signature)):
            flipped = bytearray(signature)
            # Another letter of base64 where that can be: what is no base64 is easily refused.
            flipped[offset : offset + 1] = b"B" if flipped[offset] == ord("A") else b"A"
            with pytest.raises(signing.Unproven):
                verifier.verify(MESSAGE, bytes(flipped), "ann@x", NOW)


def armoured(blob):
    text = base64.b64encode(blob).decode()
    lines = "\n".join(text[at : at + 70] for at in range(0, len(text), 70))
    return f"-----BEGIN SSH SIGNATURE-----\n{lines}\n-----END SSH SIGNATURE-----\n".encode()


def blob_of(signature):
    return base64.b64decode(b"".join(signature.splitlines()[1:-1]))


def strings(*parts):
    return b"".join(struct.pack(">I", len(part)) + part for part in parts)


def test_what_is_no_signature_is_refused_before_any_program_sees_it(keys):
    good = keys.sign("ann", MESSAGE)
    blob = blob_of(good)
    assert armoured(blob) == good
    key = signing.signing_key(good)
    for bad in (
        b"", b"x", good[:-1], good + b"\n", b"\n" + good, good.replace(b"\n", b"\r\n"),
        good.replace(b"SSH SIG", b"PGP SIG"), b"x" * 20_000, good + good,
        armoured(blob + b"\0"), armoured(blob[:-1]), armoured(b"SSHSIG"), armoured(b""),
        armoured(blob.replace(b"SSHSIG\0\0\0\1", b"SSHSIG\0\0\0\2")),
        armoured(b"SSHSIG\0\0\0\1" + strings(key, b"hdev-plan", b"more", b"sha512", b"s")),
        armoured(b"SSHSIG\0\0\0\1" + strings(key, b"hdev-plan", b"", b"md5", b"s")),
        armoured(b"SSHSIG\0\0\0\1" + strings(key, b"hdev-plan", b"", b"sha512")),
        armoured(b"SSHSIG\0\0\0\1" + strings(key, b"hdev-plan\0", b"", b"sha512", b"s")),
        armoured(b"SSHSIG\0\0\0\1" + b"\xff\xff\xff\xff"),
    ):  # fmt: skip
        with pytest.raises(signing.Unproven):
            signing.signing_key(bad)


BAD_LINES = [
    ("*@x {key}", "a pattern"),
    ("* {key}", "a pattern"),
    ("ann@x,b?b@x {key}", "a pattern"),
    ("ann@x,!bob@x {key}", "a pattern"),
    ('"ann x" {key}', "no plain name"),
    ("ann@x,,bob@x {key}", "no plain name"),
    ("ann/../x {key}", "no plain name"),
    (" ann@x {key}", "no plain name"),
    ("ann@x", "no key"),
    ("ann@x ssh-ed25519", "no key"),
    ("ann@x  {key}", "no option"),
    ("ann@x cert-authority {key}", "certificate authorities are not supported"),
    ('ann@x namespaces="hdev-plan",cert-authority {key}', "certificate authorities"),
    ("ann@x no-touch {key}", "no option"),
    ('ann@x NAMESPACES="git" {key}', "no option"),
    ('ann@x namespaces="git {key}', "no option"),
    ('ann@x valid-before="tomorrow" {key}', "no option"),
    ('ann@x namespaces="a"namespaces="b" {key}', "cannot be told apart"),
    ('ann@x namespaces="a",namespaces="b" {key}', "an option twice"),
    ("ann@x ssh-dss AAAAB3NzaC1kc3M=", "no option"),
    ("ann@x ssh-ed25519-cert-v01@openssh.com AAAA", "no option"),
    ("ann@x ssh-ed25519 AAAA", "cannot be read"),
    ("ann@x ssh-ed25519 !!!!", "cannot be read"),
    ("ann@x ssh-rsa {blob}", "cannot be read"),
    ("ann@x\t{key}", "control character"),
    ("ann@x {key}\r", "control character"),
    ("ann@x {key} \x1b[2J", "control character"),
    ("änn@x {key}", "not ASCII"),
]


@pytest.mark.parametrize(("line", "why"), BAD_LINES)
def test_a_line_of_allowed_signers_that_could_mean_more_than_it_says_is_refused(keys, line, why):
    key = keys.public("ann")
    bad = line.format(key=key, blob=key.split()[1])
    text = f"# who may sign\n\nbob@x {key}\n{bad}\n"

    with pytest.raises(TrustError, match=f"signers:4: .*{why}"):
        signing.parse_signers(text.encode(), "signers")


def test_comments_empty_lines_and_the_comment_of_a_key_mean_nothing(keys):
    key = keys.public("ann")
    text = f"# ann\n\n   \nann@x,ann@y {key} ann's key of 2026\n"
    (signer,) = signing.parse_signers(text.encode(), "signers")

    assert (signer.line, signer.principals) == (4, ("ann@x", "ann@y"))


def test_a_signature_is_made_with_a_key_on_disk(keys):
    signature = signing.sign(keys.private("ann"), MESSAGE, ENVIRON, interactive=False)

    assert verified(root(f"ann@x {keys.public('ann')}"), signature)


def test_a_signature_is_made_by_an_agent_with_the_key_that_a_passphrase_guards(keys, tmp_path):
    """The agent was given the key; here there is only its public half, and no passphrase."""
    private = keys.private("guarded", passphrase="open sesame")
    askpass = tmp_path / "askpass"
    askpass.write_text("#!/bin/sh\necho open sesame\n")
    askpass.chmod(0o700)
    with pytest.raises(ApprovalError, match="not signed"):
        signing.sign(private, MESSAGE, ENVIRON, interactive=False)
    with Agent(tmp_path) as environ:
        subprocess.run(
            ["ssh-add", "-q", str(private)],
            env={**environ, "SSH_ASKPASS": str(askpass), "SSH_ASKPASS_REQUIRE": "force"},
            stdin=subprocess.DEVNULL,
            check=True,
            timeout=50,
        )
        public = tmp_path / "only.pub"
        public.write_text(keys.public("guarded") + "\n")
        signature = signing.sign(public, MESSAGE, environ, interactive=False)

    assert verified(root(f"ann@x {keys.public('guarded')}"), signature)


def test_a_passphrase_is_asked_for_by_the_program_that_the_user_has_for_that(keys, tmp_path):
    private = keys.private("guarded", passphrase="open sesame")
    askpass = tmp_path / "askpass"
    askpass.write_text("#!/bin/sh\necho open sesame\n")
    askpass.chmod(0o700)
    environ = {**ENVIRON, "SSH_ASKPASS": str(askpass), "SSH_ASKPASS_REQUIRE": "force"}
    signature = signing.sign(private, MESSAGE, environ, interactive=False)

    assert verified(root(f"ann@x {keys.public('guarded')}"), signature)


def test_what_cannot_sign_says_so_with_the_reason(keys, tmp_path):
    (tmp_path / "no-key").write_text("this is no key\n")

    with pytest.raises(ApprovalError, match="ssh-keygen ended with status") as caught:
        signing.sign(tmp_path / "no-key", MESSAGE, ENVIRON, interactive=False)
    assert caught.value.exit_code == 6


@pytest.mark.parametrize("script", [None, "exec sleep 60", "exit 0", "echo Good; exit 0"])
def test_a_program_that_is_missing_mute_or_lying_makes_nothing_hold(
    keys, tmp_path, monkeypatch, script
):
    signature = keys.sign("ann", MESSAGE)
    trusted = root(f"ann@x {keys.public('ann')}")
    if script is not None:
        (tmp_path / "ssh-keygen").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "ssh-keygen").chmod(0o700)
    # Looked up by us, so that it is our PATH that counts; the script gets the real one.
    monkeypatch.setattr(signing, "VERIFY_SECONDS", 0.2)
    monkeypatch.setattr(signing, "SIGN_SECONDS", 0.2)
    environ = {"PATH": f"{tmp_path}{':/usr/bin:/bin' if script else ''}"}

    with (
        pytest.raises((ApprovalError, signing.Unproven)),
        signing.Verifier(trusted, environ) as verifier,
    ):
        verifier.verify(MESSAGE, signature, "ann@x", NOW)
    with pytest.raises(ApprovalError):
        signing.sign(keys.private("ann"), MESSAGE, environ, interactive=False)
