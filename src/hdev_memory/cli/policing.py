"""The gate of policies: by which ones a plan is judged here, what they find, and who lifts it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from hdev_memory import plandir, planning, rollback, signing, trust
from hdev_memory.backends.base import Backend, Endpoint, Reader, Scope
from hdev_memory.cli import gate
from hdev_memory.cli.context import instant, note, now, warn
from hdev_memory.cli.eventlines import Finding as FindingLine
from hdev_memory.cli.eventlines import Lines
from hdev_memory.config import (
    POLICY_FILE,
    PROJECT_FILE,
    Judging,
    Settings,
    judging_in,
    label_of,
    place_of,
)
from hdev_memory.core import approval, override
from hdev_memory.core import policy as judging
from hdev_memory.core import rules as writing
from hdev_memory.core.digest import named
from hdev_memory.core.plan import Finding
from hdev_memory.core.rules import Policy, content_rules
from hdev_memory.core.tomllines import lines_of
from hdev_memory.errors import ConfigError, HdevError, PolicyError, TrustError, UsageError
from hdev_memory.findings import Judge, Watch

SHOWN = 50
"""Findings that are told on stderr; the event lines have all."""


@dataclass(frozen=True)
class Standards:
    """What a plan is judged by: each policy once. `current` tells whether any of them is one of
    here and now, and not only the plan's own record. `places` say which environment lies where:
    with a git ref that is what its commit says, as the policies are."""

    policies: tuple[Policy, ...]
    current: bool
    places: Settings

    @property
    def reads(self) -> bool:
        """Whether any rule looks into entries."""
        return any(content_rules(policy) for policy in self.policies)


def for_planning(settings: Settings, given: Path | None, target: Endpoint) -> Judge | None:
    """The policy that a new plan is judged by: given, else that of the environment where the
    target lies, else the project's, else none.

    Raises PolicyError.
    """
    if given is not None:
        return Judge(_read(trust.Checkout(), settings.cwd / given))
    places = _policies(_checked_out(settings), target)
    return Judge(_read(trust.Checkout(), places[0])) if places else None


def readable(settings: Settings) -> None:
    """Read every policy that the project names. Raises PolicyError."""
    found = _checked_out(settings)
    own = (environment.policy for environment in found.places.environments.values())
    for place in dict.fromkeys([found.policy, *own]):
        if place is not None:
            _read(trust.Checkout(), place)


def standards(
    settings: Settings,
    asked: gate.Asked,
    files: gate.Files,
    planned: Policy | None,
    target: Endpoint,
) -> Standards:
    """The policies for a plan that was made under `planned` and leads to `target`: that one, the
    target's or the project's as `files` has it, and the one that was asked for. Each can only
    make things stricter.

    Raises PolicyError.
    """
    project = _project(settings, files)
    policies = [_read(files, place) for place in _policies(project, target)]
    if asked.policy is not None:
        policies.append(_read(trust.Checkout(), settings.cwd / asked.policy))
    current = bool(policies)
    if planned is not None:
        policies.append(_checked(planned, "the plan", 1))
    distinct = {policy.digest: policy for policy in policies}
    return Standards(tuple(distinct.values()), current, project.places)


def standings(opened: plandir.OpenPlan, settings: Settings) -> tuple[approval.Standing, ...]:
    """For a review: what lies among a plan's approvals, and what each is worth by the project's
    rules; with the rejections that the log alone still knows. Where that cannot be told, a warning
    says why, and the review is there without it."""
    try:
        logged = approval.past(record for record, _ in plandir.read_audit(opened.folder))
        if not logged.rejected_by and next(plandir.read_approvals(opened.folder), None) is None:
            return ()
        by = approval_rules(settings, gate.Asked(), opened)
        found = gate.judged(opened, settings, by, logged).standings
        told = {one.principal for one in found if one.worth == "blocks"}
        return (*found, *map(_of_the_log, sorted(logged.rejected_by - told)))
    except HdevError as error:
        warn(f"the approvals are not shown. {error}")
        return ()


def _of_the_log(principal: str) -> approval.Standing:
    why = "the audit log says so; its own file does not lie here"
    return approval.Standing(plandir.AUDIT, principal, "reject", "blocks", why, "")


def approval_rules(settings: Settings, asked: gate.Asked, opened: plandir.OpenPlan) -> gate.Rules:
    """By what the approvals of a plan are judged: as the project, the command line and the
    policies ask. Raises PolicyError and TrustError."""
    files = gate.files_of(settings, asked)
    by = standards(
        settings, asked, files, opened.plan.head.options.policy, claimed(opened, settings)
    )
    return gate.rules(settings, asked, by.policies, files)


def claimed(opened: plandir.OpenPlan, settings: Settings) -> Endpoint:
    """Where a plan says that its target is; the home folder is that of who asks."""
    end = opened.plan.head.target
    location = end.location
    if end.kind in ("filesystem", "sqlite") and (location == "~" or location.startswith("~/")):
        location = f"{settings.home}{location[1:]}"
    return Endpoint(kind=end.kind, location=location, store=end.store)


def _checked_out(settings: Settings) -> Judging:
    """What the project file of the checkout says, and the environment."""
    place = settings.get("policy")
    return Judging(policy=Path(place) if place is not None else None, places=settings)


def _project(settings: Settings, files: gate.Files) -> Judging:
    """Where the policies are, and where the environments lie."""
    if isinstance(files, trust.Checkout):
        return _checked_out(settings)
    return _committed(files, settings)


def _policies(project: Judging, target: Endpoint) -> list[Path]:
    """The policies for a target: those of the environments that lie there, else the project's."""
    own = [
        environment.policy
        for name, environment in project.places.environments.items()
        if environment.policy is not None and _lies(project.places, name, target)
    ]
    if own:
        return list(dict.fromkeys(own))
    return [project.policy] if project.policy is not None else []


