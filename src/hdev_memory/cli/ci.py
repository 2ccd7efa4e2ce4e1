"""`hdev ci`: a plan in the review of a pull request; each command is one step of a pipeline."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from hdev_memory.cli import options as flags

if TYPE_CHECKING:
    from hdev_memory.forge.base import Forge
    from hdev_memory.plandir import OpenPlan
    from hdev_memory.review.document import Document

SUMMARY_BYTES = 1024 * 1024
"""What GitHub takes of one step's summary; of a longer one it shows nothing."""

ROWS = 10_000
"""Of each harmless kind so many are described, before what does not fit is cut."""

ForgeName = Annotated[
    Literal["github", "gitlab"] | None,
    typer.Option(
        "--forge", metavar="FORGE", help="github or gitlab; else the one that runs the pipeline."
    ),
]
Repository = Annotated[
    str | None,
    typer.Option("--repository", metavar="NAME", help="OWNER/NAME, or GitLab's project id."),
]
Number = Annotated[
    int | None,
    typer.Option("--number", metavar="N", min=1, help="Of the pull request or merge request."),
]
ApiUrl = Annotated[
    str | None, typer.Option("--api", metavar="URL", help="Where the forge's API is.")
]
NoContent = Annotated[
    bool, typer.Option("--no-content", help="Leave what entries hold out of the review.")
]


def ci_comment(
    plan: flags.PlanPlace,
    forge: ForgeName = None,
    repository: Repository = None,
    number: Number = None,
    api: ApiUrl = None,
    max_bytes: Annotated[
        int | None,
        typer.Option(
            "--max-bytes",
            metavar="N",
            min=1,
            help="Keep the comment within N bytes; the most is what the forge takes.",
        ),
    ] = None,
    no_content: NoContent = False,
) -> int:
    """Write the review of PLAN as a comment, found again by a hidden marker.

    The comment of the same plan is updated. Those of earlier plans for the same ends are struck
    through. The token comes from GITHUB_TOKEN or GH_TOKEN, or from GITLAB_TOKEN.
    """
    from hdev_memory import plandir
    from hdev_memory.cli import context
    from hdev_memory.forge import comment
    from hdev_memory.review import bounded, markdown

    with (
        plandir.load(plan) as opened,
        _reached(forge, repository, number, api) as reached,
    ):
        marker = comment.Marker.of(opened.plan)
        body = bounded.fit(
            _described(opened, no_content),
            lambda described: comment.current(marker, markdown.render(described)),
            min(max_bytes or reached.limit_bytes, reached.limit_bytes),
        )
        done = comment.publish(reached, marker, body)
    context.say(f"Comment {done}: {marker.plan_id}.")
    return 0


def _described(opened: OpenPlan, no_content: bool) -> Document:
    """The review of a plan; its ends lie where the configuration and the plan say."""
    from hdev_memory.cli import context, steps
    from hdev_memory.config import EndFlags
    from hdev_memory.review import document, reading

    looked = (
        steps.unread(opened)
        if no_content
        else steps.look(
            opened,
            context.settings(),
            EndFlags(),
            EndFlags(),
            shared_api_key=None,
            insecure_http=False,
            bounds=reading.BRIEF,
        )
    )
    heading = steps.heading(opened, context.settings())
    return document.describe(opened, heading, looked, limit=ROWS)


def ci_labels(
    plan: flags.PlanPlace,
    forge: ForgeName = None,
    repository: Repository = None,
    number: Number = None,
    api: ApiUrl = None,
) -> int:
    """Label the pull request with what PLAN does that is hardest to undo.

    One of: `hdev: no changes`, `hdev: creates`, `hdev: overwrites`, `hdev: deletes`. The other
    three are removed, and no other label is touched.
    """
    from hdev_memory import plandir
    from hdev_memory.cli import context
    from hdev_memory.forge import labels

    with (
        plandir.load(plan) as opened,
        _reached(forge, repository, number, api) as reached,
    ):
        label = labels.label_of(opened.plan.tail.summary)
        reached.set_label(label, labels.FAMILY)
    context.say(f"Label {label}.")
    return 0


