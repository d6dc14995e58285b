"""What an evaluation says of verdicts: pass@k, plain votes, votes weighed by a second source."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest

from align import registry
from align.data.shards import write_part
from align.errors import RecipeError
from align.recipe.sections import Recipe
from align.records import Json, Prompt, Sample, Score
from align.stages.evaluating import VERIFIERS, summarise_scores
from align.stages.folder import RunFolder
from align.stages.steps import plan

PROMPT = Prompt.of("2+2=", answer="4")
SAID = [("so 4", 1.0, 0.9), ("so 5", 0.0, 0.3), ("so 5 ", 0.0, 0.2), ("no idea", 0.0, None)]
"""Text, exact match, the verifier's probability: 5 has more votes, 4 more weight."""


@pytest.mark.parametrize(
    ("sources", "parts", "passed"),
    [
        # nothing is above zero, and one of two is right
        ([{"name": "exact_match", "right": 0.0, "wrong": -1.0}], [(0.0,), (-1.0,)], 0.5),
        # a right format alone is above zero
        (
            [{"name": "exact_match"}, {"name": "regex", "pattern": "x", "weight": 0.1}],
            [(1.0, 1.0), (0.0, 1.0), (1.0, 0.0), (0.0, 0.0)],
            0.25,
        ),
        # a pattern that is punished where it is found
        (
            [{"name": "exact_match"}, {"name": "regex", "pattern": "x", "weight": -0.5}],
            [(1.0, 1.0), (1.0, 0.0)],
            0.5,
        ),
        ([{"name": "math_verify"}], [(1.0,), (-1.0,), (-1.0,), (-1.0,)], 0.25),
        ([{"name": "exact_match"}, {"name": "length"}], [(1.0, 3.0), (0.0, 3.0)], None),
    ],
)
def test_a_sample_passes_where_all_verifiers_that_count_say_right(
    tmp_path: Path,
    sources: list[dict[str, Json]],
    parts: list[tuple[float, ...]],
    passed: float | None,
) -> None:
    evaluate = {"prompts": {"path": "unused"}, "generate": {"name": "vllm"}, "score": sources}
    recipe = Recipe.model_validate({"policy": {"path": "org/base"}, "evaluate": evaluate})
    run = RunFolder(recipe, tmp_path)
    samples = [_sample(index, "so 4") for index in range(len(parts))]
    names = [str(source["name"]) for source in sources]
    weights = [float(cast(float, source.get("weight", 1.0))) for source in sources]
    scores = [
        Score(
            f"s{index}",
            sum(w * v for w, v in zip(weights, own, strict=True)),
            dict(zip(names, own, strict=True)),
        )
        for index, own in enumerate(parts)
    ]
    write_part(run.folder("start/eval/samples"), 0, samples, Sample)
    write_part(run.folder("start/eval/scores"), 0, scores, Score)
    step = next(step for step in plan(recipe) if step.kind == "evaluate")
    found = summarise_scores(run, step).metrics.get("pass@1")
    assert (None if found is None else cast("dict[str, float]", found)["mean"]) == passed


def test_verdicts_of_verifiers_are_their_defaults() -> None:
    for name, verdicts in VERIFIERS.items():
        options = {"pattern": "x"} if name == "regex" else {}
        checked = registry.check("reward", name, options)
        assert (checked.options["right"], checked.options["wrong"]) == verdicts


def _sample(index: int, text: str) -> Sample:
    return Sample(
        sample_id=f"s{index}",
        prompt_id=PROMPT.prompt_id,
        index=index,
        policy="",
        prompt_ids=(1,),
        completion_ids=(2, 3),
        loss_mask=(1, 1),
        logps=None,
        text=text,
        finish="stop",
    )


def _summary(tmp_path: Path, vote: dict[str, Json]) -> dict[str, Json]:
    recipe = Recipe.model_validate(
        {
            "policy": {"path": "org/base"},
            "evaluate": {
                "prompts": {"path": "unused"},
                "generate": {"name": "vllm", "n": 4},
                "score": [
                    {"name": "exact_match"},
                    {"name": "generative_verifier", "path": "x", "weight": 0.0, "label": "judge"},
                ],
                "vote": vote,
            },
        }
    )
    run = RunFolder(recipe, tmp_path)
    samples = [_sample(index, text) for index, (text, _, _) in enumerate(SAID)]
    scores = [
        Score(f"s{index}", value, {"exact_match": value, "judge": weight})
        for index, (_, value, weight) in enumerate(SAID)
    ]
    write_part(run.folder("start/eval/samples"), 0, samples, Sample)
    write_part(run.folder("start/eval/scores"), 0, scores, Score)
    step = next(step for step in plan(recipe) if step.kind == "evaluate")
    return dict(summarise_scores(run, step).metrics)


def test_weights_can_turn_a_vote(tmp_path: Path) -> None:
    """5 wins two votes to one, 4 wins .9 to .5; pass@1 stays 1 of 4."""
    found = _summary(tmp_path, {"extract": r"so (\d)", "weight": "judge"})
    means = {
        name: cast("dict[str, float]", found[name])["mean"]
        for name in ("majority", "weighted_majority", "pass@1")
    }
    assert means == {"majority": 0.0, "weighted_majority": 1.0, "pass@1": 0.25}


def test_without_a_pattern_the_text_is_the_answer(tmp_path: Path) -> None:
    """Two of `so 5`, space aside, against one of the others."""
    found = _summary(tmp_path, {})
    assert cast("dict[str, float]", found["majority"])["mean"] == 0.0
    assert "weighted_majority" not in found


def test_an_unknown_weight_names_the_sources(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="there are exact_match, judge"):
        _summary(tmp_path, {"weight": "verifier"})
