import json
from pathlib import Path
from typing import Any

import pytest

from align.errors import RecipeError
from align.objectives.dpo import Dpo
from align.training.policy import train_policy
from align.training.trl_dpo import trl_options
from tests.training.material import make_job, make_pairs, make_samples, relative_gap, update_of

STEPS = 20


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "log.jsonl").read_text().splitlines()]


def train(
    model: Path, out: Path, engine: str, finished: float, **objective: object
) -> dict[str, Any]:
    """Twenty steps of four pairs, AdamW, in four forwards a step."""
    section = {
        "objective": {"name": "dpo", **objective},
        "engine": engine,
        "global_batch_size": 4,
        "micro_batch_size": 2,
        "args": {"max_steps": STEPS, "learning_rate": 1e-3, "lr_scheduler_type": "constant"},
    }
    samples = make_samples(16, finished=finished)
    return train_policy(make_job(model, out, section), samples, pairs=make_pairs(samples))


FEW: list[dict[str, object]] = [
    {"loss": "sigmoid", "beta": 0.1},
    {"loss": "hinge", "beta": 0.5},
    {"loss": "ipo", "beta": 0.2},
    {"loss": "robust", "label_smoothing": 0.2},
]
OTHERS: list[dict[str, object]] = [
    {"loss": "sigmoid_norm", "beta": 2.0},
    {"loss": "exo", "label_smoothing": 0.1},
    {"loss": "nca"},
    {"loss": "sppo", "beta": 0.5},
    {"loss": "apo_zero"},
    {"loss": "apo_down"},
    {"loss": "discopop", "tau": 0.5},
    {"loss": "wpo", "clamp_weights": False},
    {"loss": "ld_dpo", "alpha": 0.3},
    {"loss": "sigmoid", "divergence": "forward_kl"},
    {"loss": "hinge", "divergence": "js"},
    {"loss": "sigmoid", "divergence": "alpha", "alpha": 0.3},
]


@pytest.mark.parametrize(
    "objective",
    [*FEW, *[pytest.param(options, marks=pytest.mark.slow) for options in OTHERS]],
    ids=lambda options: f"{options['loss']}-{options.get('divergence', 'reverse_kl')}",
)
def test_trajectory_is_that_of_trl(
    tiny_llama: Path, tmp_path: Path, objective: dict[str, object]
) -> None:
    """The same pairs in the same steps: losses of 20 steps within 1e-4 of TRL's DPOTrainer, and the
    same weights.
    """
    ours = train(tiny_llama, tmp_path / "ours", "align", 1.0, **objective)
    theirs = train(tiny_llama, tmp_path / "theirs", "trl", 1.0, **objective)
    assert ours["counts"]["steps"] == theirs["counts"]["steps"] == STEPS
    assert theirs["metrics"]["reencoded_differently"] == 0
    one, other = losses(tmp_path / "ours"), losses(tmp_path / "theirs")
    assert len(one) == STEPS and one[0] != one[-1]
    assert one == pytest.approx(other, abs=1e-4)
    assert (
        relative_gap(
            update_of(tiny_llama, tmp_path / "ours"), update_of(tiny_llama, tmp_path / "theirs")
        )
        < 1e-2
    )


def test_share_of_pairs_that_trl_encodes_differently_is_reported(
    tiny_llama: Path, tmp_path: Path
) -> None:
    """TRL ends every plain completion with EOS, so each pair with an unfinished side differs."""
    samples = make_samples(16, finished=0.5)
    unfinished = {s.prompt_id for s in samples if s.finish == "length"}
    result = train(tiny_llama, tmp_path / "out", "trl", 0.5, loss="sigmoid")
    expected = round(len(unfinished) / 16 * STEPS * 4)
    assert 0 < len(unfinished) < 16
    assert result["counts"]["reencoded_differently"] == expected


@pytest.mark.parametrize(
    ("objective", "reason"),
    [
        (Dpo(loss="cdpo"), "its sigmoid ignores label_smoothing"),
        (Dpo(loss="bco"), "leaves delta out"),
        (Dpo(loss="rpo"), "averages over the tokens of a forward"),
        (Dpo(loss="aot"), "sorts the pairs of a forward"),
        (Dpo(loss="aot_unpaired"), "sorts the pairs of a forward"),
        (Dpo(loss="r_dpo", alpha=0.1), "it has no such loss"),
        (Dpo(loss="odpo"), "it has no such loss"),
        (Dpo(loss="dpop", penalty=5.0), "it has no such loss"),
        (Dpo(loss="ipo", ipo_length_norm="sum"), "its ipo is the token mean"),
        (Dpo(loss="wpo"), "which is clamp_weights: false"),
    ],
)
def test_losses_that_trl_computes_otherwise_are_refused(objective: Dpo, reason: str) -> None:
    with pytest.raises(RecipeError, match=reason):
        trl_options(objective)


@pytest.mark.parametrize("objective", [{"name": "dpo", "loss": "cdpo"}, {"name": "redi"}])
def test_the_engine_refuses_before_it_trains(
    tiny_llama: Path, tmp_path: Path, objective: dict[str, object]
) -> None:
    samples = make_samples(2)
    section = {"objective": objective, "engine": "trl", "global_batch_size": 2}
    with pytest.raises(RecipeError, match=r"train.objective .* is not in TRL's DPOTrainer"):
        train_policy(
            make_job(tiny_llama, tmp_path / "out", section), samples, pairs=make_pairs(samples)
        )
