"""The gate of approvals: by what a plan is judged here, and whether it may run."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from hdev_memory import plandir, signing, trust
from hdev_memory.cli.context import instant, note, now
from hdev_memory.cli.eventlines import Approval, Lines
from hdev_memory.config import PROJECT_FILE, Approvals, Settings, approvals_in
from hdev_memory.core import approval, override
from hdev_memory.core.digest import named, sha256
from hdev_memory.core.policy import required
from hdev_memory.core.rules import Policy
from hdev_memory.errors import ApprovalError, ConfigError, TrustError, UsageError


@dataclass(frozen=True)
class Asked:
    """What the command line says of approvals; each may only make the rules stricter, but for the
    place of the file of allowed signers."""

    allowed_signers: Path | None = None
    require: int | None = None
    trust_ref: str | None = None
    policy: Path | None = None
    trust_digest: str | None = None


Files = trust.Checkout | trust.Commit


def files_of(settings: Settings, asked: Asked) -> Files:
    """Where the rules are read from: the checkout, or the one commit of a git ref.

    Raises UsageError, and TrustError where they are not the ones that were pinned.
    """
    if asked.trust_ref is not None:
        if asked.trust_digest is not None:
            raise UsageError(
                "--trust-ref and --trust-digest do not go together.",
                why="A commit holds the rules; a digest is that of the rules in the checkout.",
                hint="Give one of them; the full id of a commit pins as a digest does.",
            )
        return trust.Commit(settings.cwd, asked.trust_ref, settings.environ)
    checkout = trust.Checkout()
    if asked.trust_digest is not None:
        found = digest_of(settings, checkout, asked.allowed_signers)
        if found != asked.trust_digest:
            raise TrustError(
                "The rules here are not the ones that were pinned.",
                why=f"--trust-digest was {asked.trust_digest!r}; theirs is {found}.",
                hint="See who changed hdev.toml, the policies, allowed_signers or revoked; "
                "`hdev config check` tells the digest of the rules as they are.",
            )
    return checkout


def digest_of(
    settings: Settings, checkout: trust.Checkout, allowed_signers: Path | None = None
) -> str:
    """`sha256:…` over all that judges plans here: the project file, each policy that it names, the
    allowed signers and the revoked keys. docs/formats.md tells how it is made.

    Raises TrustError where one that is named cannot be read.
    """
    approvals = settings.approvals
    asked = Asked(allowed_signers)
    places: list[tuple[str, Path | None]] = [
        ("policy", Path(place) if (place := settings.get("policy")) is not None else None),
        *((f"policy {one.name}", one.policy) for one in settings.environments.values()),
        ("allowed_signers", _signers_place(settings, asked, approvals)),
        (
            "revoked",
            approvals.folder / approvals.revoked if approvals and approvals.revoked else None,
        ),
    ]
    contents = [(what, trust.needed(checkout, path)) for what, path in places if path is not None]
    if settings.project is not None:
        contents.append((PROJECT_FILE, settings.project.encode()))
    lines = sorted(f"{json.dumps(what)} {sha256(content)}\n" for what, content in contents)
    return named(sha256("".join(lines).encode()))


@dataclass(frozen=True)
class Rules:
    """What a plan is judged by; `root` is None where nobody has said who may sign."""

    requirement: approval.Requirement
    root: signing.TrustRoot | None
    agents: tuple[str, ...]
    unattended: tuple[str, ...]


def rules(
    settings: Settings,
    asked: Asked,
    policies: Sequence[Policy] = (),
    files: Files | None = None,
) -> Rules:
    """The rules of the project, from disk or from a git ref, those of the command line, and what
    policies ask for. `files` is what `files_of` gave, where somebody has asked before.

    Raises TrustError when they cannot be read or contradict themselves, and where a ref that was
    given says nothing at all: then nothing would be judged.
    """
    files = files if files is not None else files_of(settings, asked)
    configured = settings.approvals
    if isinstance(files, trust.Commit):
        configured = _committed(files, settings.cwd)
        if configured is None and not (asked.require or asked.allowed_signers or policies):
            assert asked.trust_ref is not None
            raise trust.unusable(asked.trust_ref, f"there is no [approvals] in a {PROJECT_FILE}")
    requirement = configured.requirement if configured is not None else approval.Requirement()
    if configured is None and asked.allowed_signers is not None:
        requirement = approval.stricter(requirement, 1)
    requirement = approval.stricter(requirement, asked.require or 0)
    requirement = required(requirement, policies)
    signers = _signers_place(settings, asked, configured)
    if signers is None and requirement.asked:
        raise TrustError(
            "Approvals are required, and nobody has said who may give them.",
            why="There is no file of allowed signers.",
            hint=f"Give --allowed-signers, or allowed_signers in [approvals] of {PROJECT_FILE}.",
        )
    return Rules(
        requirement=requirement,
        root=_root(files, signers, configured) if signers is not None else None,
        agents=configured.agents if configured is not None else (),
        unattended=configured.unattended if configured is not None else (),
    )


def _committed(commit: trust.Commit, cwd: Path) -> Approvals | None:
    """The `[approvals]` of the nearest project file of a commit, in or above a folder."""
    folder = cwd.resolve()
    while True:
        path = folder / PROJECT_FILE
        content = commit.read(path)
        if content is not None:
            try:
                return approvals_in(path, content.decode())
            except UnicodeDecodeError:
                raise trust.unusable(commit.name(path), "it is not UTF-8") from None
            except ConfigError as error:
                raise trust.unusable(commit.name(path), error.why.rstrip(".")) from None
        if folder == commit.top:
            return None
        folder = folder.parent


def _signers_place(settings: Settings, asked: Asked, configured: Approvals | None) -> Path | None:
    if asked.allowed_signers is not None:
        return settings.cwd / asked.allowed_signers
    if configured is not None and configured.allowed_signers is not None:
        return configured.folder / configured.allowed_signers
    return None


def _root(files: trust.Files, signers: Path, configured: Approvals | None) -> signing.TrustRoot:
    revoked = b""
    if configured is not None and configured.revoked is not None:
        revoked = trust.needed(files, configured.folder / configured.revoked)
    content = trust.needed(files, signers)
    return signing.TrustRoot(signing.parse_signers(content, files.name(signers)), revoked)


def presented(
    folder: Path, by: Rules, moment: datetime, environ: Mapping[str, str]
) -> list[approval.Presented]:
    """What lies among a plan's approvals, each statement verified. Raises ApprovalError."""
    found: list[approval.Presented] = []
    with contextlib.ExitStack() as stack:
        verifier = None
        if by.root is not None:
            verifier = stack.enter_context(signing.Verifier(by.root, environ))
        for item in plandir.read_approvals(folder):
            if isinstance(item, plandir.Stray):
                found.append(approval.Dubious(item.name, item.why))
                continue
            if override.is_override(item.statement):
                continue  # it lifts findings, and approves nothing; see `policing`
            try:
                found.append(_genuine(item, by, verifier, moment))
            except approval.NoStatement as error:
                found.append(approval.Dubious(item.name, f"it is no statement: {error}"))
            except signing.Unproven as error:
                found.append(approval.Dubious(item.name, str(error)))
    return found


