"""`hdev policy`: what a policy finds in a plan, what the rules are, and the lifting of findings."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from hdev_memory.cli import options as flags

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hdev_memory.cli.gate import Rules
    from hdev_memory.cli.policing import Judged
    from hdev_memory.core.override import Override
    from hdev_memory.core.rules import Rule
    from hdev_memory.plandir import OpenPlan

FORMAT = "hdev-findings/1"


def policy_check(
    plan: flags.PlanPlace,
    policy: flags.Policy = None,
    trust_ref: flags.TrustRef = None,
    trust_digest: flags.TrustDigest = None,
    allowed_signers: flags.AllowedSigners = None,
    form: Annotated[
        Literal["terminal", "json", "sarif"],
        typer.Option("--format", metavar="FORM", help="terminal, json or sarif."),
    ] = "terminal",
    out: flags.Out = None,
    source_path: flags.SourcePath = None,
    source_url: flags.SourceUrl = None,
    api_key: flags.ApiKey = None,
    source_api_key: flags.SourceApiKey = None,
    insecure_http: flags.InsecureHttp = False,
) -> int:
    """Tell what the policies find in PLAN; exit 5 where apply would refuse it for them.

    The plan is judged by the policy that it was made under, by the project's, and by the one that
    is given. The source is opened only where rules look into entries.
    """
    import contextlib

    from hdev_memory import __version__, plandir
    from hdev_memory import apply as engine
    from hdev_memory.backends import open_backend
    from hdev_memory.cli import context, gate, outfile, policing, steps
    from hdev_memory.config import EndFlags, resolve
    from hdev_memory.review import sarif

    with contextlib.ExitStack() as stack:
        opened = stack.enter_context(plandir.load(plan))
        shared, own = steps.from_argv(api_key, source_api_key)
        settings = context.settings()
        asked = gate.Asked(allowed_signers, None, trust_ref, policy, trust_digest)
        files = gate.files_of(settings, asked)
        planned = opened.plan.head.options.policy
        lies = policing.claimed(opened, settings)
        by = policing.standards(settings, asked, files, planned, lies)
        source = None
        if by.reads:
            given = EndFlags(path=source_path, url=source_url, api_key=own)
            end, _ = steps.ends_of(settings, opened, given, EndFlags(path="."))
            resolved = resolve(
                settings, end, end, shared_api_key=shared, insecure_http=insecure_http
            )
            source = stack.enter_context(open_backend(resolved.source.where, must_exist=True))
            engine.check_end("source", opened.plan.head.source, source)
        found = policing.judged(opened, by, settings, asked, files, (source, None))
        match form:
            case "terminal":
                text = _lines(opened, found)
            case "json":
                text = _json(opened, found, [policy.digest for policy in by.policies])
            case "sarif":
                text = sarif.render(
                    opened.plan.plan_id,
                    _place(opened),
                    __version__,
                    found.findings,
                    found.lifted,
                )
        if out is not None:
            outfile.write(out, [text], what="The result")
        else:
            context.say(text.removesuffix("\n"))
        return 5 if found.refusing else 0


def _place(opened: OpenPlan) -> str:
    """The plan's file, as a path in the repository where it was named by one."""
    from hdev_memory import plandir

    folder = Path(opened.folder.name) if opened.folder.is_absolute() else opened.folder
    return (folder / plandir.PLAN).as_posix()


def _lines(opened: OpenPlan, found: Judged) -> str:
    from hdev_memory.cli import policing
    from hdev_memory.review.inert import inert

    lines = [inert(policing.said(one, found.lifted)) for one in found.findings]
    lines += [
        inert(f"override {one.name} lifts nothing: {one.why}") for one in found.liftings if one.why
    ]
    if found.refusing:
        lines.append(f"Refused: {policing.refusal(opened, found).why}")
    else:
        lines.append(f"Allowed: {len(found.findings)} findings, none of which refuses the plan.")
    return "\n".join(lines) + "\n"


