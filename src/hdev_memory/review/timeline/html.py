"""The timeline as one HTML page that stands alone: no script, no network, light and dark."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator

import jinja2
from markupsafe import Markup

from hdev_memory.review.timeline.story import Closing, Opening, Part, Row, Totals, summed_up

_STYLE = """
:root { color-scheme: light dark; --line: #8886; --bad: #b3261e; --done: #1b6e3c; }
@media (prefers-color-scheme: dark) { :root { --bad: #ff8a80; --done: #7ddc9f; } }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.05rem; margin: 2rem 0 .3rem; }
code, td { font-family: ui-monospace, monospace; font-size: .85rem; overflow-wrap: anywhere; }
table { border-collapse: collapse; width: 100%; }
th, td { border-bottom: 1px solid var(--line); padding: .2rem .6rem .2rem 0; text-align: left;
  vertical-align: top; }
th { font-weight: 600; } .bad { color: var(--bad); } .done { color: var(--done); }
footer { margin-top: .3rem; }
"""

_DIGEST = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
POLICY = f"default-src 'none'; style-src 'sha256-{_DIGEST}'; base-uri 'none'; form-action 'none'"
"""What the page may do in a browser: apply this one style sheet, and nothing else."""

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{{ policy }}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<title>Audit log of {{ totals.plan }}</title>
<style>{{ style }}</style>
</head>
<body>
<main>
<h1>Audit log</h1>
<p>Plan <code>{{ totals.plan }}</code><br>
{{ totals.records }} records of {{ totals.runs }} runs, an intact chain{% if totals.records %} from
<time>{{ totals.first }}</time> to <time>{{ totals.last }}</time>{% endif %}<br>
Head <code>{{ totals.head }}</code></p>
{% for part in parts -%}
{% if part.kind == "opening" -%}
<section>
<h2>{{ part.it.title }} by {{ part.it.actor }}</h2>
<p><time>{{ part.it.time }}</time>, run <code>{{ part.it.run }}</code></p>
<table>
<thead><tr><th scope="col">time</th><th scope="col">event</th><th scope="col">entry</th>\
<th scope="col">before -&gt; after</th><th scope="col">remark</th></tr></thead>
<tbody>
{% elif part.kind == "row" -%}
<tr id="r{{ part.it.seq }}"><td>{{ part.it.time[11:-1] }}</td>\
<td class="{{ part.it.tone }}">{{ part.it.event }}</td>\
<td>{{ part.it.action }} {{ part.it.key }}</td><td>{{ part.it.change }}</td>\
<td>{{ part.it.remark }}</td></tr>
{% else -%}
</tbody>
</table>
<footer class="{{ part.it.tone }}">{{ summed_up(part.it) }}</footer>
</section>
{% endif -%}
{% endfor -%}
</main>
</body>
</html>
"""


def render(totals: Totals, parts: Iterator[Part]) -> Iterator[str]:
    """The page in pieces, with flat memory."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, keep_trailing_newline=True
    )
    page = environment.from_string(_PAGE)
    pieces = page.stream(
        policy=POLICY,
        style=Markup(_STYLE),  # noqa: S704 - it is ours
        totals=totals,
        parts=map(_kinded, parts),
        summed_up=summed_up,
    )
    pieces.enable_buffering(200)
    return pieces


def _kinded(part: Part) -> dict[str, object]:
    match part:
        case Opening():
            kind = "opening"
        case Row():
            kind = "row"
        case Closing():
            kind = "closing"
    return {"kind": kind, "it": part}
