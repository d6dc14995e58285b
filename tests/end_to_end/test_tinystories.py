"""The TinyStories recipe on the real checkpoint, small: reward model, vLLM, DPO, both rewards."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from align.report.summary import read_run

pytestmark = [pytest.mark.vllm, pytest.mark.distributed, pytest.mark.timeout(1500)]

RECIPE = Path(__file__).parents[2] / "recipes" / "tinystories" / "online_dpo.yaml"
SMALL = (
    "run.iterations=1",
    "prompts.per_iteration=24",
    "reward.data.prompts.limit=96",
    "reward.args.num_train_epochs=1",
    "evaluate.prompts.limit=32",
    "evaluate.generate.n=2",
)


def _settings(shared: Path) -> list[str]:
    stories, lexicon = (
        shared / "data" / "tinystories_prompts",
        shared / "data" / "vader_lexicon.tsv",
    )
    paths = {
        "policy.path": shared / "models" / "tinystories-llama-260k-hd32",
        "prompts.path": stories,
        "reward.data.prompts.path": stories,
        "evaluate.prompts.path": stories,
        "reward.data.score.path": lexicon,
        "evaluate.score.0.path": lexicon,
    }
    changes = [f"{key}={path}" for key, path in paths.items()] + list(SMALL)
    return [word for change in changes for word in ("--set", change)]


@pytest.mark.parametrize(
    "launch",
    [
        (),
        pytest.param(
            ("--accelerate-config", "zero3", "--processes", "2"), marks=pytest.mark.slow, id="zero3"
        ),
    ],
)
def test_the_recipe_runs_and_reports_the_true_reward_beside_the_learned_one(
    launch: tuple[str, ...], shared: Path, run_align: Callable[..., str], tmp_path: Path
) -> None:
    out = tmp_path / "tinystories"
    output = run_align("run", RECIPE, "--out", out, *_settings(shared), *launch)
    reward = json.loads((out / "reward" / "manifest.json").read_text())
    assert reward["counts"]["pairs"] >= 60 and reward["counts"]["held_out"] >= 2
    start, after = read_run(out).points
    for point in (start, after):
        truth, learned = point.mean("score/true_valence"), point.mean("score/reward_model")
        assert truth is not None and -10 <= truth <= 10 and learned is not None
        assert point.mean("score") == pytest.approx(truth), "the learned reward has weight 0 here"
    assert 1.0 < (start.mean("score/true_valence") or 0) < 5.0, "about 2.9 in LADDER"
    assert 0 <= (after.mean("kl") or -1) < 5
    assert "true_valence" in output and "reward_model" in output
