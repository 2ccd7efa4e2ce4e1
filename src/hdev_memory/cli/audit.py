"""`hdev audit`: check a plan's log, and show it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hdev_memory.cli import options as flags


def audit_verify(
    plan: flags.PlanPlace,
    head: Annotated[
        str | None,
        typer.Option("--head", metavar="SEQ:DIGEST", help="The end of the log, noted elsewhere."),
    ] = None,
    receipt: Annotated[
        Path | None, typer.Option("--receipt", metavar="FILE", help="A receipt kept elsewhere.")
    ] = None,
    json: flags.Json = False,
    json_into: flags.JsonInto = None,
) -> int:
    """Check the audit log: 0 intact and anchored, 10 intact but not anchored, 8 tampered with."""
    import contextlib

    from hdev_memory import plandir
    from hdev_memory.cli import context, eventlines
    from hdev_memory.core import audit
    from hdev_memory.errors import AuditError, UnanchoredError

    with contextlib.ExitStack() as stack:
        lines = stack.enter_context(eventlines.told(json=json, into=json_into))
        opened = stack.enter_context(plandir.load(plan))
        heads = {0: str(audit.EMPTY)}
        last = audit.EMPTY
        for record, behind in plandir.read_audit(opened.folder):
            if record.plan != opened.plan.plan_id:
                raise AuditError(
                    "The audit log belongs to another plan.",
                    why=f"Record {record.seq} is about {record.plan}.",
                )
            heads[behind.seq] = str(behind)
            last = behind
        anchors = [head] if head is not None else []
        beside = opened.folder / plandir.RECEIPT
        for path in (receipt, beside if beside.exists() else None):
            if path is not None:
                anchor = str(plandir.read_receipt(path).head)
                _check_anchor(anchor, heads)
                anchors += [anchor] if path is not beside else []
        for anchor in anchors:
            _check_anchor(anchor, heads)
        unanchored = UnanchoredError(
            "The audit log is intact, but nothing outside of its folder vouches for its end.",
            hint="Give --head or --receipt from a place that its writers cannot change.",
        )
        lines.emit(
            eventlines.AuditEnding(
                exit=0 if anchors else unanchored.exit_code,
                plan_id=opened.plan.plan_id,
                records=last.seq,
                head=str(last),
                anchored=bool(anchors),
            )
        )
        if not lines.on_stdout:
            context.say(f"Audit log intact: {last.seq} records, head {last}.")
        if not anchors:
            raise unanchored
        return 0


def _check_anchor(anchor: str, heads: dict[int, str]) -> None:
    from hdev_memory.errors import AuditError

    seq = anchor.partition(":")[0]
    if not seq.isdigit() or heads.get(int(seq)) != anchor:
        raise AuditError(
            "The audit log does not lead to the head that was noted.",
            why="It was cut or rewritten, or the head belongs to another log.",
            hint="Compare it with another copy.",
        )


def audit_show(plan: flags.PlanPlace, json: flags.Json = False) -> int:
    """Show the audit log as a timeline."""
    import msgspec

    from hdev_memory import plandir
    from hdev_memory.cli import context
    from hdev_memory.review.inert import inert

    with plandir.load(plan) as opened:
        for record, _ in plandir.read_audit(opened.folder):
            if json:
                context.print_json(msgspec.to_builtins(record))
                continue
            about = " ".join(part for part in (record.action, record.key) if part)
            why = "; ".join(part for part in (record.reason, record.evidence) if part)
            parts = (record.time, f"{record.event:9}", about, f"({why})" if why else "")
            context.say(inert("  ".join(part for part in parts if part)))
    return 0
