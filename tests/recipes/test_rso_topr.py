"""RSO's and TOPR's recipes: the papers' constants, and twins of the same methods."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from align.commands.plan import make_plan
from align.recipe.load import load_recipe
from align.recipe.sections import Recipe, Train

RECIPES = Path(__file__).parents[2] / "recipes"
RSO_ARMS = ("rso", "hinge", "direct", "sft_sample_rank", "raft", "rest")
TOPR_ARMS = ("topr", "iterated", "naive", "positives_only", "tis", "ppo_clip", "dpo")


def recipe(family: str, name: str) -> Recipe:
    return load_recipe(RECIPES / family / f"{name}.yaml")


def trained(family: str, name: str) -> Train:
    train = recipe(family, name).train
    assert train is not None
    return train


def sampler(family: str, name: str) -> dict[str, object]:
    generate = recipe(family, name).generate
    assert generate is not None and not isinstance(generate, list)
    return generate.options


def test_rso_has_the_constants_of_the_paper() -> None:
    """ALGORITHMS 4.3, 4.4: 64 at T .7 and top-k 40, 8 kept at beta .5, gamma .05, 32, Adafactor."""
    options = sampler("rso", "rso")
    assert (options["n"], options["temperature"], options["top_k"]) == (64, 0.7, 40)
    select = recipe("rso", "rso").select
    assert select is not None and select.options["beta"] == 0.5 and select.options["keep"] == 8
    pair = recipe("rso", "rso").pair
    assert pair is not None and pair.name == "first_round" and pair.judge is not None
    for name in ("rso", "direct", "sft_sample_rank"):
        train = trained("rso", name)
        assert train.objective.options["beta"] == 0.05 and train.reference == "initial"
    for name in RSO_ARMS:
        train = trained("rso", name)
        assert train.global_batch_size == 32
        assert (train.args["optim"], train.args["learning_rate"]) == ("adafactor", 1e-5)
    assert trained("rso", "hinge").objective.options["nll_weight"] == 0.0
    assert sampler("rso", "sft_sample_rank")["n"] == 8
    assert recipe("rso", "direct").generate is None
    rest = recipe("rso", "rest").select
    assert rest is not None and rest.options["min_score"] == pytest.approx(0.847298, abs=1e-6)


def test_topr_has_the_constants_of_the_paper() -> None:
    """ALGORITHMS 7.4, 7.6: 16 a question at T 1, +-1, Adafactor at a constant 5e-7, no decay."""
    for name in TOPR_ARMS:
        options, train = sampler("topr", name), trained("topr", name)
        assert (options["n"], options["temperature"]) == (16, 1.0)
        assert train.args["learning_rate"] == 5e-7 and train.args["optim"] == "adafactor"
        assert train.args["lr_scheduler_type"] == "constant" and train.args["weight_decay"] == 0
        score = recipe("topr", name).score
        assert score is not None and not isinstance(score, list)
        assert (score.options["right"], score.options["wrong"]) == (1.0, -1.0)
    assert trained("topr", "topr").advantage.target_positive_share == 0.15
    select = recipe("topr", "iterated").select
    assert select is not None and select.name == "anna_karenina"
    assert trained("topr", "ppo_clip").objective.options["clip_high"] == 0.2


@pytest.mark.parametrize(("family", "arms"), [("rso", RSO_ARMS), ("topr", TOPR_ARMS)])
def test_every_recipe_has_a_twin_of_the_same_method(family: str, arms: Sequence[str]) -> None:
    for name in arms:
        full, twin = recipe(family, name), recipe(family, f"tiny_{name}")
        ours, theirs = trained(family, f"tiny_{name}"), trained(family, name)
        assert ours.objective.name == theirs.objective.name
        assert ours.objective.options.get("loss") == theirs.objective.options.get("loss")
        for one, other in ((twin.select, full.select), (twin.pair, full.pair)):
            # the small `direct` samples its pairs from another policy: there are no human ones
            assert (one and one.name) == (other and other.name) or name == "direct"
        assert twin.run.iterations == full.run.iterations
        assert make_plan(twin).steps


def test_the_baselines_of_topr_share_its_samples() -> None:
    for name in ("naive", "positives_only", "tis", "ppo_clip", "dpo"):
        for prefix in ("", "tiny_"):
            ours, theirs = recipe("topr", prefix + name), recipe("topr", f"{prefix}topr")
            assert ours.run.cache == theirs.run.cache is not None
            for section in ("policy", "prompts", "generate", "score"):
                assert getattr(ours, section) == getattr(theirs, section)
