"""The line that says what a loop chose."""

from __future__ import annotations

from align.recipe.sections import Recipe
from align.report.choices import loop_line


def _recipe(**changes: object) -> Recipe:
    return Recipe.model_validate(
        {
            "run": {"iterations": 3},
            "policy": {"path": "org/a"},
            "prompts": {"path": "org/b", "per_iteration": 20000},
            "generate": {"name": "vllm", "n": 8, "temperature": 1.0},
            "score": {"name": "length"},
            "pair": {"name": "max_min"},
            "train": {"objective": {"name": "dpo"}, "global_batch_size": 2},
            **changes,
        }
    )


def test_defaults_are_said_too() -> None:
    assert loop_line(_recipe()) == (
        "3 iterations; prompts disjoint, 20,000 each; samples vllm x 8 at 1.0 of current; "
        "pairs max_min; objective dpo; init previous; reference initial; history current; "
        "KL to the first policy not measured without evaluate"
    )


def test_every_choice_is_said() -> None:
    recipe = _recipe(
        run={"iterations": 1, "stop": {"kl": 10.0, "held_out_falls": 2}},
        prompts={
            "path": "org/b",
            "per_iteration": 512,
            "resample": True,
            "refill": {"informative": 256, "rounds": 3},
        },
        generate=[
            {"name": "vllm", "n": 6},
            {"name": "vllm", "n": 2, "temperature": 0.7, "policy": "initial", "share": 0.5},
            {"name": "stored", "path": "runs/x", "share": None},
        ],
        select={"name": "statistical_rejection", "beta": 0.5, "keep": 4},
        pair={"name": "max_max", "between": "samplers", "min_margin": 0.1, "drop_quantile": 0.25},
        evaluate={"prompts": {"path": "org/c"}},
        train={
            "objective": {"name": "dpo", "loss": "cdpo", "label_smoothing": 0.1, "beta": 0.1},
            "global_batch_size": 2,
            "reference": {"ema": 0.9},
            "history": {"window": 2, "share": 0.3},
            "init": "initial",
        },
    )
    assert loop_line(recipe) == (
        "1 iteration; prompts drawn anew each time, 512 each, refilled up to 3 x until 256 "
        "informative; samples vllm x 6 of current + vllm x 2 at 0.7 of initial for 0.5 of prompts "
        "+ stored runs/x; selection statistical_rejection, beta 0.5, keep 4; pairs max_max, "
        "between samplers, min_margin 0.1, lowest 0.25 dropped; objective dpo, loss cdpo, "
        "label_smoothing 0.1, beta 0.1; init initial; reference average (0.9 kept); history last "
        "2, at most 0.3 replayed; KL to the first policy on held-out samples; stop kl 10, "
        "held_out_falls 2"
    )


def test_a_recipe_without_a_loop_has_nothing_to_say() -> None:
    assert loop_line(Recipe.model_validate({"policy": {"path": "org/a"}})) == ""
