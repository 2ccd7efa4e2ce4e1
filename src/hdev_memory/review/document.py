"""The neutral review of a plan: compared once, made inert once, rendered many times.

A document is a heading, which is there as soon as the plan was checked, and the rows below it.
Every text in it is inert; renderers decide only how it looks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import assert_never

import msgspec

from hdev_memory.core.approval import Standing
from hdev_memory.core.diff import AnyAction, Blocked, Create, Delete, Overwrite, Skip
from hdev_memory.core.entry import Value
from hdev_memory.core.plan import End, Finding, Summary, action_of
from hdev_memory.plandir import OpenPlan
from hdev_memory.review.inert import inert, spaced
from hdev_memory.review.reading import Details, Looked, asked, kind_of

KINDS = ("create", "overwrite", "blocked", "skip", "delete")
"""In the order of a review in a terminal; deletes come last, as they run last."""

GRAVEST = ("delete", "overwrite", "blocked", "create", "skip")
"""What destroys first: the order of a review that is read from its top, and may be cut."""

SYMBOLS = {"create": "+", "overwrite": "~", "delete": "-", "skip": "=", "blocked": "!"}

NEVER_CUT = frozenset({"overwrite", "delete", "blocked"})
"""Kinds that are listed in full whatever the limit: they are what a review is for."""


class Row(Value, frozen=True):
    """One action; `before` and `after` are sizes in bytes, None for absence.

    `details` are what it does to the entry, None where that was not looked at. `twins` are other
    names that a reader could take for this one.
    """

    kind: str
    key: str
    before: int | None
    after: int | None
    reason: str
    details: Details | None = None
    twins: tuple[str, ...] = ()


class EndLine(Value, frozen=True):
    """One end in words; `cas` is its level, `promises` what that and its durability mean."""

    kind: str
    location: str
    label: str
    cas: str
    promises: str


class FindingLine(Value, frozen=True):
    """Something that whoever reviews should know, of one entry or (`key` None) of the plan.

    `line` is that of its content. `digest` names what a policy found, and is what an override
    takes.
    """

    level: str
    rule: str
    key: str | None
    text: str
    line: int | None = None
    digest: str | None = None

    @property
    def place(self) -> str:
        """Where it is: the key, with the line where it is about one; empty for the plan."""
        return (self.key or "") + (f", line {self.line}" if self.line is not None else "")


class AuditHead(Value, frozen=True):
    """Where the plan's audit log stands: the number of its last record, its digest and event."""

    seq: int
    digest: str
    event: str
    time: str


class ApprovalLine(Value, frozen=True):
    """What one signed decision was worth when the review was made, and why.

    `worth` is `counts`, `blocks` or `nothing`; `principal` and `decision` are empty for what is no
    statement.
    """

    principal: str
    decision: str
    worth: str
    why: str
    comment: str


class Heading(Value, frozen=True):
    """What is known of a plan before its actions are looked at.

    `found` counts its findings; where a review is cut, fewer are in `findings`.
    """

    name: str
    plan_id: str
    effect: str
    source: EndLine
    target: EndLine
    options: str
    summary: Summary
    findings: tuple[FindingLine, ...]
    created: str
    expires: str | None
    tool: str
    author: str | None = None
    audit: AuditHead | None = None
    approvals: tuple[ApprovalLine, ...] = ()
    found: int = 0


class Document(Value, frozen=True):
    """Everything that a renderer needs.

    `rows` by kind, in key order; `omitted` counts those left out. `unread` counts, by kind, the
    entries whose contents were not looked at although they could be; `why` says why nothing, or
    nothing more, was read (empty where only the bounds ended it). `unasked` counts, by kind, the
    actions that `--only` and `--key` left out.
    """

    heading: Heading
    rows: dict[str, list[Row]]
    omitted: dict[str, int]
    unread: dict[str, int]
    why: str
    unasked: dict[str, int] = msgspec.field(default_factory=dict)


