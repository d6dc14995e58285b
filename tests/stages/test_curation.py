"""What select and pair steps report: acceptance, shortage, kept against all, judgements."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from align.data.shards import read_records, write_part
from align.errors import StageError
from align.recipe.sections import Recipe
from align.records import Judgement, Pair, Prompt, Sample, Score
from align.rewards.protocol import Group
from align.stages.folder import RunFolder
from align.stages.manifest import content_of
from align.stages.sampling import pair, select
from align.stages.steps import Step, plan

PROMPT = Prompt.of("1+1=", answer="2")


@dataclass(frozen=True)
class LaterIsBetter:
    """A judge: P(i beats j) is .9 for the one with the larger index among the samples."""

    def open(self) -> LaterIsBetter:
        return self

    def preferences(self, groups: Sequence[Group]) -> list[list[list[float]]]:
        return [self._matrix([sample.index for sample in group.samples]) for group in groups]

    def _matrix(self, places: Sequence[int]) -> list[list[float]]:
        return [[0.5 if a == b else 0.9 if a > b else 0.1 for b in places] for a in places]

    def close(self) -> None:
        """Nothing to free."""


def _run(
    tmp_path: Path,
    scores: Sequence[float | None] | None,
    finish: Literal["stop", "length"] = "stop",
    **sections: object,
) -> tuple[RunFolder, dict[str, Step]]:
    """One prompt; sample i has i + 1 tokens, of which the last is its own."""
    recipe = Recipe.model_validate(
        {"generate": {"name": "vllm"}, "prompts": {"path": "unused"}, **sections}
    )
    run = RunFolder(recipe, tmp_path)
    steps: dict[str, Step] = {step.kind: step for step in plan(recipe)}
    samples = [
        Sample(
            sample_id=f"s{index}",
            prompt_id=PROMPT.prompt_id,
            index=index,
            policy="",
            prompt_ids=(1,),
            completion_ids=(2,) * index + (3,),
            loss_mask=(1,) * (index + 1),
            logps=None,
            text=str(index),
            finish=finish,
        )
        for index in range(4 if scores is None else len(scores))
    ]
    write_part(run.folder("iter-000/prompts"), 0, [PROMPT], Prompt)
    write_part(run.folder("iter-000/samples"), 0, samples, Sample)
    if scores is not None:
        found = [Score(f"s{index}", value) for index, value in enumerate(scores)]
        write_part(run.folder("iter-000/scores"), 0, found, Score)
    return run, steps


def test_selection_reports_its_acceptance_and_what_it_changed(tmp_path: Path) -> None:
    """beta 0 keeps scores 3 and 2, of 4 and 3 tokens; all have mean score 1.5 and 2.5 tokens.
    Of the first sweep one of four looked at is accepted, exactly what is expected.
    """
    rule = {"name": "statistical_rejection", "beta": 0.0, "keep": 2}
    run, steps = _run(tmp_path, [0.0, 1.0, 2.0, 3.0], score={"name": "length"}, select=rule)
    result = select(run, steps["select"])
    assert result.counts == {
        "prompts": 1,
        "empty": 0,
        "candidates": 4,
        "kept": 2,
        "short": 0,
        "repeats": 0,
    }
    assert result.metrics == pytest.approx(
        {
            "acceptance/rate": 0.25,
            "acceptance/expected": 0.25,
            "effective_samples": 1.0,
            "candidates_distinct": 4.0,
            "sweeps": 2.0,
            "score/all": 1.5,
            "score/kept": 2.5,
            "tokens/all": 2.5,
            "tokens/kept": 3.5,
        }
    )


def test_an_infinite_temperature_accepts_all_that_it_looks_at(tmp_path: Path) -> None:
    """`--set select.beta=.inf` of recipes/rso: two of four at random, each of weight 1."""
    rule = {"name": "statistical_rejection", "beta": math.inf, "keep": 2}
    run, steps = _run(tmp_path, [0.0, 1.0, 2.0, 3.0], score={"name": "length"}, select=rule)
    assert steps["select"].section["beta"] == math.inf
    found = select(run, steps["select"]).metrics
    assert (found["acceptance/rate"], found["acceptance/expected"]) == (1.0, 1.0)
    assert found["effective_samples"] == 4.0


def test_a_rule_that_keeps_nothing_ends_the_run(tmp_path: Path) -> None:
    rule = {"name": "anna_karenina", "all_wrong": "drop"}
    run, steps = _run(tmp_path, [-1.0, -1.0], score={"name": "length"}, select=rule)
    with pytest.raises(StageError, match=r"no sample is kept \(1 prompts, 1 empty, 2 candidates, "):
        select(run, steps["select"])


def test_a_rule_that_only_keeps_is_reported_too(tmp_path: Path) -> None:
    run, steps = _run(
        tmp_path, [0.0, 1.0], score={"name": "length"}, select={"name": "best_of_n", "keep": 1}
    )
    result = select(run, steps["select"])
    assert result.metrics == {
        "score/all": 0.5,
        "score/kept": 1.0,
        "tokens/all": 1.5,
        "tokens/kept": 2.0,
    }


def test_a_judge_needs_no_scores_and_its_matrix_is_kept(tmp_path: Path) -> None:
    """Four samples, no score: two first-round pairs won by the later sample, logit(.9) apart."""
    judge = {"name": f"{__name__}.LaterIsBetter"}
    run, steps = _run(tmp_path, None, pair={"name": "first_round", "judge": judge})
    result = pair(run, steps["pair"])
    assert (result.counts["pairs"], result.counts["unpaired_samples"]) == (2, 0)
    folder = run.folder("iter-000/pairs")
    for one in read_records(folder, Pair):
        assert one.chosen > one.rejected and one.margin == pytest.approx(2.197225, abs=1e-6)
    (judgement,) = read_records(folder / "judgements", Judgement)
    assert judgement.prompt_id == PROMPT.prompt_id
    places = [int(name[1:]) for name in judgement.sample_ids]
    assert sorted(places) == [0, 1, 2, 3]
    for i, row in zip(places, judgement.preferences, strict=True):
        assert row == tuple(0.5 if i == j else 0.9 if i > j else 0.1 for j in places)
    assert content_of(folder) != content_of(run.folder("iter-000/samples"))


def test_an_odd_sample_is_counted(tmp_path: Path) -> None:
    run, steps = _run(
        tmp_path, [0.0, 1.0, 2.0], score={"name": "length"}, pair={"name": "first_round"}
    )
    result = pair(run, steps["pair"])
    assert (result.counts["pairs"], result.counts["unpaired_samples"]) == (1, 1)


@pytest.mark.parametrize(
    ("scores", "finish", "rule", "counts", "remedy"),
    [
        (
            [1.0, 1.0],
            "stop",
            {"name": "max_min"},
            (1, 0, 0, 0),
            "two samples of a prompt make a pair where their scores differ: look at the reward, or "
            "raise generate.n",
        ),
        (
            [1.0],
            "length",
            {"name": "max_min", "truncated": "keep"},
            (0, 1, 1, 0),
            "give each prompt two samples or more (generate.n, select.keep)",
        ),
        (
            [0.0, 1.0, None],
            "length",
            {"name": "max_min", "min_margin": 2.0},
            (0, 0, 3, 1),
            "see why the reward failed; raise generate.max_new_tokens, or set pair.truncated: keep;"
            " lower pair.min_margin",
        ),
        (
            [1.0, 1.0],
            "stop",
            {"name": "max_max", "between": "samplers"},
            (1, 0, 0, 0),
            "the best samples of two samplers make a pair where their scores differ: let two that "
            "differ more (policy, temperature) draw for each prompt, or look at the reward",
        ),
    ],
    ids=["equal scores", "one sample", "several causes", "between samplers"],
)
def test_why_no_pair_was_made_is_said_with_its_remedy(
    scores: list[float | None],
    finish: Literal["stop", "length"],
    rule: dict[str, object],
    counts: tuple[int, ...],
    remedy: str,
    tmp_path: Path,
) -> None:
    run, steps = _run(tmp_path, scores, finish, score={"name": "length"}, pair=rule)
    with pytest.raises(StageError) as caught:
        pair(run, steps["pair"])
    equal, single, truncated, failed = counts
    assert str(caught.value) == (
        f"no pair was made from 1 prompts ({equal} with equal scores, {single} of one sample, "
        f"{truncated} truncated samples, {failed} failed scores): {remedy}"
    )
