"""Reading a run: tables, page and JSON from hand-made manifests."""

from __future__ import annotations

import json
from dataclasses import replace
from html import escape
from pathlib import Path

import pytest
from rich.console import Console

from align.cli import main
from align.data.shards import write_part
from align.records import Score
from align.report.chart import line_chart
from align.report.html import write_report
from align.report.summary import Summary, read_run
from align.report.table import closing_tables
from align.stages.manifest import Manifest, write_manifest
from align.stages.step import Verdict
from align.stages.steps import plan

RECIPE = """
run: {name: made-up <b>, iterations: 1}
policy: {path: org/sft}
prompts: {path: org/prompts, per_iteration: 8}
generate: {name: vllm, n: 4}
score: {name: exact_match}
pair: {name: max_min}
train: {objective: {name: dpo}, global_batch_size: 8}
evaluate: {prompts: {path: org/prompts, split: test}}
"""
MEASURED = {
    "start": {"score": {"mean": 0.25, "low": 0.2, "high": 0.3}},
    "iter-000": {
        "score": {"mean": 0.5, "low": 0.45, "high": 0.55},
        "gain": {"mean": 0.25, "low": 0.2, "high": 0.29},
        "kl": {"mean": 1.5, "low": 1.4, "high": 1.6},
    },
}


@pytest.fixture
def made_up(tmp_path: Path) -> Summary:
    """A finished run: each step took 2 s."""
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    for number, step in enumerate(plan(read_run(tmp_path).recipe)):
        measured = MEASURED[step.name.split("/")[0]] if step.kind == "evaluate" else {}
        metrics = {**measured, "pass@1": measured["score"]} if measured else {}
        when = f"2026-01-01T00:00:{number:02}"
        manifest = Manifest(step.name, step.kind, {}, "c0ffee", {"rows": 3}, metrics, 2.0, when)
        write_manifest(tmp_path / step.name, manifest)
    return read_run(tmp_path)


def _text(summary: Summary) -> str:
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    for table in closing_tables(summary):
        console.print(table)
    return console.export_text()


def test_the_tables_fit_80_columns_and_show_every_number(made_up: Summary) -> None:
    text = _text(made_up)
    assert "…" not in text
    heads = "policy pass@1 [95 %] score gain in score [95 %] KL tokens"
    assert " ".join(text.splitlines()[0].split()) == heads
    row = next(line for line in text.splitlines() if line.startswith("iter-000"))
    expected = "iter-000 0.500 [0.450, 0.550] 0.500 +0.250 [+0.200, +0.290] 1.50 -"
    assert " ".join(row.split()) == expected
    assert "start     0.250 [0.200, 0.300]" in text


def test_a_run_that_kept_its_first_policy_has_nothing_to_publish(made_up: Summary) -> None:
    assert made_up.ending == "" and made_up.has_model
    stopped = replace(made_up, verdict=Verdict(0, "start", "the KL is 3"))
    first = "kept   the policy that the loop began with"
    assert (
        stopped.ending == f"stop   after iteration 0: the KL is 3\n{first}; nothing new to publish"
    )
    assert not stopped.has_model
    best = replace(made_up, verdict=Verdict(None, "iter-000"))
    assert best.ending == "kept   iter-000/checkpoint: the best held-out score"
    worst = replace(made_up, verdict=Verdict(None, "start"))
    assert worst.ending == f"{first}: the best held-out score; nothing new to publish"


def test_seconds_are_summed_by_kind(made_up: Summary) -> None:
    """iter-000 samples twice (its own prompts and the evaluation's), trains once."""
    point = made_up.points[1]
    assert point.seconds == {
        "other": 4.0,
        "sample": 4.0,
        "score": 4.0,
        "train": 2.0,
        "evaluate": 2.0,
    }
    assert made_up.seconds == 2.0 * len(made_up.steps) and made_up.finished


def test_the_page_holds_the_numbers_and_escapes_names(made_up: Summary) -> None:
    page = write_report(made_up).read_text()
    assert "0.500 <span class=dim>[0.450, 0.550]</span>" in page
    assert "<th>gain in score</th>" in page
    assert "made-up &lt;b&gt;" in page and "<b>" not in page
    assert page.count("<svg") == 2, "pass@1 and score move; gain and KL have one point"
    report = json.loads((made_up.out / "report.json").read_text())
    assert report["policies"][1]["metrics"]["gain"]["mean"] == 0.25 and report["finished"] is True


def test_an_unfinished_run_says_so(made_up: Summary) -> None:
    (made_up.out / "iter-000" / "checkpoint" / "manifest.json").unlink()
    summary = read_run(made_up.out)
    assert not summary.finished
    assert "not finished" in write_report(summary).read_text()


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("score: {", "skore: {", ":6: skore is not a key of a recipe; did you mean"),
        ("iterations: 1}", "iterations: 2, patience: 0}", ":2: run.patience must be more than 0"),
        ("iterations: 1}", "iterations: 1", ":3: YAML: "),
        ("score: {name: exact_match}", "", ":7: pair needs"),
    ],
)
def test_a_run_whose_recipe_is_refused_today_is_shown_all_the_same(
    old: str, new: str, says: str, made_up: Summary, capsys: pytest.CaptureFixture[str]
) -> None:
    """By its manifests alone; a cache's entry inside the folder is no step of it."""
    recipe = made_up.out / "recipe.yaml"
    recipe.write_text(RECIPE.replace(old, new))
    entry = Manifest("iter-000/samples", "generate", {}, "", {"rows": 77}, {}, 2.0, "2026")
    write_manifest(made_up.out / "cache" / "generate" / "c0ffee", entry)
    assert main(["show", str(made_up.out)]) == 0
    refusal, *lines = capsys.readouterr().out.splitlines()
    assert refusal.startswith("today's rules refuse the recipe, so only what is finished is shown:")
    assert f"{recipe}{says}" in refusal
    shown = {line.split()[0] for line in lines if "3 rows" in line}
    assert shown == {step.name for step, _ in made_up.steps}
    assert any("iter-000  0.500 [0.450, 0.550]" in line for line in lines)
    assert "77" not in "".join(lines)
    assert main(["report", str(made_up.out)]) == 0
    assert refusal in capsys.readouterr().out
    page = (made_up.out / "report.html").read_text()
    assert escape(refusal) in page and escape(recipe.read_text()) in page
    report = json.loads((made_up.out / "report.json").read_text())
    assert report["refused"] == refusal and report["recipe"] is None
    assert [point["name"] for point in report["policies"]] == ["start", "iter-000"]
    write_part(made_up.out / "iter-000" / "scores", 0, [Score("s0", 1.0)], Score)
    assert main(["show", str(made_up.out), "--id", "s0"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == refusal
    assert main(["run", str(recipe), "--out", str(made_up.out)]) == 2


def test_chart_puts_the_larger_value_higher() -> None:
    chart = line_chart("score", [("a", 0.0, None), ("b", 1.0, (0.5, 1.5))])
    (points,) = [part.split('"')[1] for part in chart.split("<polyline ")[1:]]
    (_, low), (_, high) = [tuple(map(float, point.split(","))) for point in points.split()]
    assert high < low, "SVG counts y from the top"
