"""Hold a plan's audit log against what vouches for its end: a head, a receipt, a signature.

A log that is intact in itself may still have been cut, or written anew from its beginning. What
shows that is a head that was noted where the log's writers cannot change it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from hdev_memory import plandir, signing
from hdev_memory.core import audit
from hdev_memory.core.entry import Value
from hdev_memory.errors import AuditError


class Claim(Value, frozen=True):
    """A head that the log must lead to; `vouches` where it comes from outside of the folder.

    `source` says in words where it comes from, as the subject of a sentence.
    """

    head: audit.Headmark
    source: str
    vouches: bool


class Checked(Value, frozen=True):
    """An intact log that leads to every head that was claimed.

    `anchors` are the claims that come from outside of its folder.
    """

    records: int
    head: audit.Headmark
    anchors: tuple[Claim, ...]

    @property
    def anchored(self) -> int:
        """The last record that something from outside vouches for, 0 where nothing does."""
        return max((claim.head.seq for claim in self.anchors), default=0)


def check(opened: plandir.OpenPlan, claims: Sequence[Claim]) -> Checked:
    """Read the whole log, with flat memory. Raises AuditError for the first thing that is wrong."""
    wanted = {claim.head.seq: audit.EMPTY for claim in claims}
    last = audit.EMPTY
    for _, last in plandir.read_audit(opened.folder, opened.plan.plan_id):
        if last.seq in wanted:
            wanted[last.seq] = last
    for claim in claims:
        if claim.head.seq > last.seq:
            raise AuditError(
                "The end of the audit log was cut off.",
                why=(
                    f"It ends with record {last.seq}, and {claim.source} was noted at record "
                    f"{claim.head.seq}."
                ),
                hint="Look for a copy that is longer; what was cut off happened all the same.",
            )
        if wanted[claim.head.seq] != claim.head:
            raise AuditError(
                "The audit log does not lead to the head that was noted.",
                why=(
                    f"Its record {claim.head.seq} is not that of {claim.source}: it was rewritten, "
                    "or the head belongs to another log."
                ),
                hint="Compare it with another copy.",
            )
    return Checked(
        records=last.seq, head=last, anchors=tuple(claim for claim in claims if claim.vouches)
    )


def claim_of(
    opened: plandir.OpenPlan, found: plandir.ReceiptFile, source: str, *, vouches: bool
) -> Claim:
    """What a receipt claims of a plan's log. Raises AuditError where it is of another plan."""
    receipt = found.receipt
    if receipt.plan != opened.plan.plan_id or receipt.effect != opened.plan.tail.effect:
        raise AuditError(
            "The receipt belongs to another plan.",
            why=f"{found.path} is about {receipt.plan}.",
            hint="Give the receipt of this plan.",
        )
    return Claim(head=receipt.head, source=source, vouches=vouches)


class Signer(Value, frozen=True):
    """Who has signed a receipt, and the fingerprint of the key."""

    principal: str
    key: str


def signer_of(
    found: plandir.ReceiptFile,
    root: signing.TrustRoot,
    environ: Mapping[str, str],
    now: datetime,
) -> Signer:
    """Who signed a receipt.

    Raises AuditError where the receipt or the signature was changed, and Unproven, with the reason,
    where there is no signature or none that counts here.
    """
    if found.signature is None:
        raise signing.Unproven("it is not signed")
    try:
        with signing.Verifier(root, environ, signing.RECEIPTS) as verifier:
            principal, key = verifier.signer(found.raw, found.signature, now)
    except signing.Unfit as error:
        raise AuditError(
            "The receipt does not fit its signature.",
            why=f"{found.path}: {error}.",
            hint="Compare both with another copy; neither proves anything as it is.",
        ) from None
    return Signer(principal=principal, key=key)
