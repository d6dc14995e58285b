"""The plan: which steps a recipe gives, and what each reads."""

from __future__ import annotations

import pytest

from align.recipe.sections import Recipe
from align.stages.steps import Step, plan

ONLINE: dict[str, dict[str, object]] = {
    "run": {"iterations": 2},
    "policy": {"path": "org/sft"},
    "prompts": {"path": "org/prompts", "per_iteration": 8},
    "generate": {"name": "vllm", "n": 4},
    "score": {"name": "exact_match"},
    "pair": {"name": "max_min"},
    "train": {"objective": {"name": "dpo"}, "reference": "previous", "global_batch_size": 8},
    "evaluate": {"prompts": {"path": "org/prompts", "split": "test"}},
}


def _plan(**changes: object) -> dict[str, Step]:
    recipe = Recipe.model_validate({**ONLINE, **changes})
    return {step.name: step for step in plan(recipe)}


def test_online_plan_is_in_order_and_every_input_exists() -> None:
    steps = list(_plan().values())
    assert [step.name for step in steps] == [
        "eval-prompts",
        "iter-000/prompts",
        "start/eval/samples",
        "iter-000/samples",
        "start/eval/scores",
        "start/eval/summary",
        "iter-000/scores",
        "iter-000/pairs",
        "iter-000/checkpoint",
        "iter-001/prompts",
        "iter-000/eval/samples",
        "iter-001/samples",
        "iter-000/eval/scores",
        "iter-000/eval/summary",
        "iter-001/scores",
        "iter-001/pairs",
        "iter-001/checkpoint",
        "iter-001/eval/samples",
        "iter-001/eval/scores",
        "iter-001/eval/summary",
    ]
    seen: set[str] = set()
    for step in steps:
        missing = {n for n in step.inputs.values() if n.startswith("step:") and n[5:] not in seen}
        assert not missing, f"{step.name} reads {missing} before they are made"
        seen.add(step.name)


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("initial", "path:org/sft"),
        ("previous", "step:iter-000/checkpoint"),
        ({"ema": 0.5}, "step:iter-000/reference"),
    ],
)
def test_reference_of_the_second_iteration(reference: object, expected: str) -> None:
    train = {**ONLINE["train"], "reference": reference}
    steps = _plan(train=train)
    assert steps["iter-000/checkpoint"].inputs["reference"] == "path:org/sft"
    assert steps["iter-001/checkpoint"].inputs["reference"] == expected


def test_history_window_adds_earlier_rows() -> None:
    steps = _plan(run={"iterations": 3}, train={**ONLINE["train"], "history": {"window": 2}})
    roles = {role for role in steps["iter-002/checkpoint"].inputs if role.startswith("pairs")}
    assert roles == {"pairs", "pairs:iter-001"}
    everything = _plan(run={"iterations": 3}, train={**ONLINE["train"], "history": "all"})
    roles = {role for role in everything["iter-002/checkpoint"].inputs if role.startswith("pairs")}
    assert roles == {"pairs", "pairs:iter-000", "pairs:iter-001"}


def test_seeds_differ_between_iterations_and_between_training_and_evaluation() -> None:
    steps = _plan()
    seeds = [steps[name].section["seed"] for name in ("iter-000/samples", "iter-001/samples")]
    evaluation = [steps[f"{name}/eval/samples"].section["seed"] for name in ("start", "iter-000")]
    assert len({*seeds, evaluation[0]}) == 3
    assert evaluation[0] == evaluation[1], "common random numbers make the gain's interval narrower"


def test_evaluation_without_a_sampler_of_its_own_draws_one_sample() -> None:
    samplers = _plan()["start/eval/samples"].section["samplers"]
    assert samplers == [{"name": "vllm", "n": 1}]


def test_reward_section_feeds_reward_model_without_a_path() -> None:
    steps = _plan(
        reward={
            "data": {
                "generate": {"name": "vllm", "n": 4},
                "score": {"name": "length"},
                "pair": {"name": "max_min"},
            }
        },
        score={"name": "reward_model"},
    )
    assert [name for name in steps if name.startswith("reward")] == [
        "reward-data/prompts",
        "reward-data/samples",
        "reward-data/scores",
        "reward-data/pairs",
        "reward",
    ]
    assert steps["iter-000/scores"].inputs["reward"] == "step:reward"


def test_model_from_scratch_goes_through_sft() -> None:
    steps = _plan(
        policy={"config": {"model_type": "llama"}, "tokenizer": {"kind": "characters"}},
        sft={"data": {"name": "addition"}},
    )
    assert steps["sft"].inputs == {"policy": "step:policy"}
    assert steps["start/eval/samples"].inputs["policy"] == "step:sft"
    assert steps["iter-001/samples"].inputs["policy"] == "step:iter-000/checkpoint"


def test_generation_only_and_human_preferences() -> None:
    only = _plan(train=None, pair=None, score=None, evaluate=None, run={})
    assert list(only) == ["iter-000/prompts", "iter-000/samples"]
    human = _plan(
        train={**ONLINE["train"], "data": {"path": "org/prefs"}},
        prompts=None,
        generate=None,
        score=None,
        pair=None,
        evaluate=None,
        run={},
    )
    assert list(human) == ["iter-000/data", "iter-000/checkpoint"]