def _committed(commit: trust.Commit, settings: Settings) -> Judging:
    """What the nearest project file of a commit says, and the policy beside it or nearest."""
    folder = settings.cwd.resolve()
    while True:
        beside = folder / POLICY_FILE
        path = folder / PROJECT_FILE
        if (content := commit.read(path)) is not None:
            try:
                found = judging_in(path, content.decode(), settings)
            except UnicodeDecodeError:
                raise trust.unusable(commit.name(path), "it is not UTF-8") from None
            except ConfigError as error:
                raise trust.unusable(commit.name(path), error.why.rstrip(".")) from None
            if found.policy is None and commit.read(beside) is not None:
                return Judging(beside, found.places)
            return found
        if commit.read(beside) is not None:
            return Judging(beside, judging_in(path, None, settings).places)
        if folder == commit.top or folder == folder.parent:
            return judging_in(path, None, settings)
        folder = folder.parent


def _read(files: gate.Files, path: Path) -> Policy:
    name = files.name(path)
    try:
        content = files.read(path)
        if content is None:
            raise _no_policy(name, "there is no such file")
        text = content.decode()
    except UnicodeDecodeError:
        raise _no_policy(name, "it is not UTF-8") from None
    except TrustError as error:
        raise _no_policy(name, error.why.removeprefix(f"{name}: ").rstrip(".")) from None
    policy = writing.decode(text, name)
    return _checked(policy, name, lines_of(text).get(("rules", "protected_keys", "patterns"), 1))


def _checked(policy: Policy, name: str, line: int) -> Policy:
    """The policy, whose patterns are known to be some; the line is theirs."""
    try:
        Scope(policy.protected_keys.patterns if policy.protected_keys is not None else ())
    except ValueError as error:
        raise writing.wrong(name, line, f"a pattern is not one of gitignore: {error}") from None
    return policy


def _no_policy(name: str, why: str) -> PolicyError:
    return PolicyError(
        "The policy cannot be read, and nothing is judged without it.",
        why=f"{name}: {why}.",
        hint=f"Write it (hdev policy explain tells how), or correct `policy` in {PROJECT_FILE}.",
    )


def found_in(
    opened: plandir.OpenPlan,
    by: Standards,
    settings: Settings,
    source: Reader | None,
    target: Reader | None,
) -> tuple[Finding, ...]:
    """What the policies find in a plan now, and what was found when it was made.

    `source` is read where rules look into entries. An entry that is not as the plan says is not
    looked at: it is never written either. Where an end is not given, the plan is believed.
    """
    plan = opened.plan
    facts = judging.facts_of(plan)
    if target is not None:
        facts = msgspec.structs.replace(
            facts,
            held=min(facts.held, _held(opened, by, target)),
            cas=judging.weaker(facts.cas, target.capabilities.cas),
        )
    facts = msgspec.structs.replace(
        facts,
        source=_name(by.places, facts.source, source),
        target=_name(by.places, facts.target, target),
    )
    with Watch([Judge(policy) for policy in by.policies]) as watch:
        for action in opened.actions():
            watch.see(action)
        if by.reads and source is not None:
            watch.look(source, plan.head.normalisation, lambda key: None)
        found = watch.findings(facts, instant(now()))
    return judging.united(found, plan.tail.findings)


