import logging
import math
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from align.errors import DataError, NumericsError, RecipeError
from align.models import load_scorer
from align.recipe.sections import Recipe
from align.records import WeightsRef
from align.training.job import Job
from align.training.reward import PairRow, preference_rows, train_reward
from tests.training.material import make_pairs, make_samples


def run(
    model: Path,
    out: Path,
    rows: list[PairRow],
    held_out: list[PairRow] | None = None,
    **section: object,
) -> Any:
    options = {"data": {"path": "made"}, "global_batch_size": 8, **section}
    recipe = Recipe.model_validate({"policy": {"path": str(model)}, "reward": options})
    assert recipe.reward is not None
    return train_reward(
        Job(recipe, recipe.reward, WeightsRef(str(model)), out, 0), rows, held_out or []
    )


def separable(count: int, seed: int) -> list[PairRow]:
    """The preferred completion is made of nines, the other of zeros."""
    rng = random.Random(seed)
    prompts = [[1, *rng.choices(range(4, 14), k=4)] for _ in range(count)]
    return [
        PairRow([*p, *[13] * rng.randint(1, 4), 2], [*p, *[4] * rng.randint(1, 4), 2])
        for p in prompts
    ]


def test_learns_pairs_and_the_saved_model_scores_them(tiny_llama: Path, tmp_path: Path) -> None:
    held_out = separable(32, 1)
    args = {"learning_rate": 3e-3, "num_train_epochs": 4}
    result = run(tiny_llama, tmp_path / "rm", separable(64, 0), held_out, args=args)
    assert result["metrics"]["eval/accuracy"] == 1.0
    assert result["metrics"]["loss/first"] == pytest.approx(math.log(2), abs=0.1)
    assert (result["counts"]["equal_scores"], result["counts"]["steps"]) == (0, 32)
    model = load_scorer(tmp_path / "rm").eval()
    with torch.no_grad():
        gaps = [
            model(torch.tensor([row.chosen_ids])).logits.item()
            - model(torch.tensor([row.rejected_ids])).logits.item()
            for row in held_out
        ]
    assert min(gaps) > 0
    assert sum(gaps) / len(gaps) == pytest.approx(result["metrics"]["eval/margin"], abs=1e-4)


def test_first_loss_is_that_of_the_formula(tiny_llama: Path, tmp_path: Path) -> None:
    """ALGORITHMS 2.1 with margin and centering 0.01, from the scores of the untrained model with
    the same head.
    """
    from align.records import derive_seed

    samples = make_samples(8)
    pairs = [type(p)(p.chosen, p.rejected, 0.3) for p in make_pairs(samples)]
    rows = preference_rows(samples, pairs, margins=True)
    result = run(
        tiny_llama,
        tmp_path / "rm",
        rows,
        args={"max_steps": 1, "center_rewards_coefficient": 0.01},
        micro_batch_size=2,
    )
    model = load_scorer(tiny_llama, seed=derive_seed(0, "head") % 2**32).eval()
    with torch.no_grad():
        chosen = torch.tensor([model(torch.tensor([r.chosen_ids])).logits.item() for r in rows])
        rejected = torch.tensor([model(torch.tensor([r.rejected_ids])).logits.item() for r in rows])
    expected = (
        -torch.nn.functional.logsigmoid(chosen - rejected - 0.3).mean()
        + 0.01 * ((chosen + rejected) ** 2).mean()
    )
    assert result["metrics"]["loss/first"] == pytest.approx(expected.item(), abs=1e-5)


def test_first_loss_with_ties_is_that_of_the_soft_label(tiny_llama: Path, tmp_path: Path) -> None:
    """-(log sigma(z) + log sigma(-z)) / 2 for every other pair: at z = 0.7 0.753186 instead of
    0.403186 (ALGORITHMS 2.1).
    """
    from align.records import derive_seed

    z = torch.tensor(0.7)
    halves = -(torch.nn.functional.logsigmoid(z) + torch.nn.functional.logsigmoid(-z)) / 2
    assert halves.item() == pytest.approx(0.753186, abs=1e-6)
    samples = make_samples(8)
    pairs = make_pairs(samples)
    rows = preference_rows(samples, pairs, ties=pairs[::2])
    assert [row.label for row in rows] == [0.5, 1.0] * 4
    args = {"max_steps": 1, "center_rewards_coefficient": 0.01}
    result = run(tiny_llama, tmp_path / "rm", rows, args=args, micro_batch_size=2)
    model = load_scorer(tiny_llama, seed=derive_seed(0, "head") % 2**32).eval()
    with torch.no_grad():
        chosen = torch.tensor([model(torch.tensor([r.chosen_ids])).logits.item() for r in rows])
        rejected = torch.tensor([model(torch.tensor([r.rejected_ids])).logits.item() for r in rows])
    gaps, labels = chosen - rejected, torch.tensor([row.label for row in rows])
    right, wrong = torch.nn.functional.logsigmoid(gaps), torch.nn.functional.logsigmoid(-gaps)
    expected = -(labels * right + (1 - labels) * wrong).mean()
    expected += 0.01 * ((chosen + rejected) ** 2).mean()
    assert result["metrics"]["loss/first"] == pytest.approx(expected.item(), abs=1e-5)


