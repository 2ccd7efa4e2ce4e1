"""`hdev apply`: carry out exactly a plan."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from hdev_memory.cli import options as flags


def apply(
    plan: flags.PlanPlace,
    expect: flags.Expect = None,
    again: Annotated[
        bool, typer.Option("--again", help="Execute a plan that has been finished once more.")
    ] = False,
    keep_going: flags.KeepGoing = False,
    source_path: flags.SourcePath = None,
    source_url: flags.SourceUrl = None,
    target_path: flags.TargetPath = None,
    target_url: flags.TargetUrl = None,
    api_key: flags.ApiKey = None,
    source_api_key: flags.SourceApiKey = None,
    target_api_key: flags.TargetApiKey = None,
    insecure_http: flags.InsecureHttp = False,
    parallelism: flags.Parallelism = None,
    lock_timeout: Annotated[
        str,
        typer.Option(
            "--lock-timeout", metavar="SPAN", help="Wait so long for another apply: 30s, 5m or 0."
        ),
    ] = "0",
    durability: Annotated[
        Literal["full", "none"],
        typer.Option(
            "--durability",
            help="none: do not sync a folder that may be lost; it is recorded with the run.",
        ),
    ] = "full",
    allow_unguarded: Annotated[
        bool,
        typer.Option(
            "--allow-unguarded",
            help="Go on where the target protects other writers less well than the plan says.",
        ),
    ] = False,
    allowed_signers: flags.AllowedSigners = None,
    require_approvals: flags.RequireApprovals = None,
    trust_ref: flags.TrustRef = None,
    trust_digest: flags.TrustDigest = None,
    sign_receipt: Annotated[
        Path | None,
        typer.Option(
            "--sign-receipt",
            metavar="KEY",
            help="Sign the receipt, and so the log's head, with it.",
        ),
    ] = None,
    policy: flags.Policy = None,
    json: flags.Json = False,
    json_into: flags.JsonInto = None,
) -> int:
    """Carry out exactly PLAN, if neither end has drifted; run it again to resume.

    Every action is compared with both ends before the first write, and each entry once more at the
    moment of its write. The paths and URLs tell where the ends lie on this machine. Where approvals
    are asked for, by hdev.toml or by a flag, they must be there and count (exit 6). The plan is
    judged by the policy that it was made under, by the project's, and by the one that is given;
    the stricter wins (exit 5).
    """
    import contextlib

    from hdev_memory import apply as engine
    from hdev_memory import plandir
    from hdev_memory.cli import context, eventlines, gate, policing, signatures, steps
    from hdev_memory.config import EndFlags, resolve
    from hdev_memory.errors import HdevError, PlanError

    with contextlib.ExitStack() as stack:
        lines = stack.enter_context(eventlines.told(json=json, into=json_into))
        patience = steps.Patience(steps.parse_wait(lock_timeout))
        opened = stack.enter_context(plandir.load(plan))
        try:
            steps.check_expected(opened, expect)
        except PlanError as error:
            steps.record_unexpected(opened, error)
            raise
        journal = stack.enter_context(steps.held(opened, patience))
        stack.enter_context(steps.refusals_logged(opened, journal))
        shared, own_source, own_target = steps.from_argv(api_key, source_api_key, target_api_key)
        settings = context.settings()
        key = signatures.key_file(settings, sign_receipt) if sign_receipt is not None else None
        asked = gate.Asked(allowed_signers, require_approvals, trust_ref, policy, trust_digest)
        source, target = steps.ends_of(
            settings,
            opened,
            EndFlags(path=source_path, url=source_url, api_key=own_source),
            EndFlags(path=target_path, url=target_url, api_key=own_target),
        )
        resolved = resolve(
            settings,
            source,
            target,
            shared_api_key=shared,
            insecure_http=insecure_http,
            parallelism=parallelism,
            durability=durability,
        )
        for warning in resolved.warnings:
            context.warn(warning)
        with steps.opened_ends(resolved.source, resolved.target) as ends:
            if not again and steps.already_finished(opened, ends, journal):
                signed = signatures.try_receipt(opened.folder, key, settings)
                lines.emit(
                    ending := eventlines.ApplyEnding(
                        exit=4 if isinstance(signed, HdevError) else 0,
                        plan=str(opened.folder),
                        plan_id=opened.plan.plan_id,
                        result="nothing to do",
                        counts={},
                        durability=durability,
                        head=None,
                        signed_with=signed if isinstance(signed, str) else None,
                    )
                )
                if not lines.on_stdout:
                    context.say(
                        "Nothing to do: this plan was applied, and the target still stands so."
                    )
                signatures.tell(opened.folder, signed, aloud=not lines.on_stdout)
                return ending.exit
            gates = policing.Gates(opened, ends, settings, asked, journal, lines)
            try:
                outcome, receipt = steps.carry_out(
                    opened,
                    ends,
                    journal,
                    policy=gates.policy,
                    approvals=gates.approvals,
                    keep_going=keep_going,
                    durability=durability,
                    allow_unguarded=allow_unguarded,
                    patience=patience,
                    lines=lines,
                )
            except engine.DriftFound as error:
                steps.tell_drift(error, opened, ends, lines)
                raise
        steps.tell_failures(outcome, lines)
        signed = signatures.try_receipt(opened.folder, key, settings)
        done = steps.apply_ending(opened, outcome, receipt, signed)
        lines.emit(done)
        if not lines.on_stdout:
            steps.print_outcome(opened, outcome, receipt)
        signatures.tell(opened.folder, signed, aloud=not lines.on_stdout)
        return done.exit