def ci_summary(plan: flags.PlanPlace, out: flags.Out = None, no_content: NoContent = False) -> int:
    """Add the review of PLAN, as Markdown, to the file that GITHUB_STEP_SUMMARY names.

    It keeps to the 1 MiB that a step's summary may have in all; what is cut is counted.
    """
    import os

    from hdev_memory import plandir
    from hdev_memory.review import bounded, markdown

    path = out or _from_runner(os.environ, "GITHUB_STEP_SUMMARY")
    with plandir.load(plan) as opened:
        text = bounded.fit(
            _described(opened, no_content),
            lambda described: "\n" + markdown.render(described),
            max(1, SUMMARY_BYTES - (path.stat().st_size if path.is_file() else 0)),
        )
    _write(path, text, append=True)
    return 0


def ci_outputs(plan: flags.PlanPlace, forge: ForgeName = None, out: flags.Out = None) -> int:
    """Tell later steps about PLAN: GitHub's outputs, or the dotenv file of a GitLab job.

    They are: changes, to_create, to_overwrite, to_delete, skipped, blocked, plan_id, effect,
    expires, source and target. For GitHub they are added to the file that GITHUB_OUTPUT names; for
    GitLab, --out is replaced.
    """
    import os
    import secrets

    from hdev_memory import plandir
    from hdev_memory.errors import UsageError
    from hdev_memory.forge import outputs

    with plandir.load(plan) as opened:
        values = outputs.outputs(opened.plan)
    if _named(forge, os.environ) == "github":
        text = outputs.github(values, lambda: f"hdev-{secrets.token_hex(16)}")
        _write(out or _from_runner(os.environ, "GITHUB_OUTPUT"), text, append=True)
    elif out is None:
        raise UsageError(
            "It is not known where the outputs go.",
            hint="Give --out FILE, and name that file in `artifacts:reports:dotenv`.",
        )
    else:
        _write(out, outputs.dotenv(values), append=False)
    return 0


def ci_report(
    plan: flags.PlanPlace,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="The file to write.")],
    forge: Annotated[
        Literal["gitlab"],
        typer.Option("--forge", metavar="FORGE", help="gitlab: the one that takes such a report."),
    ] = "gitlab",
) -> int:
    """Write the report that the widget of a merge request shows.

    Name the file in `artifacts:reports:terraform`. Overwrites are its updates.
    """
    from hdev_memory import plandir
    from hdev_memory.forge import gitlab

    with plandir.load(plan) as opened:
        _write(out, gitlab.report(opened.plan.tail.summary), append=False)
    return 0


@contextlib.contextmanager
def _reached(
    forge: str | None, repository: str | None, number: int | None, api: str | None
) -> Iterator[Forge]:
    """The pull request of the flags, and of the environment for what they do not say."""
    import os

    from hdev_memory.forge import FORGES
    from hdev_memory.forge.base import Wish

    kind = FORGES[_named(forge, os.environ)]
    place = kind.place(os.environ, Wish(api=api, repository=repository, number=number))
    with contextlib.closing(kind(place, kind.token(os.environ))) as reached:
        yield reached


def _named(forge: str | None, environ: Mapping[str, str]) -> str:
    from hdev_memory.errors import UsageError

    if forge is not None:
        return forge
    if environ.get("GITHUB_ACTIONS") == "true":
        return "github"
    if environ.get("GITLAB_CI") == "true":
        return "gitlab"
    raise UsageError(
        "It is not known which forge is meant.", hint="Give --forge github or --forge gitlab."
    )


def _from_runner(environ: Mapping[str, str], name: str) -> Path:
    """The file that the runner names in a variable. Raises UsageError."""
    from hdev_memory.errors import UsageError

    if not environ.get(name):
        raise UsageError(
            "It is not known where to write.", why=f"{name} is not set.", hint="Give --out FILE."
        )
    return Path(environ[name])


def _write(path: Path, text: str, *, append: bool) -> None:
    from hdev_memory.errors import HdevError

    try:
        with path.open("ab" if append else "wb") as file:
            file.write(text.encode())
    except OSError as error:
        raise HdevError(
            "The file cannot be written.",
            why=f"{path}: {error.strerror}.",
            hint="Give another file with --out.",
        ) from None
