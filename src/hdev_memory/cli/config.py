"""`hdev config`: what is set, where it comes from, and whether it is right."""

from __future__ import annotations

from typing import Annotated

import typer

from hdev_memory.cli import options as flags


def config_show(json: flags.Json = False, json_into: flags.JsonInto = None) -> int:
    """Show each setting and where it comes from; keys are never shown."""
    from hdev_memory.cli import context, eventlines
    from hdev_memory.config import DEFAULT_STORE, DEFAULT_TIMEOUT, SECRET_NAMES, Value
    from hdev_memory.review.inert import inert

    with eventlines.told(json=json, into=json_into) as lines:
        settings = context.settings()
        defaults = {
            "filesystem.path": Value(str(settings.home / DEFAULT_STORE), "default"),
            "http.timeout": Value(str(DEFAULT_TIMEOUT), "default"),
        }
        secret = SECRET_NAMES | {"source.api_key", "target.api_key"}
        shown = [
            eventlines.Setting(name, None if name in secret else value.value, value.origin)
            for name, value in sorted({**defaults, **settings.values}.items())
        ]
        if settings.approvals is not None:
            origin = settings.approvals.origin
            shown += [
                eventlines.Setting(f"approvals.{name}", value, origin)
                for name, value in settings.approvals.shown()
            ]
        environments = [
            eventlines.Environment(item.name, item.endpoint, item.key is not None, item.origin)
            for item in settings.environments.values()
        ]
        for line in (*shown, *environments):
            lines.emit(line)
        lines.emit(eventlines.ConfigShowEnding(0, len(shown), len(environments)))
        if lines.on_stdout:
            return 0
        for setting in shown:
            value = "(set)" if setting.value is None else setting.value
            context.say(inert(f"{setting.name} = {value}   ({setting.origin})"))
        for item in environments:
            key = "(set)" if item.key else "(none)"
            place = f"environment {item.name} = {item.endpoint}"
            context.say(inert(f"{place}, key {key}   ({item.origin})"))
        return 0


def config_check(
    online: Annotated[
        bool, typer.Option("--online", help="Also open the endpoint of every environment.")
    ] = False,
    json: flags.Json = False,
    json_into: flags.JsonInto = None,
) -> int:
    """Read the whole configuration; exit 1 and say where when something is wrong.

    The files that [approvals] names are read as well; exit 6 when they cannot be used.
    """
    from hdev_memory import trust
    from hdev_memory.backends import open_backend
    from hdev_memory.cli import context, eventlines, gate, policing
    from hdev_memory.config import EndFlags, resolve
    from hdev_memory.errors import HdevError
    from hdev_memory.review.inert import inert

    with eventlines.told(json=json, into=json_into) as lines:
        settings = context.settings()
        gate.rules(settings, gate.Asked())
        policing.readable(settings)
        digest = gate.digest_of(settings, trust.Checkout())
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
                exit=status,
                environments=len(settings.environments),
                unreachable=wrong,
                trust_digest=digest,
            )
        )
        if not lines.on_stdout:
            context.say(f"Trust digest {digest}")
            context.say("ok" if not wrong else f"{wrong} of {len(looked)} not reachable")
        return status
