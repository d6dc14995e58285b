"""Ensembles of reward models: the aggregate by hand, disagreement, failures, and the recipe's
keys."""

from __future__ import annotations

from pathlib import Path

import pytest

from align.errors import RecipeError, SetupError
from align.models import load_scorer, load_tokenizer
from align.recipe.load import load_recipe
from align.registry import PluginError, build
from align.rewards.ensemble import aggregate, mean_and_std
from align.rewards.reward_model import RewardModel
from align.rewards.sources import weigh_sources
from align.stages.steps import plan
from tests.rewards.builders import group_of, values_of

TEXTS = ("4", "the answer is 4", "no")


@pytest.fixture(scope="session")
def other_scorer(writer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scorer's twin with another head."""
    folder = tmp_path_factory.mktemp("other-scorer")
    load_scorer(writer, seed=4).save_pretrained(str(folder))
    load_tokenizer(writer).save_pretrained(folder)
    return folder


def test_aggregate_of_three_by_hand() -> None:
    """[1, 2, 6]: mean 3, squared deviations 4 + 1 + 9, std sqrt(14 / 3) = 2.160247."""
    assert mean_and_std([1, 2, 6]) == pytest.approx((3.0, 2.160247), abs=1e-6)
    assert aggregate([1, 2, 6], "mean") == 3.0
    assert aggregate([1, 2, 6], "mean_minus_std", 0.5) == pytest.approx(1.919877, abs=1e-6)
    assert aggregate([1, 2, 6], "min") == 1.0
    assert aggregate([2, 2], "mean_minus_std", 7.0) == 2.0


@pytest.mark.parametrize("how", ["mean", "mean_minus_std", "min"])
def test_ensemble_aggregates_normalised_scores_and_reports_disagreement(
    how: str, scorer_folder: Path, other_scorer: Path
) -> None:
    """Each part is (r - centre) / spread of the model alone; std of two values is half their
    distance."""
    group = group_of("2+2=", None, *TEXTS)
    first = values_of(RewardModel(path=str(scorer_folder)).open().score([group]))[0]
    second = values_of(RewardModel(path=str(other_scorer)).open().score([group]))[0]
    spec = {
        "name": "ensemble",
        "members": [
            {"path": str(scorer_folder), "centre": 0.5, "spread": 2.0},
            {"path": str(other_scorer), "label": "twin"},
        ],
        "aggregate": how,
        "k": 0.5,
    }
    scores = build("reward", spec).open().score([group])[0]
    for score, one, two in zip(scores, first, second, strict=True):
        assert one is not None and two is not None
        one = (one - 0.5) / 2
        low, middle, half = min(one, two), (one + two) / 2, abs(one - two) / 2
        assert score.parts == pytest.approx({"0": one, "twin": two, "mean": middle, "std": half})
        wanted = {"mean": middle, "mean_minus_std": middle - 0.5 * half, "min": low}[how]
        assert score.value == pytest.approx(wanted)
    assert max(score.parts["std"] or 0 for score in scores) > 1e-3


def test_disagreement_reaches_the_stages_parts_and_a_failed_member_fails_the_sample(
    scorer_folder: Path, other_scorer: Path
) -> None:
    members = [{"path": str(scorer_folder)}, {"path": str(other_scorer)}]
    sections = [{"name": "ensemble", "members": members, "max_length": 10, "label": "rm"}]
    scorer = weigh_sources(sections, policy=None).open()
    fine, failed = scorer.score([group_of("2+2=", None, "4", "a long answer")])[0]
    assert set(fine.parts) == {"rm", "rm/0", "rm/1", "rm/mean", "rm/std"}
    assert failed.value is None and "ensemble member 0" in str(failed.error)
    assert "max_length = 10" in str(failed.error)
    scorer.close()


def test_member_that_cannot_be_opened_is_named(scorer_folder: Path, writer: Path) -> None:
    spec = {"name": "ensemble", "members": [{"path": str(scorer_folder)}, {"path": str(writer)}]}
    with pytest.raises(SetupError, match=r"ensemble member 1: .* no head"):
        build("reward", spec).open()


def test_wrong_members_are_located() -> None:
    with pytest.raises(PluginError, match=r'reward\.members\.1\.pth .*did you mean "path"'):
        build("reward", {"name": "ensemble", "members": [{"path": "a"}, {"path": "b", "pth": "c"}]})
    with pytest.raises(PluginError, match=r"reward\.members"):
        build("reward", {"name": "ensemble", "members": [{"path": "a"}]})
    twice = [{"path": "a", "label": "x"}, {"path": "b", "label": "x"}]
    with pytest.raises(PluginError, match="two parts are called 'x'"):
        build("reward", {"name": "ensemble", "members": twice})


def test_missing_member_is_found_before_anything_runs(tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        "policy: {path: org/sft}\nprompts: {path: org/prompts}\ngenerate: {name: vllm, n: 2}\n"
        "score: {name: ensemble, members: [{path: org/a}, {path: ./not/there}]}\n"
    )
    with pytest.raises(RecipeError, match=r'score\.members\.1\.path "\./not/there" does not exist'):
        load_recipe(recipe, environment=True)


def test_the_plan_gives_an_ensemble_the_policys_tokenizer(tmp_path: Path) -> None:
    """So that it scores sampled ids where it can, like a single reward model."""
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        "policy: {path: org/sft}\nprompts: {path: org/prompts}\ngenerate: {name: vllm, n: 2}\n"
        "score: {name: ensemble, members: [{path: org/a}, {path: org/b}], aggregate: min}\n"
    )
    steps = {step.name: step for step in plan(load_recipe(recipe))}
    assert steps["iter-000/scores"].inputs["tokenizer"] == "path:org/sft"
    assert "org/b" in str(steps["iter-000/scores"].section)
