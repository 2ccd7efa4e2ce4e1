"""`hdev schema`: the JSON Schemas of what this program writes for other programs."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

import typer

Form = Literal["plan", "audit", "events", "review"]
FORMS: tuple[Form, ...] = get_args(Form)


def schema(
    form: Annotated[
        Form,
        typer.Argument(
            metavar="plan|audit|events|review",
            help="plan.json, a line of audit.jsonl, an event line, or a review as JSON.",
        ),
    ],
) -> int:
    """Print a JSON Schema (draft 2020-12) of what this program writes.

    plan: a whole plan.json. audit: one line of audit.jsonl. events: one line of what --json writes.
    review: what `hdev show --format json` writes.
    """
    import json

    from hdev_memory.cli import context

    context.say(json.dumps(document(form), indent=2))
    return 0


def document(form: Form) -> dict[str, Any]:
    """The schema of a form, from the Structs that the program writes it with."""
    from hdev_memory.cli import eventlines
    from hdev_memory.core import audit, plan
    from hdev_memory.core.schema import schema as of
    from hdev_memory.review import json as review

    match form:
        case "plan":
            return of([plan.PlanFile], name=plan.FORMAT, about="A whole plan.json.")
        case "audit":
            return of([audit.Record], name=audit.FORMAT, about="One line of audit.jsonl.")
        case "events":
            about = """\
                One line of what `--json` and `--json-into` write. The first line is the version,
                the last one a summary or an error. This is what the version that printed it
                writes; a later one may add types and members, which readers do well to ignore."""
            return of(eventlines.kinds(), name=eventlines.FORMAT, about=about)
        case "review":
            about = "What `hdev show --format json` writes."
            return of([review.Review], name=review.FORMAT, about=about)
