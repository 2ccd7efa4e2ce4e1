"""`hdev audit verify` and `hdev audit sign`: check a plan's log, and sign its receipt."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hdev_memory.cli import options as flags

if TYPE_CHECKING:
    from hdev_memory.auditing import Claim, Signer
    from hdev_memory.plandir import OpenPlan, ReceiptFile
    from hdev_memory.signing import TrustRoot


def audit_verify(
    plan: flags.PlanPlace,
    head: Annotated[
        str | None,
        typer.Option("--head", metavar="SEQ:DIGEST", help="The end of the log, noted elsewhere."),
    ] = None,
    receipt: Annotated[
        Path | None, typer.Option("--receipt", metavar="FILE", help="A receipt kept elsewhere.")
    ] = None,
    allowed_signers: Annotated[
        Path | None,
        typer.Option(
            "--allowed-signers",
            metavar="FILE",
            help="Demand that the receipt is signed by one of these keys.",
        ),
    ] = None,
    revoked: Annotated[
        Path | None,
        typer.Option(
            "--revoked",
            metavar="FILE",
            help="Keys that count no more; else those of [approvals] in hdev.toml.",
        ),
    ] = None,
    json: flags.Json = False,
    json_into: flags.JsonInto = None,
) -> int:
    """Check the audit log: 0 intact and anchored, 10 intact but not anchored, 8 tampered with.

    A head or a receipt that is kept where the log's writers cannot change it is an anchor, and so
    is the signature of the receipt (FILE.sig beside it). Nothing is written.
    """
    import contextlib

    from hdev_memory import auditing, plandir
    from hdev_memory.cli import context, eventlines
    from hdev_memory.errors import UnanchoredError, UsageError

    if revoked is not None and allowed_signers is None:
        raise UsageError(
            "--revoked says nothing without --allowed-signers.", hint="Give both, or drop it."
        )
    with contextlib.ExitStack() as stack:
        lines = stack.enter_context(eventlines.told(json=json, into=json_into))
        claims = [_noted(head)] if head is not None else []
        opened = stack.enter_context(plandir.load(plan))
        beside = opened.folder / plandir.RECEIPT
        found = None
        if receipt is not None:
            found = plandir.read_receipt(receipt)
            claims.append(
                auditing.claim_of(opened, found, "the receipt that was given", vouches=True)
            )
        if beside.exists() or beside.is_symlink():
            own = plandir.read_receipt(beside)
            claims.append(
                auditing.claim_of(opened, own, "the receipt in its folder", vouches=False)
            )
            found = found or own
        signer, lacking = None, ""
        if allowed_signers is not None:
            signer, lacking = _signer(found, _trust_root(allowed_signers, revoked))
            if signer is not None:
                assert found is not None
                source = f"the signature of {signer.principal} with {signer.key}"
                claims.append(auditing.claim_of(opened, found, source, vouches=True))
        checked = auditing.check(opened, claims)
        refusal = None
        if lacking or not checked.anchors:
            if checked.anchors:
                what = "The audit log is intact, but not all that was asked for vouches for it."
            else:
                what = (
                    "The audit log is intact, but nothing outside of its folder vouches for its "
                    "end."
                )
            refusal = UnanchoredError(
                what,
                why=lacking,
                hint="Give --head or --receipt from a place that its writers cannot change.",
            )
        lines.emit(
            eventlines.AuditEnding(
                exit=refusal.exit_code if refusal is not None else 0,
                plan_id=opened.plan.plan_id,
                records=checked.records,
                head=str(checked.head),
                anchored=refusal is None,
                anchored_to=checked.anchored,
                signed_by=f"{signer.principal} {signer.key}" if signer is not None else None,
            )
        )
        if not lines.on_stdout:
            context.say(f"Audit log intact: {checked.records} records, head {checked.head}.")
            for claim in checked.anchors:
                context.say_foreign(f"Anchored up to record {claim.head.seq} by {claim.source}.")
        behind = checked.records - checked.anchored
        if checked.anchors and behind:
            context.note(f"Note: nothing vouches for the {behind} records behind that.")
        if refusal is not None:
            raise refusal
        return 0


def _noted(head: str) -> Claim:
    """Raises UsageError where this is no head."""
    from hdev_memory import auditing
    from hdev_memory.core import audit
    from hdev_memory.errors import UsageError

    mark = audit.headmark(head)
    if mark is None:
        raise UsageError(
            "This is not the head of an audit log.",
            why=f"--head was {head[:200]!r}.",
            hint="Give SEQ:sha256:DIGEST, as `hdev apply` prints it behind `Audit head`.",
        )
    return auditing.Claim(head=mark, source="the head that was given", vouches=True)


def _trust_root(allowed_signers: Path, revoked: Path | None) -> TrustRoot:
    """Whose signatures count. Raises HdevError where a file cannot be read."""
    from hdev_memory import signing, trust
    from hdev_memory.cli import context
    from hdev_memory.errors import HdevError, TrustError

    settings = context.settings()
    files = trust.Checkout()
    signers = settings.cwd / allowed_signers
    if revoked is not None:
        revoked = settings.cwd / revoked
    elif settings.approvals is not None and settings.approvals.revoked is not None:
        revoked = settings.approvals.folder / settings.approvals.revoked
    try:
        return signing.TrustRoot(
            signers=signing.parse_signers(trust.needed(files, signers), files.name(signers)),
            revoked=trust.needed(files, revoked) if revoked is not None else b"",
        )
    except TrustError as error:  # its exit status speaks of approvals
        raise HdevError(error.what, why=error.why, hint=error.hint) from None


def _signer(found: ReceiptFile | None, root: TrustRoot) -> tuple[Signer | None, str]:
    """Who has signed the receipt, or else why nobody has whose signature counts.

    Raises AuditError where the receipt or its signature was changed.
    """
    from hdev_memory import auditing, signing
    from hdev_memory.cli import context
    from hdev_memory.errors import ApprovalError, HdevError

    if found is None:
        return None, "There is no receipt: no run of the plan has ended."
    try:
        return auditing.signer_of(found, root, context.settings().environ, context.now()), ""
    except signing.Unproven as error:
        return None, f"The receipt does not vouch: {error}."
    except ApprovalError as error:  # there is no ssh-keygen; that says nothing of the log
        raise HdevError(error.what, why=error.why, hint=error.hint) from None


def audit_sign(
    plan: flags.PlanPlace,
    key: flags.SigningKey = None,
    json: flags.Json = False,
    json_into: flags.JsonInto = None,
) -> int:
    """Sign the receipt of a plan's last run, and so the head of its log, where the log fits it.

    The signature is made by ssh-keygen and put into receipt.json.sig. `apply --sign-receipt` does
    the same at the end of a run.
    """
    from hdev_memory import plandir, signing
    from hdev_memory.cli import context, eventlines, signatures

    with eventlines.told(json=json, into=json_into) as lines:
        settings = context.settings()
        key_file = signatures.key_file(settings, key)
        with plandir.load(plan) as opened:
            found = intact_receipt(opened)
            path = opened.folder / plandir.RECEIPT
            used = signatures.sign_beside(path, found.raw, key_file, signing.RECEIPTS, settings)
            lines.emit(
                eventlines.AuditSignEnding(
                    exit=0,
                    plan_id=opened.plan.plan_id,
                    head=str(found.receipt.head),
                    signed_with=used,
                )
            )
        if not lines.on_stdout:
            signatures.tell(opened.folder, used, aloud=True)
            context.say(f"Audit head {found.receipt.head}")
    return 0


def intact_receipt(opened: OpenPlan) -> ReceiptFile:
    """The receipt in a plan's folder, once the log was found to be intact and to lead to it.

    Raises AuditError, and HdevError where there is none.
    """
    from hdev_memory import auditing, plandir
    from hdev_memory.errors import HdevError

    path = opened.folder / plandir.RECEIPT
    if not path.exists():
        raise HdevError(
            "The plan has no receipt.",
            why="No run of it has ended.",
            hint=f"hdev apply {opened.folder} writes one.",
        )
    found = plandir.read_receipt(path)
    claim = auditing.claim_of(opened, found, "the receipt in its folder", vouches=False)
    auditing.check(opened, [claim])
    return found
