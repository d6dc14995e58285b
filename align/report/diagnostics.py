"""What a method says of itself beyond its score: RSO's sampler, and how far a policy gradient has
left its samples (ALGORITHMS 4.1, 7.7).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from html import escape
from itertools import islice

from align.records import Json
from align.report.chart import bar_chart, curve_chart
from align.report.summary import Summary
from align.stages.manifest import Manifest

BIN = re.compile(r"log_ratio/(positives|negatives)/\[(.+),(.+)\)")
LENGTH = re.compile(r"(alpha/negatives(?:_alive)?)/length/(\d+)")
CURVES: Mapping[str, Mapping[str, str]] = {
    "effective share of positives, by step": {"effective_positive_share": ""},
    "weight of negatives, by step": {
        "alpha/negatives": "mean",
        "alpha/negatives_alive": "share above .05",
    },
    "gradient norm, by step": {
        "grad_norm/positives": "positives",
        "grad_norm/negatives": "negatives",
        "grad_norm": "all",
    },
    "KL from the sampler, nats a sequence": {"kl/sampler": ""},
}
"""Title -> logged name -> name in the legend."""
POINTS = 120
"""Of a curve: a chart of this size shows no more."""
LATE = 0.25
"""Share of the steps, the last ones, that histograms and the table by length are averaged over."""

Log = Sequence[Mapping[str, float]]


def is_distribution(name: str) -> bool:
    """Whether a metric is one bin of many, which charts show better than a list."""
    return bool(BIN.fullmatch(name) or LENGTH.fullmatch(name))


def diagnostics(summary: Summary) -> str:
    """HTML of both parts; empty where the run has neither."""
    selected, trained = [], []
    for step, manifest in summary.steps:
        if manifest is not None and step.kind == "select":
            selected.append(_selection_row(step.name, manifest))
        if manifest is not None and step.kind == "policy":
            trained.append(_policy(summary, step.name, manifest))
    parts = []
    if selected:
        head = "".join(f"<th>{escape(title)}</th>" for title, _ in SELECTED)
        note = (
            "The acceptance rate is that of the first sweep, expected E[exp((r - r_max) / beta)]; "
            "the effective sample size is (sum w)&sup2; / sum w&sup2; of these weights over a "
            "prompt&rsquo;s distinct candidates. Scores and tokens: means over prompts that kept "
            "something; all counts repeats, which the sampler takes once, so that kept may lie "
            "below it."
        )
        parts.append(
            f"<h2>Selection</h2><table><tr><th>step</th>{head}</tr>{''.join(selected)}</table>"
            f"<p class=dim>{note}</p>"
        )
    if any(trained):
        parts.append(f"<h2>Policy gradient, against its samples</h2>{''.join(trained)}")
    return "".join(parts)


def _metric(name: str) -> Callable[[Manifest], str]:
    return lambda manifest: _number(manifest.metrics.get(name))


def _share(name: str) -> Callable[[Manifest], str]:
    """Of all prompts."""

    def read(manifest: Manifest) -> str:
        if name not in manifest.counts:
            return "-"
        return f"{manifest.counts[name] / max(1, manifest.counts['prompts']):.1%}"

    return read


SELECTED: Sequence[tuple[str, Callable[[Manifest], str]]] = (
    ("accepted", _metric("acceptance/rate")),
    ("expected", _metric("acceptance/expected")),
    ("effective samples", _metric("effective_samples")),
    ("distinct", _metric("candidates_distinct")),
    ("prompts short", _share("short")),
    ("all right", _share("all_right")),
    ("all wrong", _share("all_wrong")),
    ("score, all", _metric("score/all")),
    ("kept", _metric("score/kept")),
    ("tokens, all", _metric("tokens/all")),
    ("kept", _metric("tokens/kept")),
)
"""Columns: title, and what stands there."""


def _selection_row(name: str, manifest: Manifest) -> str:
    cells = "".join(f"<td>{read(manifest)}</td>" for _, read in SELECTED)
    return f"<tr><td>{escape(name)}</td>{cells}</tr>"


def _policy(summary: Summary, name: str, manifest: Manifest) -> str:
    """Empty where the objective weighs no positives against negatives."""
    if "advantage/positive_share" not in manifest.metrics:
        return ""
    log = _read_log(summary, name)
    charts = [*_curves(log), *_histogram(log)]
    return (
        f"<p><b>{escape(name)}</b>: {escape(_settings(manifest))}</p>"
        f"<div class=charts>{''.join(charts)}</div>{_by_length(log)}"
    )


def _settings(manifest: Manifest) -> str:
    """The objective and ratio level that ran, the baseline and what it made of the positives."""
    metrics, said = manifest.metrics, []
    section = manifest.key.get("section")
    objective = section.get("objective") if isinstance(section, Mapping) else None
    if isinstance(objective, Mapping):
        said.append(f"objective {objective.get('name')}")
        if "ratio_level" in objective:
            said.append(f"ratio level {objective['ratio_level']}")
    said.append(
        f"positives {_number(metrics.get('advantage/positive_share'))} of the samples, "
        f"{_number(metrics.get('advantage/effective_positive_share'))} of the weight"
    )
    if "advantage/constant" in metrics:
        said.append(f"baseline c = {_number(metrics['advantage/constant'])}")
    return "; ".join(said)


def _read_log(summary: Summary, name: str) -> Log:
    """The step's log; empty where it was published or copied without."""
    path = summary.out / name / "log.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def _curves(log: Log) -> list[str]:
    charts = []
    for title, names in CURVES.items():
        curves: dict[str, list[tuple[float, float]]] = {}
        for logged, shown in names.items():
            points = [(entry["step"], entry[logged]) for entry in log if logged in entry]
            if len(points) > 1:
                every = -(-len(points) // POINTS)
                curves[shown] = list(islice(points, 0, None, every))
        if curves and not (len(names) > 2 and len(curves) == 1):  # all without its parts
            charts.append(curve_chart(title, curves))
    return charts


def _histogram(log: Log) -> list[str]:
    shares: dict[str, dict[float, float]] = {}
    for logged, value in _late(log).items():
        found = BIN.fullmatch(logged)
        if found:
            shares.setdefault(found[1], {})[float(found[2])] = value
    if not shares:
        return []
    lows = sorted({low for bins in shares.values() for low in bins})
    bars = {sign: [bins.get(low, 0.0) for low in lows] for sign, bins in shares.items()}
    names = ["<" if math.isinf(low) else f"{low:g}" for low in lows]
    return [bar_chart("log pi/mu of sequences, from (last quarter)", names, bars)]


def _by_length(log: Log) -> str:
    late = _late(log)
    cells: dict[int, dict[str, float]] = {}
    for logged, value in late.items():
        found = LENGTH.fullmatch(logged)
        if found:
            cells.setdefault(int(found[2]), {})[found[1]] = value
    rows = "".join(
        f"<tr><td>{1 if length == 2 else length // 2 + 1} to {length}</td>"
        f"<td>{_number(values.get('alpha/negatives'))}</td>"
        f"<td>{_number(values.get('alpha/negatives_alive'))}</td></tr>"
        for length, values in sorted(cells.items())
    )
    head = "<tr><th>tokens</th><th>mean weight of negatives</th><th>share above .05</th></tr>"
    return f"<table>{head}{rows}</table>" if rows else ""


def _late(log: Log) -> dict[str, float]:
    """Mean of each logged name over the last quarter of the steps."""
    values: dict[str, list[float]] = {}
    for entry in log[-max(1, round(len(log) * LATE)) :] if log else ():
        for name, value in entry.items():
            values.setdefault(name, []).append(value)
    return {name: sum(found) / len(found) for name, found in values.items()}


def _number(value: Json) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) else "-"
