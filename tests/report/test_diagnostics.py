"""The report's parts on RSO's sampler and on TOPR's weights, from a run written by hand."""

from __future__ import annotations

import json
import re
from pathlib import Path

from align.report.chart import bar_chart, curve_chart
from align.report.diagnostics import is_distribution
from align.report.html import write_report
from align.report.summary import read_run
from align.stages.manifest import Manifest, write_manifest
from align.stages.steps import plan

RECIPE = """
policy: {path: org/base}
prompts: {path: org/prompts}
generate: {name: vllm, n: 4}
score: {name: exact_match, wrong: -1.0}
select: {name: statistical_rejection}
train: {objective: {name: topr, ratio_level: geometric}, global_batch_size: 8}
"""
SELECTED = {"acceptance/rate": 0.25, "acceptance/expected": 0.26, "effective_samples": 3.5} | {
    "score/all": 1.5,
    "score/kept": 2.5,
}
TRAINED = {"advantage/positive_share": 0.7, "advantage/effective_positive_share": 0.15} | {
    "advantage/constant": 0.859375,
    "log_ratio/negatives/[-5,-3)": 0.125,
}


def _write(out: Path) -> str:
    """Four steps; the last alone is the last quarter."""
    (out / "recipe.yaml").write_text(RECIPE)
    for step in plan(read_run(out).recipe):
        counts = {"prompts": 8, "short": 2} if step.kind == "select" else {"rows": 3}
        metrics = {"select": SELECTED, "policy": TRAINED}.get(step.kind, {})
        key = {"section": step.section}
        write_manifest(
            out / step.name,
            Manifest(step.name, step.kind, key, "c0ffee", counts, dict(metrics), 2.0, "2026"),
        )
    lines = [
        {
            "step": step,
            "loss": 1.0,
            "kl/sampler": 0.5 * step,
            "effective_positive_share": 0.5 + 0.1 * step,
            "log_ratio/negatives/[-5,-3)": 0.25 * step - 0.25,
            "log_ratio/negatives/[-inf,-10)": 0.0,
            "alpha/negatives/length/64": 0.75 if step == 4 else 1.0,
            "alpha/negatives_alive/length/64": 0.5,
        }
        for step in range(1, 5)
    ]
    log = out / "iter-000" / "checkpoint" / "log.jsonl"
    log.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return write_report(read_run(out)).read_text()


def test_the_page_tells_acceptance_shortage_and_what_selection_changed(tmp_path: Path) -> None:
    page = _write(tmp_path)
    row = re.search(r"<tr><td>iter-000/selected</td>(.*?)</tr>", page)
    assert row is not None
    cells = re.findall(r"<td>(.*?)</td>", row[1])
    assert cells == ["0.25", "0.26", "3.5", "-", "25.0%", "-", "-", "1.5", "2.5", "-", "-"]


def test_the_page_names_the_ratio_level_and_the_derived_baseline(tmp_path: Path) -> None:
    page = _write(tmp_path)
    assert "objective topr; ratio level geometric; positives 0.7 of the samples" in page
    assert "0.15 of the weight; baseline c = 0.8594" in page


def test_the_last_quarter_gives_weights_by_length_and_the_histogram(tmp_path: Path) -> None:
    page = _write(tmp_path)
    assert "<tr><td>33 to 64</td><td>0.75</td><td>0.5</td></tr>" in page
    chart = page[page.index("log pi/mu of sequences") :].split("</svg>")[0]
    names = re.findall(r'font-size="9"[^>]*>(.*?)</text>', chart)
    assert names == ["&lt;", "-5"]
    # the last step's shares are 0 and .75, the top is .75 * 1.08, and the plot 136 high
    heights = [float(height) for height in re.findall(r'<rect.*? height="(.*?)"', chart)]
    assert heights[0] == 0 and abs(heights[1] - 136 / 1.08) < 0.1


def test_bins_stand_in_charts_and_not_among_the_numbers(tmp_path: Path) -> None:
    page = _write(tmp_path)
    assert "log_ratio/negatives/[" not in page
    assert is_distribution("alpha/negatives_alive/length/64")
    assert not is_distribution("alpha/negatives")


def test_charts_of_one_point_or_nothing_are_whole() -> None:
    assert curve_chart("one", {"": [(1.0, 2.0)]}).count("polyline") == 1
    assert "rect" not in bar_chart("none", [], {})


def test_an_infinite_temperature_leaves_the_json_readable_by_all(tmp_path: Path) -> None:
    """`Infinity` is Python's own word; the page and the data say what the recipe says."""
    recipe = RECIPE.replace("statistical_rejection}", "statistical_rejection, beta: .inf, keep: 2}")
    (tmp_path / "recipe.yaml").write_text(recipe)
    page = write_report(read_run(tmp_path)).read_text()
    text = (tmp_path / "report.json").read_text()
    assert "Infinity" not in text and "beta: .inf" in page
    assert json.loads(text)["recipe"]["select"]["beta"] == ".inf"
