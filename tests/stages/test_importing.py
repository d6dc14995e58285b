"""Human data on the way to the policy trainer: what is imported, and what an objective reads."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from align.data.shards import read_records
from align.errors import DataError
from align.recipe.sections import Recipe
from align.records import Pair, Sample, Score
from align.stages.folder import RunFolder
from align.stages.history import Rows
from align.stages.importing import import_human_data
from align.stages.training import policy, readable_by

LABELLED = [
    {"prompt": "1+1=", "completion": "2", "label": True},
    {"prompt": "1+1=", "completion": "3", "label": False},
    {"prompt": "2+2=", "completion": "4", "label": True},
]
PREFERENCES = [
    {"prompt": "1+1=", "chosen": "2", "rejected": "3"},
    {"prompt": "2+2=", "chosen": "4", "rejected": "5"},
]
SHOWN = [{"prompt": "1+1=", "completion": "2"}, {"prompt": "2+2=", "completion": "4"}]


def make_run(
    model: Path, out: Path, rows: Sequence[Mapping[str, object]], objective: dict[str, object]
) -> RunFolder:
    """A run whose import step is done."""
    out.mkdir(parents=True)
    data = out / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = Recipe.model_validate(
        {
            "policy": {"path": str(model), "chat_template": "plain"},
            "train": {
                "data": {"path": str(data)},
                "objective": objective,
                "global_batch_size": 2,
                "micro_batch_size": 2,
            },
        }
    )
    run = RunFolder(recipe, out)
    step = next(step for step in run.steps() if step.kind == "import")
    run.folder(step.name).mkdir(parents=True)
    import_human_data(run, step)
    return run


def imported(run: RunFolder) -> tuple[list[str], list[tuple[str, str]], dict[str, float | None]]:
    """Texts of the samples, of the pairs' sides, and text -> score."""
    folder = run.out / "iter-000" / "data"
    texts = {s.sample_id: s.text for s in read_records(folder / "samples", Sample)}
    pairs = read_records(folder / "pairs", Pair)
    scores = read_records(folder / "scores", Score)
    return (
        sorted(texts.values()),
        sorted((texts[pair.chosen], texts[pair.rejected]) for pair in pairs),
        {texts[score.sample_id]: score.value for score in scores},
    )


def test_labelled_completions_become_scores(tiny_llama: Path, tmp_path: Path) -> None:
    run = make_run(tiny_llama, tmp_path / "run", LABELLED, {"name": "kto"})
    assert imported(run) == (["2", "3", "4"], [], {"2": 1.0, "3": -1.0, "4": 1.0})


def test_preferences_become_pairs(tiny_llama: Path, tmp_path: Path) -> None:
    run = make_run(tiny_llama, tmp_path / "run", PREFERENCES, {"name": "dpo"})
    assert imported(run) == (["2", "3", "4", "5"], [("2", "3"), ("4", "5")], {})


def test_a_row_of_another_kind_is_refused(tiny_llama: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected prompt, completion and label"):
        make_run(tiny_llama, tmp_path / "run", [*LABELLED, *SHOWN], {"name": "kto"})


def test_an_empty_source_is_refused(tiny_llama: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"rows|empty|no "):
        make_run(tiny_llama, tmp_path / "run", [], {"name": "dpo"})


@pytest.mark.parametrize(
    ("rows", "samples"),
    [(LABELLED, 2), (PREFERENCES, 2), (SHOWN, 2)],
    ids=["labelled", "preferences", "demonstrations"],
)
def test_imitation_trains_on_what_is_wanted(
    tiny_llama: Path, tmp_path: Path, rows: Sequence[Mapping[str, object]], samples: int
) -> None:
    """Two wanted completions each; the third label and the rejected sides are left out."""
    run = make_run(tiny_llama, tmp_path / "run", rows, {"name": "imitation"})
    step = next(step for step in run.steps() if step.kind == "policy")
    assert policy(run, step)["counts"]["samples"] == samples


def test_scores_reach_an_objective_that_reads_them(tiny_llama: Path, tmp_path: Path) -> None:
    """REINFORCE on labels: +1, -1 and +1 as advantages of three samples."""
    run = make_run(tiny_llama, tmp_path / "run", LABELLED, {"name": "reinforce"})
    step = next(step for step in run.steps() if step.kind == "policy")
    counts = policy(run, step)["counts"]
    assert (counts["samples"], counts["unscored"]) == (3, 0)


def test_pairs_are_taken_apart_for_an_objective_of_scores(tiny_llama: Path, tmp_path: Path) -> None:
    """Chosen "2" and "4" are wanted, "3" and "5" are not; "6" wins one pair and loses the other."""
    rows = [
        *PREFERENCES,
        *({"prompt": "3+3=", "chosen": a, "rejected": b} for a, b in ("67", "76")),
    ]
    run = make_run(tiny_llama, tmp_path / "run", rows, {"name": "kto"})
    folder = run.out / "iter-000" / "data"
    samples, pairs = read_records(folder / "samples", Sample), read_records(folder / "pairs", Pair)
    found = readable_by(frozenset({"scores", "ref_logps", "mismatched"}), Rows(samples, [], pairs))
    assert found.pairs == [] and len(found.scores) == len(found.samples) == 4
    texts = {sample.sample_id: sample.text for sample in found.samples}
    values = {texts[score.sample_id]: score.value for score in found.scores}
    assert values == {"2": 1.0, "3": -1.0, "4": 1.0, "5": -1.0}


def test_data_of_the_wrong_kind_are_refused() -> None:
    """dpo on labels, kto on demonstrations."""
    labels, shown = Rows(scores=[Score("a", 1.0)]), Rows()
    with pytest.raises(DataError, match="has no preferences, and the objective reads pairs"):
        readable_by(frozenset({"pairs", "ref_logps"}), labels)
    with pytest.raises(DataError, match="has no labels, and the objective reads them"):
        readable_by(frozenset({"scores", "ref_logps", "mismatched"}), shown)
    assert readable_by(frozenset({"scores"}), labels) is labels
