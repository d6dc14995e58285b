"""Loops that cannot be: samplers that share the prompts, refills, stops, the published model."""

from __future__ import annotations

from pathlib import Path

import pytest

from align.recipe.load import load_recipe
from tests.recipe.broken import PAIRED, POLICY, SCORED, TRAIN, Broken, check_error, one

LOOP = PAIRED + TRAIN + "}\n"
EVALUATED = LOOP + "evaluate: {prompts: {path: c}}\n"
SHARED = (
    POLICY + "prompts: {path: b}\nscore: {name: length}\npair: {name: max_min}\n" + TRAIN + "}\n"
)

RULES = {
    "shares that leave prompts out": one(
        SHARED + "generate: [{name: vllm, share: 0.5, n: 2}, {name: vllm, share: 0.3, n: 2}]",
        6,
        "generate.1.share",
        "add up to 0.8",
        "let them add up to 1",
    ),
    "policy that is misspelt": one(
        SHARED + "generate: [{name: vllm, n: 2}, {name: vllm, n: 2, policy: inital}]",
        6,
        "generate.1.policy",
        '"inital" is no policy',
        'did you mean "initial"',
    ),
    "share of stored samples": one(
        SHARED + "generate: [{name: stored, path: d, share: 0.5}, {name: vllm, share: 0.5, n: 2}]",
        6,
        "generate.0.share",
        "stored samples are all taken",
        "remove it",
    ),
    "refill without a size": one(
        LOOP,
        None,
        "--set prompts.refill",
        "the size of a round",
        "set prompts.per_iteration",
        "prompts.refill={informative: 8, rounds: 2}",
    ),
    "refill that can never be enough": one(
        LOOP,
        None,
        "--set prompts.refill.informative",
        "all rounds together sample (12)",
        "at most 12",
        "prompts.per_iteration=4",
        "prompts.refill={informative: 13, rounds: 2}",
    ),
    "refill without training": one(
        SCORED,
        None,
        "--set prompts.refill",
        "drawn, scored and trained on",
        "add generate, score, train",
        "prompts.per_iteration=4",
        "prompts.refill={informative: 8, rounds: 2}",
    ),
    "stop that bounds nothing": one(
        EVALUATED, None, "--set run.stop", "bounds nothing", "set kl", "run.stop={}"
    ),
    "stop without evaluation": one(
        LOOP, None, "--set run.stop", "decided by evaluation", "add evaluate", "run.stop={kl: 5}"
    ),
    "stop by an unmeasured KL": one(
        EVALUATED,
        None,
        "--set run.stop.kl",
        "is not measured",
        "set evaluate.kl: true",
        "run.stop={kl: 5}",
        "evaluate.kl=false",
    ),
    "best without evaluation": one(
        LOOP,
        None,
        "--set publish.model",
        "told by the evaluation",
        "set it to last",
        "publish={folder: out, model: best}",
    ),
    "explorer without samples of the reference": one(
        LOOP,
        None,
        "--set train.objective",
        "needs samples of the reference",
        "policy: initial",
        "train.objective={name: xpo}",
        "run.iterations=2",
    ),
    "quantile that drops all": one(
        LOOP, None, "--set pair.drop_quantile", "less than 1", "", "pair.drop_quantile=1.0"
    ),
}


@pytest.mark.parametrize("broken", RULES.values(), ids=RULES)
def test_one_mistake_is_one_error(broken: Broken, tmp_path: Path) -> None:
    check_error(broken, tmp_path)


def test_a_loop_can_be_cut_to_its_first_iteration(tmp_path: Path) -> None:
    """Where the number is said; without it history and a moving reference are an oversight."""
    path = tmp_path / "x.yaml"
    path.write_text(EVALUATED)
    train = ("train.history={window: 2, share: 0.3}", "train.reference={ema: 0.9}")
    whole, cut = (
        load_recipe(path, [f"run.iterations={number}", *train]).model_dump() for number in (3, 1)
    )
    assert cut == whole | {"run": {**whole["run"], "iterations": 1}}


def test_a_loop_with_all_of_it_is_valid(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(EVALUATED)
    changes = [
        "run={iterations: 3, stop: {kl: 5, length_growth: 1.5, held_out_falls: 1}}",
        "prompts={path: b, per_iteration: 4, refill: {informative: 12, rounds: 2}}",
        "generate=[{name: vllm}, {name: vllm, policy: initial, share: 0.7}, "
        "{name: vllm, temperature: 0.7, share: 0.3}]",
        "pair={name: max_max, between: samplers, drop_quantile: 0.25}",
        "train.objective={name: xpo}",
        "publish={folder: out, model: best}",
    ]
    recipe = load_recipe(path, changes)
    assert recipe.run.stop is not None and recipe.run.stop.held_out_falls == 1
