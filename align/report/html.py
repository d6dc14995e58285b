"""`report.html` (one file, no scripts, no network) and `report.json`: what a run measured and what
it dropped.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from html import escape
from pathlib import Path

from align.records import Json
from align.report.alarms import alarms
from align.report.chart import line_chart
from align.report.choices import loop_choices, loop_line
from align.report.diagnostics import diagnostics, is_distribution
from align.report.summary import Point, Summary
from align.report.table import SECONDS
from align.stages.manifest import Manifest, write_json
from align.stages.step import plain

STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:84rem;margin:2rem auto;padding:0 1rem}
body{color:#1c2330;background:#fff}
h1{font-size:1.5rem;margin:0}h2{font-size:1.05rem;margin:2rem 0 .5rem}.dim{color:#667}
table{border-collapse:collapse;font-variant-numeric:tabular-nums;display:block;overflow-x:auto}
td,th{padding:.25rem .8rem .25rem 0;text-align:right;border-bottom:1px solid #e4e7ec}
td,th{white-space:nowrap}
td:first-child,th:first-child{text-align:left}td.wide{white-space:normal;text-align:left}
td svg{display:block}
.charts{display:flex;flex-wrap:wrap;gap:1.2rem}pre{background:#f6f7f9;padding:1rem;overflow:auto}
"""

CURVE = re.compile(r"stop/.+/\d+")

METRICS = (
    ("pass@1", "pass@1"),
    ("majority", "majority vote"),
    ("weighted_majority", "weighted vote"),
    ("score", "mean score"),
    ("gain", "gain in score"),
    ("kl", "KL (nats)"),
    ("tokens", "tokens"),
    ("distinct_2", "distinct bigrams"),
    ("at_limit", "at limit"),
)


def write_report(summary: Summary) -> Path:
    """Writes both files into the run folder; returns the path of the page."""
    write_json(summary.out / "report.json", _data(summary))
    path = summary.out / "report.html"
    path.write_text(_page(summary), encoding="utf-8")
    return path


def _data(summary: Summary) -> dict[str, object]:
    return {
        "finished": summary.finished,
        "refused": summary.refused,
        "seconds": summary.seconds,
        "loop": loop_choices(summary.recipe),
        "verdict": asdict(summary.verdict),
        "recipe": None if summary.refused else _strict(plain(summary.recipe)),
        "policies": [asdict(point) for point in summary.points],
        "steps": [
            {
                "step": step.name,
                "kind": step.kind,
                **(
                    {
                        name: value
                        for name, value in asdict(manifest).items()
                        if name
                        in ("content", "counts", "metrics", "seconds", "finished", "from_cache")
                    }
                    if manifest
                    else {}
                ),
            }
            for step, manifest in summary.steps
        ],
    }


def _strict(value: Json) -> Json:
    """Infinite numbers as the recipe writes them: JSON has none, and other readers than Python's
    would refuse the whole file.
    """
    if isinstance(value, Mapping):
        return {name: _strict(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_strict(each) for each in value]
    if isinstance(value, float) and math.isinf(value):
        return ".inf" if value > 0 else "-.inf"
    return value


def _page(summary: Summary) -> str:
    name = summary.recipe.run.name or summary.out.name
    recipe = (summary.out / "recipe.yaml").read_text(encoding="utf-8", errors="replace")
    state = "finished" if summary.finished else "not finished"
    state = "refused" if summary.refused else f"{state} &middot; seed {summary.recipe.run.seed}"
    body = [
        f"<h1>{escape(name)}</h1>",
        f"<p class=dim>{escape(str(summary.out))} &middot; {summary.seconds:.0f} s of steps "
        f"&middot; {state}</p>",
        *(f"<p>{escape(line)}</p>" for line in _loop_lines(summary)),
        *(
            f"<p><b>warning</b> {escape(step.name)}: {escape(line)}</p>"
            for step, manifest in summary.steps
            if manifest is not None
            for line in alarms(step, manifest)
        ),
        _charts(summary),
        _policies(summary.points),
        diagnostics(summary),
        _steps(summary),
        "<h2>Recipe, fully resolved</h2>",
        f"<pre>{escape(recipe)}</pre>",
    ]
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{escape(name)}</title>"
        "<meta name=viewport "
        f"content='width=device-width'><style>{STYLE}</style><body>{''.join(body)}</body></html>"
    )


