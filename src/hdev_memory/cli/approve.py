"""`hdev approve`: sign that a plan may, or must not, be applied."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hdev_memory.cli import options as flags

if TYPE_CHECKING:
    from hdev_memory.cli.eventlines import Lines
    from hdev_memory.cli.gate import Rules
    from hdev_memory.config import Settings
    from hdev_memory.core.approval import Statement
    from hdev_memory.plandir import OpenPlan, Signed

DIGITS = 6
"""Hex digits of the plan id that whoever approves at a terminal types."""


def approve(
    plan: flags.PlanPlace,
    key: flags.SigningKey = None,
    principal: flags.Signer = None,
    reject: Annotated[
        bool, typer.Option("--reject", help="Sign that it must not be applied; give a --comment.")
    ] = False,
    comment: Annotated[
        str, typer.Option("--comment", metavar="TEXT", help="Why; it is signed as well.")
    ] = "",
    expires: Annotated[
        str | None,
        typer.Option(
            "--expires", metavar="SPAN", help="How long it counts: 72h (the default), 7d or never."
        ),
    ] = None,
    yes: flags.Unasked = False,
    expect: flags.Expect = None,
    json: flags.Json = False,
) -> int:
    """Sign that PLAN may be applied, after having shown what it would do.

    The signature is made by ssh-keygen, so that keys of an agent and of a token work, and is put
    into the plan's folder.
    """
    import contextlib

    from hdev_memory import apply as engine
    from hdev_memory import plandir, signing
    from hdev_memory.cli import context, eventlines, gate, policing, steps
    from hdev_memory.core import approval

    with contextlib.ExitStack() as stack:
        lines = stack.enter_context(eventlines.told(json=json))
        opened = stack.enter_context(plandir.load(plan))
        steps.check_expected(opened, expect)
        settings = context.settings()
        by = policing.approval_rules(settings, gate.Asked(), opened)
        who, key_file = signer(settings, principal, key)
        statement = _statement(opened, by, who, reject=reject, comment=comment, expires=expires)
        engine.check_expiry(opened.plan, context.now())
        _refuse_author(opened, by, statement)
        refuse_more(opened)
        show(opened, lines)
        verb = "reject" if reject else "approve"
        interactive = confirm(opened, by, who, verb, yes=yes)
        raw = approval.encode(statement)
        signature = signing.sign(key_file, raw, settings.environ, interactive=interactive)
        signed = plandir.Signed(statement.name, raw, signature)
        fingerprint = verified(settings, by, who, signed)
        journal = stack.enter_context(steps.held(opened))
        steps.record_approval(opened, journal, statement, fingerprint)
        steps.put_approval(opened, signed)
        worth, why = None, "nobody has said who may sign (allowed_signers)"
        left = f"{who} has rejected it" if reject else ""
        if by.root is not None:
            logged = approval.past([*journal.records, *journal.rejections])
            verdict = gate.judged(opened, settings, by, logged)
            (own,) = (one for one in verdict.standings if one.name == signed.name)
            worth, why = own.worth, own.why
            left = "; ".join(verdict.missing)
        lines.emit(
            eventlines.ApproveEnding(
                exit=0,
                plan=str(opened.folder),
                plan_id=opened.plan.plan_id,
                decision=statement.decision,
                name=signed.name,
                principal=who,
                worth=worth,
                why=why,
                head=str(journal.head),
            )
        )
        if not lines.on_stdout:
            done = "Rejected" if reject else "Approved"
            context.say(f"{done} by {who} with {fingerprint}.")
            context.say_foreign(f"Worth: {worth or 'not known'}, {why}.")
            context.say_foreign(
                f"Not approved yet: {left}." if left else f"Next: hdev apply {plan}"
            )
            context.say(f"Audit head {journal.head}")
        return 0


def signer(settings: Settings, principal: str | None, key: Path | None) -> tuple[str, Path]:
    """Who signs, and with which key: given, else configured. Raises UsageError."""
    from hdev_memory.cli import signatures, steps
    from hdev_memory.errors import UsageError

    who = steps.author(settings, principal)
    if who is None:
        raise UsageError(
            "It was not said who signs.",
            hint="Give --principal NAME as in allowed_signers, or set HDEV_MEMORY_PRINCIPAL.",
        )
    return who, signatures.key_file(settings, key)


def _statement(
    opened: OpenPlan,
    by: Rules,
    who: str,
    *,
    reject: bool,
    comment: str,
    expires: str | None,
) -> Statement:
    """What is to be signed. Raises UsageError."""
    import secrets

    from hdev_memory.cli import context, steps
    from hdev_memory.core import approval
    from hdev_memory.errors import UsageError

    if reject and expires is not None:
        raise UsageError("A rejection does not expire.", hint="Leave --expires out.")
    if reject and not comment.strip():
        raise UsageError("A rejection says why.", hint="Give the reason with --comment.")
    try:
        comment.encode()
        too_long = len(comment) > approval.MAX_COMMENT
    except UnicodeEncodeError:
        raise UsageError("The comment is not valid Unicode.") from None
    if too_long:
        raise UsageError(
            "The comment is too long.",
            why=f"It has {len(comment)} characters of at most {approval.MAX_COMMENT}.",
        )
    created = context.now()
    span = None if reject else steps.parse_expiry(expires if expires is not None else "72h")
    about = approval.subject(opened.plan)
    return approval.Statement(
        format=approval.FORMAT,
        decision="reject" if reject else "approve",
        plan=about.plan,
        effect=about.effect,
        target=about.target,
        principal=who,
        role="agent" if approval.among(by.agents, who) else "person",
        comment=comment,
        created=context.instant(created),
        expires=context.instant(created + span) if span is not None else None,
        nonce=secrets.token_hex(16),
    )


def _refuse_author(opened: OpenPlan, by: Rules, statement: Statement) -> None:
    """Raise ApprovalError where the author approves: it would not count. They may reject."""
    from hdev_memory.core import approval
    from hdev_memory.errors import ApprovalError

    author = opened.plan.tail.provenance.author
    if (
        statement.decision == "approve"
        and by.requirement.exclude_author
        and author is not None
        and approval.among([author], statement.principal)
    ):
        raise ApprovalError(
            "Whoever made a plan does not approve it.",
            why=f"It was made by {author}, and an approval by its author does not count.",
            hint="Ask somebody else to review it; with --reject you may withdraw it.",
        )


def refuse_more(opened: OpenPlan) -> None:
    """Raise ApprovalError where one more statement would be one too many to read."""
    from hdev_memory import plandir
    from hdev_memory.core import approval
    from hdev_memory.errors import ApprovalError

    if sum(1 for _ in plandir.read_approvals(opened.folder)) >= approval.MAX_APPROVALS:
        raise ApprovalError(
            "The plan has as many approvals as it can have.",
            why=f"There are {approval.MAX_APPROVALS} files or more.",
            hint=f"hdev approvals {opened.folder} tells which are worth nothing: remove some.",
        )


def show(opened: OpenPlan, lines: Lines) -> None:
    """The head of the review: what would be done where, until when, and what is remarkable."""
    import sys

    from hdev_memory.cli import context, steps
    from hdev_memory.review import document, terminal

    heading = document.head(opened, name=opened.folder.name, audit=steps.audit_head(opened.folder))
    text = terminal.render(
        document.bare(heading), width=context.width(), colour=context.colour(sys.stdout)
    )
    author = opened.plan.tail.provenance.author
    made = f"Made by {author}" if author is not None else "The plan does not say who made it"
    tell = context.note_inert if lines.on_stdout else context.say
    tell(f"{text}{made}.")


def confirm(opened: OpenPlan, by: Rules, who: str, verb: str, *, yes: bool) -> bool:
    """Whether a person at the terminal has confirmed; False where none was to be asked.

    Raises ApprovalError for a principal that may not sign unattended, UsageError where nobody can
    be asked, and HdevError for a wrong answer.
    """
    import sys

    from hdev_memory.core import approval
    from hdev_memory.errors import ApprovalError, HdevError, UsageError

    if yes:
        if not approval.among(by.unattended, who):
            raise ApprovalError(
                "This principal may not sign without a person at a terminal.",
                why=f"{who} is not among the `unattended` of [approvals].",
                hint="Leave --yes out, and answer at a terminal.",
            )
        return False
    if not sys.stdin.isatty():
        raise UsageError(
            "There is no terminal to ask at.",
            why="An approval is confirmed by a person.",
            hint="Run it at a terminal, or with --yes as an `unattended` principal.",
        )
    print(
        f"To {verb} it, type the first {DIGITS} hex digits of the plan id: ",
        end="",
        file=sys.stderr,
        flush=True,
    )
    answer = sys.stdin.readline(100).strip().lower().removeprefix("sha256:")
    if answer != opened.plan.plan_id.removeprefix("sha256:")[:DIGITS]:
        raise HdevError(
            "Those are not the first digits of the plan id; nothing was signed.",
            hint="Look at the plan id above, and run the command again.",
        )
    return True


def verified(settings: Settings, by: Rules, who: str, signed: Signed) -> str:
    """The fingerprint of the key, once its signature has been found to hold here.

    Raises ApprovalError where it does not. Where nobody has said who may sign, it is only held
    against its own statement.
    """
    from hdev_memory import signing
    from hdev_memory.cli import context
    from hdev_memory.errors import ApprovalError

    try:
        root = by.root if by.root is not None else signing.self_signed(signed.signature, who)
        with signing.Verifier(root, settings.environ) as verifier:
            key, _ = verifier.verify(signed.statement, signed.signature, who, context.now())
            return key
    except signing.Unproven as error:
        raise ApprovalError(
            "The signature would not count, so nothing was recorded.",
            why=f"{str(error)[0].upper()}{str(error)[1:]}.",
            hint="Check --key and --principal against the file of allowed signers.",
        ) from None
