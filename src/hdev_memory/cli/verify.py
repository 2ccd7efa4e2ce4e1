"""`hdev verify`: is the target as the plan leaves it?"""

from __future__ import annotations

from hdev_memory.cli import options as flags


def verify(
    plan: flags.PlanPlace,
    expect: flags.Expect = None,
    target_path: flags.TargetPath = None,
    target_url: flags.TargetUrl = None,
    api_key: flags.ApiKey = None,
    target_api_key: flags.TargetApiKey = None,
    insecure_http: flags.InsecureHttp = False,
    json: flags.Json = False,
    json_into: flags.JsonInto = None,
) -> int:
    """Re-read the target and compare it with PLAN; exit 3 where it differs."""
    import contextlib

    from hdev_memory import apply as engine
    from hdev_memory import plandir
    from hdev_memory.backends import open_backend
    from hdev_memory.cli import context, eventlines, steps
    from hdev_memory.cli.progress import Shown
    from hdev_memory.config import EndFlags, resolve

    with contextlib.ExitStack() as stack:
        lines = stack.enter_context(eventlines.told(json=json, into=json_into))
        opened = stack.enter_context(plandir.load(plan))
        steps.check_expected(opened, expect)
        shared, own = steps.from_argv(api_key, target_api_key)
        settings = context.settings()
        source, target = steps.ends_of(
            settings, opened, EndFlags(), EndFlags(path=target_path, url=target_url, api_key=own)
        )
        # Only the target is looked at; the source may be out of reach here.
        resolved = resolve(
            settings, EndFlags(), target, shared_api_key=shared, insecure_http=insecure_http
        )
        backend = stack.enter_context(open_backend(resolved.target.where, must_exist=False))
        with Shown(lines) as shown:
            engine.check_end("target", opened.plan.head.target, backend)
            right, wrong = engine.verify(opened, backend, shown.emit)
        differ = steps.compared_with_source(opened, settings, source, backend, wrong)
        for mismatch in wrong:
            found = differ.get(mismatch.key, ())
            lines.emit(eventlines.Drift(side="target", **vars(mismatch), metadata=found))
            context.note(f"Differs: {mismatch.key}")
            steps.tell_states(mismatch.expected, mismatch.found, found)
        status = 3 if wrong else 0
        lines.emit(
            eventlines.VerifyEnding(
                exit=status, plan_id=opened.plan.plan_id, as_planned=right, differ=len(wrong)
            )
        )
        if not lines.on_stdout:
            context.say(f"Verified: {right} as planned, {len(wrong)} differ.")
        return status