def head(
    opened: OpenPlan,
    *,
    name: str,
    audit: AuditHead | None = None,
    approvals: Iterable[Standing] = (),
) -> Heading:
    """Describe a plan as a whole."""
    plan = opened.plan
    author = plan.tail.provenance.author
    return Heading(
        name=spaced(name),
        plan_id=plan.plan_id,
        effect=plan.tail.effect,
        source=_end(plan.head.source),
        target=_end(plan.head.target),
        options=_options(opened),
        summary=plan.tail.summary,
        findings=tuple(_finding(finding) for finding in plan.tail.findings),
        created=plan.tail.provenance.created,
        expires=plan.tail.provenance.expires,
        tool=inert(plan.tail.provenance.tool),
        author=spaced(author) if author is not None else None,
        audit=audit,
        approvals=tuple(map(_approval, approvals)),
        found=len(plan.tail.findings),
    )


def describe(
    opened: OpenPlan,
    heading: Heading,
    looked: Looked,
    *,
    limit: int | None = 200,
    only: str | None = None,
    key: str | None = None,
) -> Document:
    """Describe a plan's actions; `limit` rows of each kind that may be cut, None for all.

    `only` keeps one kind of action, `key` those whose key matches a glob; both leave the totals as
    they are, and what they leave out is counted.
    """
    rows: dict[str, list[Row]] = {kind: [] for kind in KINDS}
    omitted = dict.fromkeys(KINDS, 0)
    unasked = dict.fromkeys(KINDS, 0)
    left = msgspec.structs.asdict(opened.plan.tail.summary)
    for named, line in opened.named():
        kind = named.action
        left[kind] -= 1
        if not asked(kind, named.key, only, key):
            unasked[kind] += 1
            continue
        if limit is not None and kind not in NEVER_CUT and len(rows[kind]) >= limit:
            omitted[kind] += 1  # without a row: making one costs ten times as much as counting it
            if key is None and not any(left[other] for other in KINDS if other != kind):
                omitted[kind] += left[kind]
                break
        else:
            rows[kind].append(_row(action_of(line), looked))
    return Document(
        heading=heading,
        rows=rows,
        omitted=omitted,
        unread=dict(looked.left),
        why=looked.why,
        unasked=unasked,
    )


def bare(heading: Heading) -> Document:
    """The document without the actions: its totals, ends and findings."""
    none: dict[str, list[Row]] = {kind: [] for kind in KINDS}
    return Document(heading=heading, rows=none, omitted=dict.fromkeys(KINDS, 0), unread={}, why="")


def _approval(one: Standing) -> ApprovalLine:
    return ApprovalLine(
        principal=spaced(one.principal),
        decision=inert(one.decision),
        worth=one.worth,
        why=inert(f"{one.name}: {one.why}" if not one.principal else one.why),
        comment=spaced(one.comment),
    )


def _finding(finding: Finding) -> FindingLine:
    return FindingLine(
        level=finding.level,
        rule=inert(finding.rule),
        key=spaced(finding.key) if finding.key is not None else None,
        text=spaced(finding.text),
        line=finding.line,
        digest=finding.digest,
    )


def _row(action: AnyAction, looked: Looked) -> Row:
    match action:
        case Create():
            before = action.before.bytes if action.before is not None else None
            return _of(action, before, action.after.bytes, looked)
        case Overwrite():
            return _of(action, action.before.bytes, action.after.bytes, looked)
        case Delete():
            return _of(action, action.before.bytes, None, looked)
        case Skip():
            return _of(action, action.before.bytes, action.before.bytes, looked)
        case Blocked():
            return _of(action, None, None, looked)
        case _:
            assert_never(action)


def _of(action: AnyAction, before: int | None, after: int | None, looked: Looked) -> Row:
    return Row(
        kind=kind_of(action),
        key=spaced(action.key),
        before=before,
        after=after,
        reason=spaced(action.reason),
        details=looked.details.get(action.key),
        twins=tuple(spaced(twin) for twin in looked.twins.get(action.key, ())),
    )


def _end(end: End) -> EndLine:
    promises = {
        "atomic": "writes are conditional",
        "guarded": "writes are guarded by re-reading",
        "none": "writes are not guarded",
    }[end.capabilities.cas]
    durable = "durable" if end.capabilities.durability == "synced" else "durability unknown"
    return EndLine(
        kind=end.kind,
        location=spaced(end.location),
        label=spaced(end.label),
        cas=end.capabilities.cas,
        promises=f"{promises}, {durable}",
    )


