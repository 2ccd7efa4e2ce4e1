"""`hdev audit export`: an in-toto statement of what a plan's last run did."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from hdev_memory.cli import options as flags


def audit_export(
    plan: flags.PlanPlace,
    out: flags.Out = None,
    key: Annotated[
        Path | None,
        typer.Option("--key", metavar="FILE", help="Sign it with this key, into FILE.sig."),
    ] = None,
) -> int:
    """Write an in-toto Statement (v1) of the plan's last run, once the log was found to be intact.

    It says which plan was applied to which memory, with the receipt and the approvals that counted.
    """
    from hdev_memory import __version__, attestation, plandir, signing
    from hdev_memory.cli import audit, context, outfile, signatures
    from hdev_memory.errors import UsageError

    settings = context.settings()
    if key is not None and (out is None or (out.exists() and not out.is_file())):
        raise UsageError(
            "A signature needs a file beside which it can lie.",
            why="--key was given without an --out FILE.",
            hint="Give --out FILE as well; the signature goes into FILE.sig.",
        )
    key_file = signatures.key_file(settings, key) if key is not None else None
    with plandir.load(plan) as opened:
        raw = attestation.statement(
            opened.plan, audit.intact_receipt(opened), f"hdev-memory {__version__}"
        )
        if out is None:
            sys.stdout.write(raw.decode())
            return 0
        outfile.write(out, [raw.decode()], what="The statement")
        if key_file is not None:
            used = signatures.sign_beside(out, raw, key_file, signing.ATTESTATIONS, settings)
            context.say(f"Statement signed with {used}")
    return 0
