"""`hdev approvals`: what lies among a plan's approvals, and what each is worth."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hdev_memory.cli import options as flags

if TYPE_CHECKING:
    from hdev_memory.cli.eventlines import ApprovalsEnding
    from hdev_memory.cli.gate import Rules
    from hdev_memory.plandir import OpenPlan


def approvals(
    plan: flags.PlanPlace,
    allowed_signers: flags.AllowedSigners = None,
    require_approvals: flags.RequireApprovals = None,
    trust_ref: flags.TrustRef = None,
    trust_digest: flags.TrustDigest = None,
    json: flags.Json = False,
) -> int:
    """List the approvals of PLAN, what each is worth and why; exit 6 where apply would refuse."""
    import contextlib

    from hdev_memory import plandir
    from hdev_memory.cli import context, eventlines, gate, policing
    from hdev_memory.core import approval

    with contextlib.ExitStack() as stack:
        lines = stack.enter_context(eventlines.told(json=json))
        opened = stack.enter_context(plandir.load(plan))
        settings = context.settings()
        asked = gate.Asked(allowed_signers, require_approvals, trust_ref, None, trust_digest)
        by = policing.approval_rules(settings, asked, opened)
        logged = approval.past(record for record, _ in plandir.read_audit(opened.folder))
        verdict = gate.judged(opened, settings, by, logged)
        for one in verdict.standings:
            lines.emit(eventlines.Approval(**gate.shape(one)))
            if not lines.on_stdout:
                context.say_foreign(gate.said(one))
        ending = eventlines.ApprovalsEnding(
            exit=0 if verdict.allowed else 6,
            plan_id=opened.plan.plan_id,
            required=by.requirement.count,
            counted=len(verdict.counted),
            allowed=verdict.allowed,
            missing=verdict.missing,
        )
        lines.emit(ending)
        if not lines.on_stdout:
            _tell(opened, by, ending)
        return ending.exit


def _tell(opened: OpenPlan, by: Rules, ending: ApprovalsEnding) -> None:
    """What the approvals come to, and by which rules."""
    from hdev_memory.cli.context import say, say_foreign

    author = opened.plan.tail.provenance.author
    if author is None:
        say("The plan does not say who made it, so nobody is excluded as its author.")
    else:
        may = "does not count" if by.requirement.exclude_author else "counts"
        say(f"It was made by {author}, whose own approval {may}.")
    if by.root is None:
        say("Nobody has said here who may sign (allowed_signers): no approval can count.")
    if not by.requirement.asked:
        say("No approvals are required here.")
    if ending.allowed:
        say(f"Approved: {ending.counted} count.")
    else:
        say_foreign(f"Not approved: {'; '.join(ending.missing)}.")