def _options(opened: OpenPlan) -> str:
    options = opened.plan.head.options
    return inert(", ".join(_said(options.overwrite, options.delete, options.compare)))


def _said(overwrite: bool, delete: bool, compare: str) -> Iterator[str]:
    yield "overwriting is " + ("on" if overwrite else "off")
    yield "deleting is " + ("on" if delete else "off")
    if compare == "content":
        yield "metadata is not compared"


def approval(one: ApprovalLine) -> str:
    """A decision in one line."""
    who = f"{one.decision} by {one.principal}" if one.principal else "no statement"
    comment = f'; it says "{one.comment}"' if one.comment else ""
    return f"{one.worth}: {who}: {one.why}{comment}"


def totals(summary: Summary) -> str:
    """The sentence that everybody looks for first."""
    return (
        f"Plan: {summary.create} to create, {summary.overwrite} to overwrite, "
        f"{summary.delete} to delete."
    )


def rest(summary: Summary) -> str:
    """What the plan leaves alone, in one sentence."""
    parts = [
        f"{summary.skip} skipped",
        f"{summary.blocked} blocked",
        f"{summary.unchanged} unchanged",
    ]
    if summary.target_only:
        parts.append(f"{summary.target_only} only in the target (kept)")
    if summary.ignored:
        parts.append(
            f"{summary.ignored} other {'file' if summary.ignored == 1 else 'files'} ignored"
        )
    return ", ".join(parts) + f"; {size(summary.bytes)} to write."


def cut(document: Document) -> str:
    """Which rows are left out, by kind, in one sentence; empty when none is."""
    return _counted("NOT SHOWN HERE:", document.omitted)


def unasked(document: Document) -> str:
    """Which actions were not asked for, by kind, in one sentence; empty when all were."""
    return _counted("NOT ASKED FOR, AND NOT SHOWN HERE:", document.unasked)


def _counted(what: str, counts: Mapping[str, int]) -> str:
    parts = [f"{counts[kind]} {kind}" for kind in GRAVEST if counts.get(kind)]
    return f"{what} {', '.join(parts)}." if parts else ""


def unread(document: Document) -> str:
    """Which contents were not looked at, and why, in one or two sentences; empty when all were."""
    return " ".join(filter(None, (hidden(document), document.why)))


def hidden(document: Document) -> str:
    """Which contents are not shown, by kind, in words of ours alone; empty when all are."""
    return _counted("CONTENTS NOT SHOWN HERE: of", document.unread)


def drifted(document: Document) -> str:
    """How many rows tell of drift, in one sentence; empty when none does."""
    count = sum(
        row.details is not None and row.details.drift != ""
        for rows in document.rows.values()
        for row in rows
    )
    if not count:
        return ""
    are = "is" if count == 1 else "are"
    return f"DRIFT: {count} of the entries shown here {are} not as planned any more; plan again."


def warnings(document: Document) -> list[str]:
    """What a reader must not miss, in words of ours alone, one sentence each."""
    told = (drifted(document), unasked(document), cut(document), hidden(document))
    return [text for text in told if text]


def lines_changed(details: Details | None) -> str:
    """`-2 +1`: whole lines of content that go and come; empty where the content stays."""
    if details is None or details.content is None:
        return ""
    return f"-{details.content.removed} +{details.content.added}"


def size(count: int | None) -> str:
    """A number of bytes for people: `812 B`, `2.0 KiB`, `1.4 MiB`."""
    if count is None:
        return ""
    if count < 1024:
        return f"{count} B"
    number, unit = count / 1024, "KiB"
    for larger in ("MiB", "GiB"):
        if number < 1024:
            break
        number, unit = number / 1024, larger
    return f"{number:.1f} {unit}"


def sizes(row: Row) -> str:
    """The size of a row: one number, or two where it changes."""
    if row.kind == "overwrite" and row.before != row.after:
        return f"{size(row.before)} → {size(row.after)}"
    return size(row.after if row.after is not None else row.before)