def _loop_lines(summary: Summary) -> list[str]:
    """Whether the recipe is refused, the loop's choices, why it ended early and what it results
    in.
    """
    refused = [f"note: {summary.refused}"] if summary.refused else []
    line = loop_line(summary.recipe)
    return refused + ([f"loop: {line}"] if line else []) + summary.ending.splitlines()


def _shown(points: Sequence[Point]) -> list[tuple[str, str]]:
    parts = sorted(
        {name for point in points for name in point.metrics if name.startswith("score/")}
    )
    named = [
        *METRICS,
        *((name, name.removeprefix("score/") + " (source)") for name in parts if len(parts) > 1),
    ]
    return [
        (key, title) for key, title in named if any(point.mean(key) is not None for point in points)
    ]


def _charts(summary: Summary) -> str:
    """A chart for each metric that moves, and one for the curve by which SFT was stopped."""
    charts = []
    for key, title in _shown(summary.points):
        kept = [(p.name, p.mean(key), p.bounds(key)) for p in summary.points]
        marks = [(name, mean, bounds) for name, mean, bounds in kept if mean is not None]
        if len({f"{mean:.3g}" for _, mean, _ in marks}) > 1:
            charts.append(line_chart(title, marks))
    title = "Held-out prompts, policy by policy"
    return f"<h2>{title}</h2><div class=charts>{''.join(charts)}</div>" if charts else ""


def _curve(manifest: Manifest) -> str:
    """The metric that SFT was stopped by, at each check (`stop/NAME/STEP` in the metrics)."""
    points = sorted(
        (int(name.rsplit("/", 1)[1]), float(value))
        for name, value in manifest.metrics.items()
        if CURVE.fullmatch(name) and isinstance(value, int | float)
    )
    if len(points) < 2:
        return ""
    every = max(1, len(points) // 5)
    marks = [
        (str(step) if i % every == 0 else "", value, None) for i, (step, value) in enumerate(points)
    ]
    return line_chart("held-out score while training, by step", marks)


def _policies(points: Sequence[Point]) -> str:
    if not points:
        return ""
    shown = _shown(points)
    head = "".join(f"<th>{escape(title)}</th>" for _, title in shown)
    head += "".join(f"<th class=dim>{name} s</th>" for name in SECONDS)
    rows = []
    for point in points:
        cells = "".join(f"<td>{_cell(point, key)}</td>" for key, _ in shown)
        cells += "".join(f"<td class=dim>{point.seconds.get(name, 0):.1f}</td>" for name in SECONDS)
        rows.append(f"<tr><td>{escape(point.name)}</td>{cells}</tr>")
    note = (
        "Brackets: 95 % percentile bootstrap over prompts. The gain in score over the first "
        "policy is paired by prompt; the KL is to the first policy, in nats a sequence."
    )
    return f"<table><tr><th>policy</th>{head}</tr>{''.join(rows)}</table><p class=dim>{note}</p>"


def _cell(point: Point, key: str) -> str:
    mean, bounds = point.mean(key), point.bounds(key)
    if mean is None:
        return "-"
    return (
        f"{mean:.3f}"
        if bounds is None
        else f"{mean:.3f} <span class=dim>[{bounds[0]:.3f}, {bounds[1]:.3f}]</span>"
    )


def _steps(summary: Summary) -> str:
    rows = []
    for step, manifest in summary.steps:
        if manifest is None:
            rows.append(
                f"<tr><td>{escape(step.name)}</td><td></td><td class='wide dim'>not "
                "finished</td></tr>"
            )
            continue
        facts = ", ".join(
            f"{value:,} {name.replace('_', ' ')}" for name, value in manifest.counts.items()
        )
        plain = {
            name: value
            for name, value in manifest.metrics.items()
            if isinstance(value, int | float)
            and not (CURVE.fullmatch(name) or is_distribution(name))
        }
        facts += "; " * bool(facts and plain) + ", ".join(f"{k} {v:.4g}" for k, v in plain.items())
        rows.append(
            f"<tr><td>{escape(step.name)}</td><td>{manifest.seconds:.1f} s</td><td "
            f"class=wide>{escape(facts)}{_curve(manifest)}</td></tr>"
        )
    return f"<h2>Steps: what each made, kept and dropped</h2><table>{''.join(rows)}</table>"