def _json(opened: OpenPlan, found: Judged, policies: list[str]) -> str:
    import json

    import msgspec

    from hdev_memory.core.digest import named

    document = {
        "format": FORMAT,
        "plan_id": opened.plan.plan_id,
        "policies": [named(digest) for digest in policies],
        "allowed": not found.refusing,
        "findings": [
            {
                "rule": one.rule,
                "level": one.level,
                "key": one.key,
                "line": one.line,
                "text": one.text,
                "digest": one.digest,
                "lifted": one.level == "soft" and one.digest in found.lifted,
            }
            for one in found.findings
        ],
        "overrides": msgspec.to_builtins(found.liftings),
    }
    return json.dumps(document, indent=2) + "\n"


def policy_explain(
    rule: Annotated[
        str | None, typer.Argument(metavar="RULE", help="One rule; all of them without it.")
    ] = None,
) -> int:
    """Tell what each rule of a policy finds, what it takes, and how it is written."""
    from hdev_memory.cli import context
    from hdev_memory.core.rules import RULES
    from hdev_memory.errors import UsageError

    if rule is not None and rule not in RULES:
        raise UsageError(
            "There is no such rule.",
            why=f"{rule!r} is none of {', '.join(RULES)}.",
            hint="hdev policy explain tells all of them.",
        )
    told = [_explained(name, kind) for name, kind in RULES.items() if rule in (None, name)]
    context.say("\n\n".join(told))
    return 0


def _explained(name: str, kind: type[Rule]) -> str:
    import textwrap

    import msgspec

    parameters = []
    for field in msgspec.structs.fields(kind):
        if field.default is not msgspec.NODEFAULT:
            default = list(field.default) if isinstance(field.default, tuple) else field.default
            parameters.append(f"  {field.name:14} {_toml(default)} unless given")
        elif field.default_factory is not msgspec.NODEFAULT:
            parameters.append(f"  {field.name:14} none unless given")
        else:
            parameters.append(f"  {field.name:14} must be given")
    return "\n".join(
        [
            name,
            *textwrap.wrap(kind.about, 88, initial_indent="  ", subsequent_indent="  "),
            *parameters,
            "  For example:",
            f"    [rules.{name}]",
            *(f"    {line}" for line in kind.example.splitlines()),
        ]
    )


def _toml(value: object) -> str:
    import json

    return "none" if value is None else json.dumps(value)


def policy_override(
    plan: flags.PlanPlace,
    findings: Annotated[
        list[str],
        typer.Option(
            "--finding",
            metavar="DIGEST",
            help="What to lift, as policy check names it; repeatable.",
        ),
    ],
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; it is signed.")],
    key: flags.SigningKey = None,
    principal: flags.Signer = None,
    expires: Annotated[
        str, typer.Option("--expires", metavar="SPAN", help="How long it counts: 72h, 7d.")
    ] = "72h",
    yes: flags.Unasked = False,
    expect: flags.Expect = None,
    json: flags.Json = False,
) -> int:
    """Sign that soft findings of PLAN shall not stop it. Hard ones are never lifted.

    Whoever has made the plan, and agents, lift nothing. The statement lies among the plan's
    approvals, counts for this plan only, and always expires.
    """
    import contextlib

    from hdev_memory import apply as engine
    from hdev_memory import plandir, signing
    from hdev_memory.cli import approve, context, eventlines, gate, policing, steps
    from hdev_memory.core import override

    with contextlib.ExitStack() as stack:
        lines = stack.enter_context(eventlines.told(json=json))
        opened = stack.enter_context(plandir.load(plan))
        steps.check_expected(opened, expect)
        settings = context.settings()
        asked = gate.Asked()
        files = gate.files_of(settings, asked)
        planned = opened.plan.head.options.policy
        lies = policing.claimed(opened, settings)
        by = policing.standards(settings, asked, files, planned, lies)
        rules = gate.rules(settings, asked, by.policies, files)
        who, key_file = approve.signer(settings, principal, key)
        statement = _statement(opened, who, findings, reason, expires)
        engine.check_expiry(opened.plan, context.now())
        _refuse_worthless(opened, rules, who)
        approve.refuse_more(opened)
        approve.show(opened, lines)
        for line in _lifted(opened, statement):
            context.note(line)
        interactive = approve.confirm(opened, rules, who, "lift them for", yes=yes)
        raw = override.encode(statement)
        signature = signing.sign(key_file, raw, settings.environ, interactive=interactive)
        signed = plandir.Signed(statement.name, raw, signature)
        fingerprint = approve.verified(settings, rules, who, signed)
        journal = stack.enter_context(steps.held(opened))
        steps.record_override(opened, journal, statement, fingerprint)
        steps.put_approval(opened, signed)
        lines.emit(
            eventlines.OverrideEnding(
                exit=0,
                plan=str(opened.folder),
                plan_id=opened.plan.plan_id,
                name=signed.name,
                principal=who,
                findings=statement.findings,
                head=str(journal.head),
            )
        )
        if not lines.on_stdout:
            context.say(f"Lifted by {who} with {fingerprint} until {statement.expires}.")
            context.say(f"Audit head {journal.head}")
        return 0