def test_nothing_but_ties_is_refused(tiny_llama: Path, tmp_path: Path) -> None:
    rows = [replace(row, label=0.5) for row in separable(8, 0)]
    with pytest.raises(DataError, match="every pair is a tie"):
        run(tiny_llama, tmp_path / "rm", rows)


def test_margins_count_only_where_asked_for() -> None:
    samples = make_samples(2)
    pairs = [type(p)(p.chosen, p.rejected, 0.3) for p in make_pairs(samples)]
    assert [row.margin for row in preference_rows(samples, pairs)] == [0.0, 0.0]
    assert [row.margin for row in preference_rows(samples, pairs, margins=True)] == [0.3, 0.3]
    assert preference_rows(samples, pairs)[0].chosen_ids == [
        *samples[0].prompt_ids,
        *samples[0].completion_ids,
    ]


def test_model_that_scores_both_sides_the_same_is_reported(
    tiny_llama: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The head is zero and the learning rate too, so every score is 0."""
    from align.training import reward

    def headless(*args: Any, **kwargs: Any) -> Any:
        model = load_scorer(*args, **kwargs)
        torch.nn.init.zeros_(model.score.weight)
        return model

    monkeypatch.setattr(reward, "load_scorer", headless)
    with caplog.at_level(logging.ERROR):
        result = run(tiny_llama, tmp_path / "rm", separable(8, 0), args={"learning_rate": 0.0})
    assert result["counts"]["equal_scores"] == 1
    assert (result["metrics"]["equal_share"], result["metrics"]["train/accuracy"]) == (1.0, 0.5)
    assert "equal scores on 100% of 8 pairs" in caplog.text


def test_identical_and_long_pairs_are_dropped_and_counted(tiny_llama: Path, tmp_path: Path) -> None:
    rows = [*separable(9, 0), PairRow([1, 5, 2], [1, 5, 2]), PairRow([1] * 30, [1, 2])]
    result = run(tiny_llama, tmp_path / "rm", rows, max_length=20)
    counts = result["counts"]
    assert (counts["identical"], counts["too_long"], counts["trained_pairs"]) == (1, 1, 9)
    assert (counts["partial_batch_pairs_dropped"], counts["steps"]) == (1, 1)


def test_fewer_pairs_than_a_batch_are_refused(tiny_llama: Path, tmp_path: Path) -> None:
    with pytest.raises(
        RecipeError,
        match=r"reward.global_batch_size 8 is more than the 5 pairs there are; set it to at",
    ):
        run(tiny_llama, tmp_path / "rm", separable(5, 0))


def test_lora_saves_head_and_adapter_that_score(tiny_llama: Path, tmp_path: Path) -> None:
    rows = separable(32, 0)
    options = {
        "data": {"path": "made"},
        "global_batch_size": 8,
        "args": {"learning_rate": 1e-2, "num_train_epochs": 4},
    }
    peft = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]}
    recipe = Recipe.model_validate({"policy": {"peft": peft}, "reward": options})
    assert recipe.reward is not None
    base = WeightsRef(str(tiny_llama))
    result = train_reward(Job(recipe, recipe.reward, base, tmp_path / "rm", 0), rows, rows)
    assert result["metrics"]["eval/accuracy"] == 1.0
    model = load_scorer(WeightsRef(base.base, str(tmp_path / "rm"))).eval()
    with torch.no_grad():
        gaps = [
            model(torch.tensor([row.chosen_ids])).logits.item()
            - model(torch.tensor([row.rejected_ids])).logits.item()
            for row in rows
        ]
    assert sum(gaps) / len(gaps) == pytest.approx(result["metrics"]["eval/margin"], abs=1e-4)


@pytest.mark.parametrize(
    ("steps", "says"),
    [(4, "the loss is nan at step 2; lower"), (1, "scores of 32 pairs are not finite; lower")],
)
def test_a_model_that_is_no_number_is_not_saved(
    steps: int, says: str, tiny_llama: Path, tmp_path: Path
) -> None:
    """The first step's loss is that of the model before it; its update leaves none."""
    args = {"learning_rate": 3e38, "max_steps": steps}
    with pytest.raises(NumericsError, match=says):
        run(tiny_llama, tmp_path / "rm", separable(32, 0), args=args)
    assert not (tmp_path / "rm" / "model.safetensors").exists()


def test_modules_that_the_model_has_not_are_named_with_those_it_has(
    tiny_llama: Path, tmp_path: Path
) -> None:
    peft = {"r": 4, "target_modules": ["query"]}
    options = {"data": {"path": "made"}, "global_batch_size": 8}
    recipe = Recipe.model_validate({"policy": {"peft": peft}, "reward": options})
    assert recipe.reward is not None
    job = Job(recipe, recipe.reward, WeightsRef(str(tiny_llama)), tmp_path / "rm", 0)
    says = (
        r"policy\.peft is refused by PEFT: .*; the linear layers of this model are down_proj, gat"
    )
    with pytest.raises(RecipeError, match=says):
        train_reward(job, separable(8, 0))
