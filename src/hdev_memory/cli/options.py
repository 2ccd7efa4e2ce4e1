"""The flags that several commands share, declared once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Source = Annotated[
    str | None, typer.Option("--source", metavar="ENDPOINT", help="Where entries come from.")
]
Target = Annotated[
    str | None, typer.Option("--target", metavar="ENDPOINT", help="Where entries go.")
]
SourcePath = Annotated[
    str | None, typer.Option("--source-path", metavar="PATH", help="The source's folder.")
]
SourceUrl = Annotated[
    str | None, typer.Option("--source-url", metavar="URL", help="The source's server.")
]
TargetPath = Annotated[
    str | None, typer.Option("--target-path", metavar="PATH", help="The target's folder.")
]
TargetUrl = Annotated[
    str | None, typer.Option("--target-url", metavar="URL", help="The target's server.")
]
ApiKey = Annotated[
    str | None,
    typer.Option("--api-key", metavar="KEY", help="Key for the HTTP end that has none of its own."),
]
SourceApiKey = Annotated[
    str | None, typer.Option("--source-api-key", metavar="KEY", help="Key for the source's server.")
]
TargetApiKey = Annotated[
    str | None, typer.Option("--target-api-key", metavar="KEY", help="Key for the target's server.")
]
InsecureHttp = Annotated[
    bool,
    typer.Option("--insecure-http", help="Let a key travel over plain http to another machine."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON lines for programs on stdout.")]
JsonInto = Annotated[
    Path | None,
    typer.Option(
        "--json-into", metavar="FILE", help="Write the JSON lines there, beside the usual output."
    ),
]
Parallelism = Annotated[
    int | None,
    typer.Option(
        "--parallelism", metavar="N", min=1, max=64, help="Connections to each server (default 8)."
    ),
]
PlanPlace = Annotated[
    Path, typer.Argument(metavar="PLAN", help="The plan's folder, or its plan.json.")
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace entries of the target that differ.")
]
Delete = Annotated[
    bool, typer.Option("--delete", help="Delete entries of the target that the source lacks.")
]
MaxDelete = Annotated[
    str | None,
    typer.Option("--max-delete", metavar="N|N%", help="Refuse to plan more deletes than this."),
]
Include = Annotated[
    list[str] | None,
    typer.Option("--include", metavar="PATTERN", help="Only keys that match; repeatable."),
]
Exclude = Annotated[
    list[str] | None,
    typer.Option("--exclude", metavar="PATTERN", help="No keys that match; repeatable."),
]
Expect = Annotated[
    str | None,
    typer.Option("--expect", metavar="sha256:…", help="Refuse any plan but the one of this id."),
]
KeepGoing = Annotated[
    bool, typer.Option("--keep-going", help="Go on when an entry fails, and report each.")
]
AllowedSigners = Annotated[
    Path | None,
    typer.Option(
        "--allowed-signers", metavar="FILE", help="Whose keys may approve, as ssh-keygen reads it."
    ),
]
RequireApprovals = Annotated[
    int | None,
    typer.Option(
        "--require-approvals", metavar="N", min=0, max=64, help="Refuse with fewer approvals."
    ),
]
TrustRef = Annotated[
    str | None,
    typer.Option("--trust-ref", metavar="REF", help="Read what judges the plan from this git ref."),
]
TrustDigest = Annotated[
    str | None,
    typer.Option(
        "--trust-digest",
        metavar="sha256:…",
        help="Refuse unless the rules have this digest (hdev config check).",
    ),
]
Policy = Annotated[
    Path | None,
    typer.Option("--policy", metavar="FILE", help="Judge it by this policy (hdev-policy.toml)."),
]
Author = Annotated[
    str | None,
    typer.Option(
        "--principal", metavar="NAME", help="Who makes the plan, as allowed_signers has it."
    ),
]
Out = Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Write it there instead.")]
SigningKey = Annotated[
    Path | None,
    typer.Option(
        "--key",
        metavar="FILE",
        help="The key to sign with: a private one, or a public one that an agent signs for.",
    ),
]
Signer = Annotated[
    str | None,
    typer.Option("--principal", metavar="NAME", help="Who signs, as allowed_signers has it."),
]
Unasked = Annotated[
    bool, typer.Option("--yes", help="Do not ask; only for principals that are `unattended`.")
]