def _statement(
    opened: OpenPlan, who: str, findings: list[str], reason: str, expires: str
) -> Override:
    """What is to be signed. Raises UsageError."""
    import re
    import secrets

    from hdev_memory.cli import context, steps
    from hdev_memory.core import override
    from hdev_memory.errors import UsageError

    digests = sorted({text.removeprefix("sha256:") for text in findings})
    for digest in digests:
        if re.fullmatch(r"[0-9a-f]{64}", digest) is None:
            raise UsageError(
                "This is not the name of a finding.",
                why=f"--finding was {digest!r}.",
                hint="Copy the whole digest from `hdev policy check`.",
            )
    if len(digests) > override.MAX_FINDINGS:
        raise UsageError(f"One override lifts at most {override.MAX_FINDINGS} findings.")
    try:
        reason.encode()
        bad = not reason.strip() or len(reason) > override.MAX_REASON
    except UnicodeEncodeError:
        bad = True
    if bad:
        raise UsageError(
            "An override says why, in one to a thousand characters.",
            hint="Give the reason with --reason.",
        )
    span = steps.parse_expiry(expires)
    if span is None:
        raise UsageError("An override always expires.", hint="Give --expires 72h, or longer.")
    created = context.now()
    return override.Override(
        format=override.FORMAT,
        plan=opened.plan.plan_id,
        findings=tuple(digests),
        principal=who,
        reason=reason,
        created=context.instant(created),
        expires=context.instant(created + span),
        nonce=secrets.token_hex(16),
    )


def _lifted(opened: OpenPlan, statement: Override) -> Iterator[str]:
    """What of the plan's own findings a statement is about, and what of it is none of them."""
    from hdev_memory.core.policy import explained

    listed = {found.digest: found for found in opened.plan.tail.findings}
    names = [name for name in statement.findings if name in listed]
    for name in names:
        held = ", which nothing lifts" if listed[name].level == "hard" else ""
        yield f"About {explained(listed[name])}{held}"
    if others := len(statement.findings) - len(names):
        yield f"About {others} more that the plan does not list; policy check tells those of now."


def _refuse_worthless(opened: OpenPlan, by: Rules, who: str) -> None:
    """Raise ApprovalError for an override that would lift nothing."""
    from hdev_memory.core import approval
    from hdev_memory.errors import ApprovalError

    author = opened.plan.tail.provenance.author
    made = by.requirement.exclude_author and author is not None and approval.among([author], who)
    if made or approval.among(by.agents, who):
        raise ApprovalError(
            "This principal lifts nothing, so nothing was signed.",
            why=f"{who} {'made the plan' if made else 'is an agent'}.",
            hint="Ask somebody else to look at the findings.",
        )