def _held(opened: plandir.OpenPlan, by: Standards, target: Reader) -> int:
    """How many entries the target can have held when the plan was made: those there are, and those
    that an earlier run may have deleted. A share is not taken of what a plan only says."""
    plan = opened.plan
    if not any(judging.by_share(policy) for policy in by.policies):
        return judging.facts_of(plan).held
    options = plan.head.options
    scope = Scope(options.include, options.exclude)
    return sum(1 for _ in target.keys(scope)) + plan.tail.summary.delete


def _name(places: Settings, label: str, end: Reader | None) -> str:
    """The environment that an end is in truth, else its own name; a label alone proves nothing."""
    if end is None or label == rollback.LABEL:
        return label
    here = [name for name in places.environments if _lies(places, name, end.endpoint)]
    names = here or [label_of(end.endpoint.kind, end.endpoint.location)]
    if label in names and (here or label not in places.environments):
        return label
    return here[0] if here else f"{label} (which lies elsewhere)"


def _lies(places: Settings, name: str, found: Endpoint) -> bool:
    """Whether an environment is this endpoint; one that cannot be made out is none."""
    with contextlib.suppress(UsageError):
        kind, location = place_of(name, places)
        return planning.same_place(Endpoint(kind=kind, location=location), found)
    return False


def liftings(
    opened: plandir.OpenPlan, by: gate.Rules, environ: Mapping[str, str]
) -> tuple[override.Lifting, ...]:
    """The overrides among a plan's approvals, and what each is worth. Raises ApprovalError."""
    moment = now()
    found: list[override.Lifting] = []
    with contextlib.ExitStack() as stack:
        verifier = None
        if by.root is not None:
            verifier = stack.enter_context(signing.Verifier(by.root, environ))
        for item in plandir.read_approvals(opened.folder):
            if isinstance(item, plandir.Signed) and override.is_override(item.statement):
                try:
                    statement = override.decode(item.statement)
                    if verifier is None:
                        raise signing.Unproven("nobody has said who may sign (allowed_signers)")
                    _, owners = verifier.verify(
                        item.statement, item.signature, statement.principal, moment
                    )
                except (approval.NoStatement, signing.Unproven) as error:
                    found.append(override.Lifting(item.name, "", "", (), "", str(error)))
                    continue
                author = opened.plan.tail.provenance.author
                why = override.flaw(
                    statement,
                    item.name,
                    plan=opened.plan.plan_id,
                    author=author if by.requirement.exclude_author else None,
                    owners=owners,
                    agent=any(approval.among(by.agents, owner) for owner in owners),
                    now=instant(moment),
                )
                found.append(
                    override.Lifting(
                        item.name,
                        statement.principal,
                        statement.nonce,
                        () if why else statement.findings,
                        statement.reason,
                        why,
                    )
                )
    return tuple(found)


@dataclass(frozen=True)
class Judged:
    """What the policies come to for one plan."""

    findings: tuple[Finding, ...]
    liftings: tuple[override.Lifting, ...]

    @property
    def lifted(self) -> frozenset[str]:
        return override.lifted(self.liftings)

    @property
    def refusing(self) -> tuple[Finding, ...]:
        return judging.refusing(self.findings, self.lifted)


def judged(
    opened: plandir.OpenPlan,
    by: Standards,
    settings: Settings,
    asked: gate.Asked,
    files: gate.Files,
    ends: tuple[Reader | None, Reader | None],
) -> Judged:
    """What the policies find, and what is lifted of it. Raises PolicyError and TrustError."""
    findings = found_in(opened, by, settings, *ends)
    lifting: tuple[override.Lifting, ...] = ()
    if any(one.level == "soft" for one in findings if one.digest is not None):
        rules = gate.rules(settings, asked, by.policies, files)
        lifting = liftings(opened, rules, settings.environ)
    return Judged(findings, lifting)


def check(
    opened: plandir.OpenPlan,
    ends: tuple[Backend, Backend],
    settings: Settings,
    asked: gate.Asked,
    files: gate.Files,
    lines: Lines,
) -> tuple[tuple[Policy, ...], str]:
    """The policies that the plan was judged by, and what the log says of the findings that were
    lifted. Raises PolicyError where it may not run, after having told what was found."""
    by = standards(settings, asked, files, opened.plan.head.options.policy, ends[1].endpoint)
    _refuse_unjudged(ends[1], by, settings, asked, files)
    found = judged(opened, by, settings, asked, files, ends)
    if found.refusing:
        tell(found, lines)
        raise refusal(opened, found)
    used = [one for one in found.liftings if not one.why]
    remark = ", ".join(f"{one.principal} {one.nonce}" for one in used)
    return by.policies, f"findings lifted by {remark}" if used else ""


