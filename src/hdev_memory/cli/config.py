"""`hdev config`: what is set, where it comes from, and whether it is right."""

from __future__ import annotations

from typing import Annotated

import typer

from hdev_memory.cli import options as flags


def config_show(json: flags.Json = False) -> int:
    """Show each setting and where it comes from; keys are never shown."""
    from hdev_memory.cli import context
    from hdev_memory.config import DEFAULT_STORE, DEFAULT_TIMEOUT, SECRET_NAMES, Value
    from hdev_memory.review.inert import inert

    settings = context.settings()
    defaults = {
        "filesystem.path": Value(str(settings.home / DEFAULT_STORE), "default"),
        "http.timeout": Value(str(DEFAULT_TIMEOUT), "default"),
    }
    secret = SECRET_NAMES | {"source.api_key", "target.api_key"}
    rows = [
        (name, "(set)" if name in secret else value.value, value.origin)
        for name, value in sorted({**defaults, **settings.values}.items())
    ]
    if settings.approvals is not None:
        rows += [
            (f"approvals.{name}", value, settings.approvals.origin)
            for name, value in settings.approvals.shown()
        ]
    environments = [
        (item.name, item.endpoint, "(set)" if item.key else "(none)", item.origin)
        for item in settings.environments.values()
    ]
    if json:
        names = ("name", "endpoint", "key", "origin")
        context.print_json(
            {
                "settings": [
                    dict(zip(("name", "value", "origin"), row, strict=True)) for row in rows
                ],
                "environments": [dict(zip(names, row, strict=True)) for row in environments],
            }
        )
        return 0
    for name, value, origin in rows:
        context.say(inert(f"{name} = {value}   ({origin})"))
    for name, endpoint, key, origin in environments:
        context.say(inert(f"environment {name} = {endpoint}, key {key}   ({origin})"))
    return 0


def config_check(
    online: Annotated[
        bool, typer.Option("--online", help="Also open the endpoint of every environment.")
    ] = False,
    json: flags.Json = False,
) -> int:
    """Read the whole configuration; exit 1 and say where when something is wrong.

    The files that [approvals] names are read as well; exit 6 when they cannot be used.
    """
    from hdev_memory.backends import open_backend
    from hdev_memory.cli import context, eventlines, gate, policing
    from hdev_memory.config import EndFlags, resolve
    from hdev_memory.errors import HdevError
    from hdev_memory.review.inert import inert

    with eventlines.told(json=json) as lines:
        settings = context.settings()
        gate.rules(settings, gate.Asked())
        policing.for_planning(settings, None)
        looked = tuple(settings.environments) if online else ()
        wrong = 0
        for name in looked:
            why = ""
            try:
                end = resolve(settings, EndFlags(), EndFlags(endpoint=name)).target
                with open_backend(end.where, must_exist=True):
                    pass
            except HdevError as error:
                wrong += 1
                why = str(error)
            lines.emit(eventlines.Endpoint(name=name, reachable=not why, why=why))
            if not lines.on_stdout:
                context.say(inert(f"{name}: {why or 'reachable'}"))
        status = 9 if wrong else 0
        lines.emit(
            eventlines.ConfigEnding(
                exit=status, environments=len(settings.environments), unreachable=wrong
            )
        )
        if not lines.on_stdout:
            context.say("ok" if not wrong else f"{wrong} of {len(looked)} not reachable")
        return status
