"""RLHF Workflow twice (ALGORITHMS 6.2, 6.3): as its report describes it and as its loop runs."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import pytest

from align.data.shards import read_records
from align.recipe.load import load_recipe
from align.records import Pair, Sample, Score
from align.stages.folder import RunFolder

RECIPES = Path(__file__).parents[2] / "recipes" / "rlhflow"
LN_2 = math.log(2)
FAST = ("generate.name=transformers", "evaluate.generate={name: transformers, max_new_tokens: 16}")
"""Real sampling without the seconds that an engine takes to start; `align run` uses vLLM."""


def first_loss(run: RunFolder, iteration: int) -> float:
    """Of the first optimizer step."""
    log = run.folder(f"iter-{iteration:03d}/checkpoint") / "log.jsonl"
    return json.loads(log.read_text().splitlines()[0])["loss"]


@pytest.mark.parametrize("kind", ["paper", "released"])
def test_constants_are_those_of_algorithms_6(kind: str) -> None:
    recipe = load_recipe(RECIPES / f"{kind}.yaml")
    assert recipe.run.iterations == 3 and recipe.prompts is not None and recipe.train is not None
    assert recipe.prompts.per_iteration == 20000 and not recipe.prompts.resample
    assert not isinstance(recipe.generate, list) and recipe.generate is not None
    options = recipe.generate.options
    assert options["n"] == (8 if kind == "paper" else 4)
    assert (options["temperature"], options["top_p"], options["max_new_tokens"]) == (1.0, 1.0, 2048)
    train = recipe.train
    assert (train.global_batch_size, train.max_length) == (128, 2048)
    assert train.args["learning_rate"] == 5e-7 and train.args["num_train_epochs"] == 2
    assert (train.reference, train.history, train.init) == (
        ("initial", "all", "previous") if kind == "paper" else ("previous", "current", "previous")
    )
    loss = (train.objective.options["loss"], train.objective.options["label_smoothing"])
    assert loss == (("sigmoid", None) if kind == "paper" else ("cdpo", 0.1))
    assert recipe.pair is not None and recipe.pair.options["min_margin"] == 0.0


@pytest.mark.parametrize("kind", ["paper", "released", "small"])
def test_twin_makes_its_recipes_choices(kind: str) -> None:
    twin, full = (load_recipe(RECIPES / f"{name}.yaml") for name in (f"tiny_{kind}", kind))
    assert twin.train is not None and full.train is not None
    assert twin.train.objective == full.train.objective
    for name in ("reference", "history", "init"):
        assert getattr(twin.train, name) == getattr(full.train, name)
    assert twin.pair is not None and full.pair is not None and twin.pair.name == full.pair.name
    assert twin.pair.options["length_penalty"] == full.pair.options["length_penalty"]
    bounds = [one.run.stop and one.run.stop.model_fields_set for one in (twin, full)]
    assert bounds[0] == bounds[1]


def test_the_paper_keeps_the_reference_and_all_pairs(run_loop: Callable[..., RunFolder]) -> None:
    """Where policy and reference are one the loss is ln 2; in the second iteration they differ."""
    run = run_loop("rlhflow", "tiny_paper", *FAST)
    sizes = [len(read_records(run.folder(f"iter-{i:03d}/pairs"), Pair)) for i in range(2)]
    first, second = (run.manifest(f"iter-{i:03d}/checkpoint") for i in range(2))
    assert first is not None and second is not None
    assert second.counts["rows_replayed"] == sizes[0] and second.counts["pairs"] == sum(sizes)
    assert second.metrics["reference"] == "sft"
    assert first_loss(run, 0) == pytest.approx(LN_2, abs=1e-5)
    assert abs(first_loss(run, 1) - LN_2) > 0.01
    assert second.metrics["loss"] < second.metrics["loss/first"]
    assert second.metrics["rewards/accuracies"] > 0.7


def test_the_small_recipe_takes_length_off_the_score_and_ends_before_it_drifts(
    run_loop: Callable[..., RunFolder],
) -> None:
    """Each pair is the prompt's best against its worst by score less .001 a token. The second
    iteration passes the bound on the KL, so there is no third, and the first one's policy stays.
    """
    run = run_loop("rlhflow", "tiny_small", *FAST)
    folder = run.folder("iter-000")
    samples = {one.sample_id: one for one in read_records(folder / "samples", Sample)}
    by_prompt = defaultdict[str, dict[str, float]](dict)
    for one in read_records(folder / "scores", Score):
        assert one.value is not None
        sample = samples[one.sample_id]
        tokens = len(sample.completion_ids)
        by_prompt[sample.prompt_id][one.sample_id] = one.value - 0.001 * tokens
    pairs = read_records(folder / "pairs", Pair)
    lengths = [[len(samples[i].completion_ids) for i in (p.chosen, p.rejected)] for p in pairs]
    assert len(pairs) == 12 and any(chosen != rejected for chosen, rejected in lengths)
    for pair in pairs:
        values = by_prompt[samples[pair.chosen].prompt_id]
        assert values[pair.chosen] == max(values.values())
        assert values[pair.rejected] == min(values.values())
        assert pair.margin == pytest.approx(max(values.values()) - min(values.values()), abs=1e-6)
    first, second = (run.manifest(f"iter-{i:03d}/stop") for i in range(2))
    assert first is not None and second is not None
    assert (first.counts["stopped"], second.counts["stopped"]) == (0, 1)
    assert first.metrics["kl"] < 6 < second.metrics["kl"] and second.metrics["kept"] == "iter-000"
    assert second.metrics["length_growth"] < 2
    assert not run.folder("iter-002").exists()


def test_the_released_loop_moves_both_on(run_loop: Callable[..., RunFolder]) -> None:
    """The reference is the previous policy, so every iteration begins at ln 2, smoothed or not."""
    run = run_loop("rlhflow", "tiny_released", *FAST)
    size = len(read_records(run.folder("iter-001/pairs"), Pair))
    second = run.manifest("iter-001/checkpoint")
    assert second is not None and second.counts["pairs"] == size
    assert "rows_replayed" not in second.counts
    assert second.metrics["reference"] == second.metrics["init"] == "iter-000/checkpoint"
    for iteration in range(2):
        assert first_loss(run, iteration) == pytest.approx(LN_2, abs=1e-5)
    assert second.metrics["loss"] < second.metrics["loss/first"]
    assert second.metrics["rewards/accuracies"] > 0.7