class Gates:
    """Both gates of one apply, which read their rules from the same files: the policy's first.

    Each raises what refuses the plan, and tells before what it has found.
    """

    def __init__(
        self,
        opened: plandir.OpenPlan,
        ends: tuple[Backend, Backend],
        settings: Settings,
        asked: gate.Asked,
        journal: plandir.Journal,
        lines: Lines,
    ) -> None:
        self._opened = opened
        self._ends = ends
        self._settings = settings
        self._asked = asked
        self._journal = journal
        self._lines = lines
        self._policies: tuple[Policy, ...] = ()
        self._files: gate.Files | None = None

    def policy(self) -> str:
        """What the log says of findings that were lifted."""
        self._files = gate.files_of(self._settings, self._asked)
        self._policies, remark = check(
            self._opened, self._ends, self._settings, self._asked, self._files, self._lines
        )
        return remark

    def approvals(self) -> tuple[approval.Counted, ...]:
        """The approvals that count."""
        return gate.check(
            self._opened,
            self._settings,
            self._asked,
            self._journal,
            self._lines,
            self._policies,
            self._files,
        )


def _refuse_unjudged(
    target: Backend, by: Standards, settings: Settings, asked: gate.Asked, files: gate.Files
) -> None:
    """Raise PolicyError where the target is protected, and nothing protects it."""
    if not any(
        environment.protected and _lies(places, name, target.endpoint)
        for places in (settings, by.places)
        for name, environment in places.environments.items()
    ):
        return
    lacks = []
    if not by.current:
        lacks.append("there is no policy")
    if gate.rules(settings, asked, by.policies, files).root is None:
        lacks.append("nobody has said who may sign (allowed_signers)")
    if lacks:
        raise PolicyError(
            "The target is protected, and nothing here says what may be done to it.",
            why=f"{'; '.join(lacks).capitalize()}.",
            hint=f"Write {POLICY_FILE}, and [approvals] in {PROJECT_FILE}: see docs/policy.md.",
        )


def tell(found: Judged, lines: Lines) -> None:
    """What was found: on stderr, and as event lines."""
    emit(found.findings, found.lifted, lines)
    for one in found.findings[:SHOWN]:
        note(said(one, found.lifted))
    if len(found.findings) > SHOWN:
        note(f"… and {len(found.findings) - SHOWN} more.")
    for lifting in found.liftings:
        if lifting.why:
            note(f"override {lifting.name} lifts nothing: {lifting.why}")


def emit(findings: Iterable[Finding], lifted: frozenset[str], lines: Lines) -> None:
    """An event line for each finding of a rule."""
    for one in findings:
        if one.digest is not None:
            lines.emit(
                FindingLine(
                    rule=one.rule,
                    level=one.level,
                    key=one.key,
                    line=one.line,
                    text=one.text,
                    digest=one.digest,
                    lifted=one.level == "soft" and one.digest in lifted,
                )
            )


def said(one: Finding, lifted: frozenset[str]) -> str:
    """A finding in one line of foreign text."""
    free = " (lifted)" if one.level == "soft" and one.digest in lifted else ""
    return f"{judging.explained(one)}{free}"


def refusal(opened: plandir.OpenPlan, found: Judged) -> PolicyError:
    """Why a plan may not run, and what to do about it."""
    refusing = found.refusing
    hard = [one for one in refusing if one.level == "hard"]
    if hard:
        hint = (
            "Change the source, or plan less; a hard finding is never lifted. "
            f"hdev policy check {opened.folder} tells each."
        )
    else:
        names = " ".join(f"--finding {named(one.digest or '')}" for one in refusing[:3])
        more = " …" if len(refusing) > 3 else ""
        hint = (
            f"Change the source, or lift them: hdev policy override {opened.folder} {names}{more}"
        )
    return PolicyError(
        "The policy refuses the plan; nothing was written.",
        why=f"{', '.join(_counts(refusing))}.",
        hint=hint,
    )


def _counts(findings: Sequence[Finding]) -> Iterator[str]:
    counts: dict[tuple[str, str], int] = {}
    for one in findings:
        counts[one.level, one.rule] = counts.get((one.level, one.rule), 0) + 1
    for (level, rule), count in counts.items():
        yield f"{count} {level} {'finding' if count == 1 else 'findings'} of {rule}"
