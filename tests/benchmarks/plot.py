"""The plot beside the page: how many times as fast as each peer, with the aims, as one SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence

from jinja2 import Environment

from tests.benchmarks.aims import AIMS
from tests.benchmarks.page import rows
from tests.benchmarks.results import Measured, Run

_LEFT, _RIGHT, _WIDTH = 520, 90, 1060
_LINE, _HEAD, _TOP = 22, 30, 78

_TEMPLATE = """\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {{ width }} {{ height }}" width="{{ width }}"
 height="{{ height }}" role="img" aria-labelledby="title about">
<title id="title">{{ title }}</title>
<desc id="about">{{ about }}</desc>
<style>
 svg { --ground: #fff; --ink: #1f2328; --faint: #59636e; --grid: #d1d9e0; --one: #59636e;
  --met: #1a7f37; --missed: #cf222e; --doubt: #9a6700; --plain: #0969da; --aim: #1f2328; }
 @media (prefers-color-scheme: dark) { svg { --ground: #0d1117; --ink: #f0f6fc; --faint: #9198a1;
  --grid: #3d444d; --one: #9198a1; --met: #3fb950; --missed: #f85149; --doubt: #d29922;
  --plain: #4493f8; --aim: #f0f6fc; } }
 text { font: 13px system-ui, -apple-system, "Segoe UI", sans-serif; fill: var(--ink); }
 .head { font-weight: 600; } .title { font-size: 17px; font-weight: 600; }
 .faint { fill: var(--faint); } .end { text-anchor: end; } .middle { text-anchor: middle; }
 .met { fill: var(--met); } .missed { fill: var(--missed); } .doubt { fill: var(--doubt); }
 .plain { fill: var(--plain); }
 .grid { stroke: var(--grid); } .one { stroke: var(--one); stroke-width: 1.5; }
 .aim { stroke: var(--aim); stroke-width: 2.5; }
</style>
<rect width="100%" height="100%" style="fill: var(--ground)"/>
<text class="title" x="16" y="26">{{ title }}</text>
{%- for kind, said, x in legend %}
{%- if kind == "aim" %}
<line class="aim" x1="{{ x + 6 }}" x2="{{ x + 6 }}" y1="36" y2="50"/>
{%- else %}
<rect class="{{ kind }}" x="{{ x }}" y="38" width="12" height="10"/>
{%- endif %}
<text class="faint" x="{{ x + 18 }}" y="48">{{ said }}</text>
{%- endfor %}
{%- for x, said in ticks %}
<line class="{{ 'one' if said == '1' else 'grid' }}" x1="{{ x }}" x2="{{ x }}" y1="{{ top }}"
 y2="{{ height - 14 }}"/>
<text class="faint middle" x="{{ x }}" y="{{ top - 6 }}">{{ said }} &#215;</text>
{%- endfor %}
{%- for head, y in heads %}
<text class="head" x="16" y="{{ y }}">{{ head }}</text>
{%- endfor %}
{%- for bar in bars %}
<text class="end" x="{{ left - 10 }}" y="{{ bar.y + 12 }}">{{ bar.name }}</text>
<rect class="{{ bar.kind }}" x="{{ bar.x }}" y="{{ bar.y + 1 }}" width="{{ bar.length }}"
 height="14"/>
{%- if bar.aim is not none %}
<line class="aim" x1="{{ bar.aim }}" x2="{{ bar.aim }}" y1="{{ bar.y - 2 }}" y2="{{ bar.y + 18 }}"/>
{%- endif %}
<text class="faint" x="{{ bar.label }}" y="{{ bar.y + 12 }}">{{ bar.said }} &#215;</text>
{%- endfor %}
</svg>
"""
_KINDS = {"met": "met", "not met": "missed", "too noisy to tell": "doubt", "": "plain"}
_LONGEST_NAME = 74


def svg(runs: Sequence[Run]) -> str:
    """Bars from 1 to the ratio on a logarithmic axis: to the right hdev is faster."""
    found = [
        (benchmark.name, row, row.speed)
        for benchmark, row in rows(runs)
        if isinstance(row, Measured) and row.speed is not None
    ]
    marks = [speed for _, _, speed in found] + [_aim(row) or 1.0 for _, row, _ in found] + [1.0]
    low = math.floor(math.log10(min(marks)) * 2) / 2
    high = math.ceil(math.log10(max(marks)) * 2) / 2
    high = max(high, low + 0.5)

    def place(speed: float) -> float:
        share = (math.log10(speed) - low) / (high - low)
        return round(_LEFT + share * (_WIDTH - _LEFT - _RIGHT), 1)

    bars: list[dict[str, object]] = []
    heads: list[tuple[str, int]] = []
    y, last = _TOP + 4, ""
    for name, row, speed in found:
        if name != last:
            y += _HEAD - _LINE if last else 0
            heads.append((name, y + 16))
            y, last = y + _LINE, name
        ends = sorted((place(1.0), place(speed)))
        aim = _aim(row)
        bars.append(
            {
                "y": y,
                "x": ends[0],
                "length": max(round(ends[1] - ends[0], 1), 1.0),
                "kind": _KINDS[row.verdict],
                "name": _short(row.name),
                "aim": place(aim) if aim is not None else None,
                "label": max(ends[1], place(aim) if aim is not None else 0.0) + 8,
                "said": f"{speed:.2f}" if speed < 10 else f"{speed:.0f}",
            }
        )
        y += _LINE
    steps = (10**power * step for power in range(-4, 6) for step in (1, 2, 5))
    inside = [step for step in steps if low - 1e-9 <= math.log10(step) <= high + 1e-9]
    if high - low > 2:
        inside = [step for step in inside if math.log10(step).is_integer()]
    return (
        Environment(autoescape=True)
        .from_string(_TEMPLATE)
        .render(
            width=_WIDTH,
            height=y + 20,
            top=_TOP,
            left=_LEFT,
            title="Times as fast as the peer, on a logarithmic axis",
            about="Bars to the right of 1 are faster than the peer. "
            + "; ".join(f"{bar['name']}: {bar['said']}" for bar in bars),
            legend=[
                ("met", "aim met", 16),
                ("missed", "not met", 106),
                ("doubt", "too noisy to tell", 192),
                ("plain", "no aim", 328),
                ("aim", "the aim", 406),
            ],
            ticks=[(place(step), f"{step:g}") for step in inside],
            heads=heads,
            bars=bars,
        )
        + "\n"
    )


def _aim(row: Measured) -> float | None:
    """The aim as a speed."""
    if row.aim is None:
        return None
    bound = AIMS[row.aim].bound
    return 1 / bound if row.unit == "s" else bound


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1] + "…"
