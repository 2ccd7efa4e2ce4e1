"""`hdev audit compare`: does a server tell the same of a plan as the plan's own log?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from hdev_memory.cli import options as flags

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hdev_memory.cli.eventlines import Lines
    from hdev_memory.core.audit import Headmark, Record
    from hdev_memory.core.compare import Comparison
    from hdev_memory.plandir import OpenPlan


def audit_compare(
    plan: flags.PlanPlace,
    endpoint: Annotated[
        str, typer.Argument(metavar="ENDPOINT", help="The server that the plan was applied to.")
    ],
    server_head: Annotated[
        str | None,
        typer.Option(
            "--server-head", metavar="SEQ:DIGEST", help="The end of the server's log, noted before."
        ),
    ] = None,
    api_key: flags.ApiKey = None,
    insecure_http: flags.InsecureHttp = False,
    json: flags.Json = False,
) -> int:
    """Compare a plan's log with its server's.

    Exit 0 when both tell the same of every write of the plan, 8 when they do not or one was
    tampered with, 10 when neither holds a write of it, so that nothing vouches for its log.
    """
    import contextlib

    from hdev_memory import apply as engine
    from hdev_memory import plandir
    from hdev_memory.backends.http_audit import ServerAudit
    from hdev_memory.cli import context, eventlines, steps
    from hdev_memory.core import audit
    from hdev_memory.core.compare import compare
    from hdev_memory.core.entry import Normalisation
    from hdev_memory.errors import AuditError, UnanchoredError, UsageError

    with contextlib.ExitStack() as stack:
        lines = stack.enter_context(eventlines.told(json=json))
        noted = audit.headmark(server_head) if server_head is not None else audit.EMPTY
        if noted is None:
            raise UsageError(
                "This is no head of a log.",
                why=f"--server-head was {server_head!r}.",
                hint="Give it as it was printed: SEQ:sha256:DIGEST.",
            )
        opened = stack.enter_context(plandir.load(plan))
        where = steps.one_end(context.settings(), endpoint, api_key, insecure_http=insecure_http)
        if where.kind != "http":
            raise UsageError(
                "Only a server keeps a log of its own.",
                why=f"{endpoint} is a {where.kind} endpoint.",
                hint="Give the URL of the memory server.",
            )
        server = stack.enter_context(ServerAudit(where))
        engine.check_endpoint("target", opened.plan.head.target, server.endpoint)
        heads: list[Headmark] = [audit.EMPTY]
        result = compare(
            _ours(opened, heads),
            server.records(noted),
            opened.plan.plan_id,
            exact=opened.plan.head.normalisation == Normalisation(),
            unverified=plandir.UNVERIFIED,
        )
        nothing = not result.agree + result.settled + len(result.disagreements)
        status = 8 if result.disagreements else 10 if nothing else 0
        _tell(result, lines)
        lines.emit(
            eventlines.CompareEnding(
                exit=status,
                plan_id=opened.plan.plan_id,
                agree=result.agree,
                settled=result.settled,
                disagree=len(result.disagreements),
                later=len(result.later),
                head=str(heads[-1]),
                server_head=str(server.head),
            )
        )
        if not lines.on_stdout:
            context.say(
                f"Compared: {result.agree} writes agree, {result.settled} settled by the server, "
                f"{len(result.disagreements)} disagree."
            )
            context.say(f"Audit head {heads[-1]}")
            context.say(f"Server head {server.head}")
        if result.disagreements:
            raise AuditError(
                "The plan's log and the server's do not tell the same.",
                why=f"{len(result.disagreements)} writes are told in two ways, or by one side.",
                hint="Find out which log was changed, or who wrote without this plan's log.",
            )
        if nothing:
            raise UnanchoredError(
                "Both logs are intact, but neither holds a write of this plan.",
                hint="Nothing vouches for the plan's log: it was not applied there, or both ends "
                "were cut off.",
            )
        return 0


def _ours(opened: OpenPlan, heads: list[Headmark]) -> Iterator[Record]:
    """The checked records of the plan's log; the last of `heads` is the end of it."""
    from hdev_memory import plandir
    from hdev_memory.errors import AuditError

    for record, behind in plandir.read_audit(opened.folder):
        if record.plan != opened.plan.plan_id:
            raise AuditError(
                "The audit log belongs to another plan.",
                why=f"Record {record.seq} is about {record.plan}.",
            )
        heads[:] = [behind]
        yield record


def _tell(result: Comparison, lines: Lines) -> None:
    """Each disagreement, and who wrote later: on stderr, and as event lines."""
    from hdev_memory.apply import describe
    from hdev_memory.cli import context, eventlines

    for found in result.disagreements:
        here, there = describe(found.here), describe(found.there)
        lines.emit(
            eventlines.Disagreement(
                kind=found.kind, run=found.run, key=found.key, here=here, there=there
            )
        )
        context.note(f"Disagree: {found.key}, run {found.run}: {found.kind}")
        context.note(f"  plan's log  {'no record' if found.kind == 'missing here' else here}")
        context.note(f"  server      {'no record' if found.kind == 'missing there' else there}")
    for later in result.later:
        lines.emit(
            eventlines.Later(
                key=later.key, by=later.by, time=later.time, plan=later.plan, seq=later.seq
            )
        )
        whose = f" with {later.plan}" if later.plan else ""
        context.note(f"Later: {later.key} was written by {later.by} at {later.time}{whose}")