def _genuine(
    item: plandir.Signed, by: Rules, verifier: signing.Verifier | None, moment: datetime
) -> approval.Genuine:
    statement = approval.decode(item.statement)
    if verifier is None:
        raise signing.Unproven("nobody has said who may sign (allowed_signers)")
    who = statement.principal
    key, owners = verifier.verify(item.statement, item.signature, who, moment)
    # Whoever holds an agent's key is taken for the agent, whichever of its names is used.
    agent = any(approval.among(by.agents, owner) for owner in owners)
    return approval.Genuine(item.name, statement, key, owners, agent)


def judged(
    opened: plandir.OpenPlan, settings: Settings, by: Rules, logged: approval.Past
) -> approval.Verdict:
    """What a plan's approvals come to now; `logged` is what its log says of them."""
    moment = now()
    return approval.judge(
        presented(opened.folder, by, moment, settings.environ),
        by.requirement,
        approval.subject(opened.plan),
        instant(moment),
        logged,
    )


def check(
    opened: plandir.OpenPlan,
    settings: Settings,
    asked: Asked,
    journal: plandir.Journal,
    lines: Lines,
    policies: Sequence[Policy] = (),
    files: Files | None = None,
) -> tuple[approval.Counted, ...]:
    """The approvals that count, where they are enough. Raises ApprovalError where they are not,
    after having told what each is worth."""
    by = rules(settings, asked, policies, files)
    if by.root is None and not journal.rejections:
        return ()
    logged = approval.past([*journal.records, *journal.rejections])
    verdict = judged(opened, settings, by, logged)
    if not verdict.allowed:
        tell(verdict, lines)
        raise refusal(opened, verdict)
    return verdict.counted


def tell(verdict: approval.Verdict, lines: Lines) -> None:
    """What each approval is worth: on stderr, and as event lines."""
    for one in verdict.standings:
        lines.emit(Approval(**shape(one)))
        note(said(one))


def shape(one: approval.Standing) -> dict[str, Any]:
    """The members of a standing, which are those of its event line."""
    return msgspec.structs.asdict(one)


def said(one: approval.Standing) -> str:
    """A standing in one line."""
    who = f"{one.decision} by {one.principal}" if one.principal else "approval"
    comment = f'; it says "{one.comment}"' if one.comment else ""
    return f"{one.worth:8} {who} ({one.name}): {one.why}{comment}"


def refusal(opened: plandir.OpenPlan, verdict: approval.Verdict) -> ApprovalError:
    """Why a plan may not run, and what to do about it."""
    if verdict.rejected:
        what, hint = "The plan was rejected.", "Make another plan with `hdev plan`."
    else:
        what = "The plan does not have the approvals that it needs."
        hint = (
            f"hdev approve {opened.folder} gives one; hdev approvals {opened.folder} tells what "
            "each is worth."
        )
    return ApprovalError(what, why=f"{'; '.join(verdict.missing)}.", hint=hint)


def refuse_one_step(settings: Settings, policy: Policy | None) -> None:
    """Raise ApprovalError where approvals are required, for a command that plans and applies."""
    configured = settings.approvals
    said = []
    if configured is not None and configured.requirement.asked:
        said.append(f"[approvals] in {configured.origin}")
    if policy is not None and policy.require_approvals is not None:
        said.append("the policy's rule require_approvals")
    if said:
        raise ApprovalError(
            "This project requires approvals, and one step leaves no time to give them.",
            why=f"So says {' and '.join(said)}.",
            hint="Make a plan with `hdev plan`, have it approved, then run `hdev apply`.",
        )
