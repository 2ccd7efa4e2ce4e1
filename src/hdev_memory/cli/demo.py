"""`hdev demo`: the whole workflow on a throw-away example, with a real server."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from hdev_memory.config import Settings

SAMPLE: dict[str, tuple[str, dict[str, object]]] = {
    "global": ("Answer in English. Ask before deleting anything.\n", {}),
    "people/ann": ("Ann prefers short answers and metric units.\n", {"tags": ["person"]}),
    "projects/apollo": ("# Apollo\n\nShips on Fridays. Never deploy after 15:00.\n", {"team": "a"}),
    "projects/apollo/v1.2": ("Release notes: the export is fixed.\n", {"status": "released"}),
    "runbooks/restore": ("1. Stop writers.\n2. Restore.\n3. Verify.\n", {"owner": "ops"}),
}
ON_SERVER: dict[str, tuple[str, dict[str, object]]] = {
    "people/ann": ("Ann prefers long answers.\n", {"tags": ["person"]}),
    "old/scratch": ("Nothing that anybody needs.\n", {}),
}


def demo(
    keep: Annotated[bool, typer.Option("--keep", help="Keep the folder of the example.")] = False,
) -> int:
    """Plan, review, apply, verify, refuse drift, and check the audit log, on an example of its own.

    It starts a memory server on a free loopback port with a random key, and leaves nothing behind.
    """
    from hdev_memory.cli.context import say

    folder = Path(tempfile.mkdtemp(prefix="hdev-demo-"))
    try:
        _tell(folder)
        say()
        say(f"The example is in {folder}." if keep else "Nothing of this is left behind.")
        return 0
    finally:
        if not keep:
            shutil.rmtree(folder)


def _tell(folder: Path) -> None:
    import secrets
    import sys

    from hdev_memory import apply as engine
    from hdev_memory import plandir
    from hdev_memory.backends.base import Secret
    from hdev_memory.backends.filesystem import FilesystemBackend
    from hdev_memory.cli import audit, context, steps
    from hdev_memory.cli.context import say
    from hdev_memory.config import EndFlags, load, resolve
    from hdev_memory.review import terminal
    from hdev_memory.server.app import create_app
    from hdev_memory.server.run import serve_in_thread
    from hdev_memory.server.store import store_identity

    laptop, served = folder / "laptop", folder / "server"
    _fill(laptop, SAMPLE)
    _fill(served, ON_SERVER)
    key = Secret(secrets.token_urlsafe(24))
    backend = FilesystemBackend(str(served), must_exist=True)
    app = create_app(backend, store_id=store_identity(served), api_key=key)
    with serve_in_thread(app) as url:
        settings: Settings = load({}, folder, folder)
        source = EndFlags(kind="filesystem", path=str(laptop))
        target = EndFlags(kind="http", url=url, api_key=key)
        resolved = resolve(settings, source, target)
        wish = steps.Wish(overwrite=True, delete=True)
        say(f"1. A memory server runs on {url}; a laptop keeps {len(SAMPLE)} notes.")
        say("   hdev plan laptop server --overwrite --delete")
        say()
        with steps.opened_ends(resolved.source, resolved.target) as ends:
            review = steps.Reviewer(ends)
            with steps.make_plan(
                resolved, ends, wish, folder / "plan", folder, review=review
            ) as opened:
                text = terminal.render(
                    review(opened, "plan"),
                    width=context.width(),
                    colour=context.colour(sys.stdout),
                )
                say(text)
                say("2. hdev apply plan")
                with steps.held(opened) as journal:
                    outcome, receipt = steps.carry_out(
                        opened, ends, journal, policy=str, approvals=tuple
                    )
                steps.print_outcome(opened, outcome, receipt)
                right, wrong = engine.verify(opened, ends[1])
                say()
                say("3. hdev verify plan")
                say(f"Verified: {right} as planned, {len(wrong)} differ.")
            say()
            say("4. Another plan is made, and then somebody edits a note on the server.")
            _fill(laptop, {"people/ann": ("Ann prefers tables.\n", {"tags": ["person"]})})
            with steps.make_plan(resolved, ends, wish, folder / "late", folder) as late:
                _fill(served, {"people/ann": ("Ann is on leave.\n", {"tags": ["person"]})})
                try:
                    with steps.held(late) as journal:
                        steps.carry_out(late, ends, journal, policy=str, approvals=tuple)
                except engine.DriftFound as error:
                    steps.tell_drift(error, late, ends)
                    say(f"Refused: {error.what}")
                else:
                    raise AssertionError("a drifted plan was applied")
    say()
    say(f"5. hdev audit verify plan --head {receipt.head}")
    audit.audit_verify(folder / "plan" / plandir.PLAN, head=str(receipt.head))


def _fill(root: Path, entries: dict[str, tuple[str, dict[str, object]]]) -> None:
    from hdev_memory.backends.filesystem_files import encode_metadata

    for key, (content, metadata) in entries.items():
        path = root / f"{key}.md"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        (root / f"{key}.metadata.json").write_bytes(encode_metadata(metadata))
