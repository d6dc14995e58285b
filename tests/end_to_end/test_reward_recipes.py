"""The small twins of the reward recipes, on people's preferences."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from align import cli

pytestmark = [pytest.mark.distributed, pytest.mark.timeout(1500)]

RECIPES = Path(__file__).parents[2] / "recipes" / "reward"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "pairs", "above", "below"),
    [("truthfulqa", 181, 0.65, 0.9), ("hh_harmless", 100, 0.5, 0.75)],
)
def test_bradley_terry_twin_learns_what_people_prefer(
    name: str,
    pairs: int,
    above: float,
    below: float,
    shared: Path,
    run_align: Callable[..., str],
    tmp_path: Path,
) -> None:
    """The dev file, whose prompts the training file does not hold. "Prefer the longer" scores .54
    and .44 there, a linear model of words .84 and .60, this one .77 to .79 and .62 to .63 (three
    seeds), with 95 % intervals of 8 and 10 points each way: above the range something leaks, below
    it nothing was learned. 48 dialogues of 148 do not fit the model's context of 512 tokens.
    """
    out = tmp_path / "run"
    words = changes(shared, f"reward.data.path={shared / 'data' / name}", "reward.max_length=512")
    run_align("run", RECIPES / "tiny_bt.yaml", "--out", out, *words)
    counts = json.loads((out / "reward" / "manifest.json").read_text())["counts"]
    assert counts["held_out"] > 100 and counts["equal_scores"] == 0
    reward = f"{{name: reward_model, path: {out / 'reward'}, chat_template: plain}}"
    found = evaluate(reward, shared / "data" / name, tmp_path)
    assert found["pairs"] == pairs
    assert above < found["accuracy"] < below and found["accuracy"] > found["longer"]


@pytest.mark.slow
def test_pairwise_twin_tells_true_from_false_answers(
    shared: Path, run_align: Callable[..., str], tmp_path: Path
) -> None:
    """Both orders of 181 pairs, seeds 0 and 1 here: .757 and .735; the 95 % interval, 8 points each
    way, lies above one half and "prefer the longer" (.53).
    """
    out, data = tmp_path / "run", shared / "data" / "truthfulqa"
    words = changes(shared, f"sft.data.of.path={data}")
    run_align("run", RECIPES / "tiny_pairwise.yaml", "--out", out, *words)
    judge = f"{{name: pairwise_model, path: {out / 'sft'}, chat_template: none}}"
    found = evaluate(judge, data, tmp_path)
    assert found["pairs"] == 181 and found["low"] > max(0.5, found["longer"])
    assert 0.65 < found["accuracy"] < 0.9


def changes(shared: Path, *settings: str) -> list[str]:
    model = shared / "models" / "tinystories-llama-260k"
    return [word for change in (f"policy.path={model}", *settings) for word in ("--set", change)]


def evaluate(reward: str, data: Path, folder: Path, *options: str) -> dict[str, float]:
    """What `align evaluate-reward` says of all pairs of the dev file."""
    recipe, numbers = folder / "score.yaml", folder / "numbers.json"
    recipe.write_text(f"score: {reward}\n")
    words = [str(recipe), "--data", str(data), "--split", "dev", *options, "--json", str(numbers)]
    assert cli.main(["evaluate-reward", *words]) == 0
    return json.loads(numbers.read_text())["pairs"]["all"]


def test_reward_recipes_are_small_and_run_on_given_pairs(
    shared: Path, run_align: Callable[..., str], tmp_path: Path
) -> None:
    """Two steps of each twin, to the saved model, through the commands that the README gives."""
    data = shared / "data" / "truthfulqa"
    bt, judge = tmp_path / "bt", tmp_path / "judge"
    few = ("reward.data.limit=64", "reward.args.max_steps=2")
    words = changes(shared, f"reward.data.path={data}", *few)
    run_align("run", RECIPES / "tiny_bt.yaml", "--out", bt, *words)
    assert (bt / "reward" / "model.safetensors").is_file()
    words = changes(shared, f"sft.data.of.path={data}", "sft.data.limit=64", "sft.args.max_steps=2")
    run_align("run", RECIPES / "tiny_pairwise.yaml", "--out", judge, *words)
    reward = f"{{name: pairwise_model, path: {judge / 'sft'}, chat_template: none}}"
    assert evaluate(reward, data, tmp_path, "--limit", "8")["pairs"] == 8
