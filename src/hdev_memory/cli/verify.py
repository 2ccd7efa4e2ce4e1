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
) -> int:
    """Re-read the target and compare it with PLAN; exit 3 where it differs."""
    from hdev_memory import apply as engine
    from hdev_memory import plandir
    from hdev_memory.backends import open_backend
    from hdev_memory.cli import context, steps
    from hdev_memory.cli.progress import Shown
    from hdev_memory.config import EndFlags, resolve

    with plandir.load(plan) as opened:
        steps.check_expected(opened, expect)
        shared, own = steps.from_argv(api_key, target_api_key)
        settings = context.settings()
        _, target = steps.ends_of(
            settings, opened, EndFlags(), EndFlags(path=target_path, url=target_url, api_key=own)
        )
        # Only the target is looked at; the source may be out of reach here.
        resolved = resolve(
            settings, EndFlags(), target, shared_api_key=shared, insecure_http=insecure_http
        )
        with open_backend(resolved.target.where, must_exist=False) as backend, Shown() as shown:
            engine.check_end("target", opened.plan.head.target, backend)
            right, wrong = engine.verify(opened, backend, shown.emit)
        if json:
            differ = [vars(mismatch) for mismatch in wrong]
            context.print_json({"type": "summary", "as_planned": right, "differ": differ})
        else:
            for mismatch in wrong:
                context.note(f"Differs: {mismatch.key}")
                context.note(f"  planned  {mismatch.expected}")
                context.note(f"  found    {mismatch.found}")
            context.say(f"Verified: {right} as planned, {len(wrong)} differ.")
        return 3 if wrong else 0
