"""`align run`: what it need not check again."""

from __future__ import annotations

from pathlib import Path

import pytest

from align.commands.run import began, check_cache, check_numbers, choose_launch
from align.errors import InputError, SetupError
from align.recipe.load import load_recipe, resolved_yaml
from align.resources import accelerate_config
from tests.recipe import design_recipes


def test_a_run_began_with_the_same_recipe_only(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(design_recipes.HUMAN_DPO)
    recipe = load_recipe(path)
    assert not began(recipe, tmp_path)
    (tmp_path / "recipe.yaml").write_text(resolved_yaml(recipe))
    assert began(recipe, tmp_path)
    assert began(load_recipe(tmp_path / "recipe.yaml"), tmp_path), "a run's own recipe is the same"
    assert not began(load_recipe(path, ["train.args.learning_rate=1e-6"]), tmp_path)


def test_a_node_runs_one_rank_a_device_unless_the_users_own_file_says_how_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("num_processes: 3")
    for devices, name, ranks in (("", "cpu", 1), ("0", "single_gpu", 1), ("0,1,2,3", "ddp", 4)):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", devices)
        assert choose_launch(None) == (accelerate_config(name), ranks)
        assert choose_launch("zero3") == (accelerate_config("zero3"), ranks)
        assert choose_launch(str(own)) == (own, None)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "own.yaml holds no settings"),
        ("- num_processes", "own.yaml holds no settings"),
        ("num_processes: [", "own.yaml cannot be read: while parsing a flow node"),
    ],
)
def test_a_launch_file_without_settings_is_refused_at_once(
    text: str, says: str, tmp_path: Path
) -> None:
    """It was found by the first training stage, after everything before it."""
    own = tmp_path / "own.yaml"
    own.write_text(text)
    with pytest.raises(SetupError, match=says):
        choose_launch(str(own))


@pytest.mark.parametrize(
    ("nodes", "rank", "processes", "says"),
    [
        (0, 0, None, "--nodes 0: a run has at least 1 node"),
        (2, 2, None, "--node-rank 2: with --nodes 2 the ranks are 0 to 1"),
        (1, -1, None, "--node-rank -1: with --nodes 1 the ranks are 0 to 0"),
        (1, 0, 0, "--processes 0: a training stage has at least 1 rank a node"),
    ],
)
def test_a_launch_that_cannot_be_is_refused_at_once(
    nodes: int, rank: int, processes: int | None, says: str
) -> None:
    """Node 2 of 2 would wait ten minutes for the others."""
    with pytest.raises(InputError, match=says):
        check_numbers(nodes, rank, processes)


def test_a_cache_that_nothing_can_be_written_to_is_refused_at_once(tmp_path: Path) -> None:
    check_cache(None)
    check_cache(str(tmp_path / "made" / "cache"))
    assert list((tmp_path / "made" / "cache").iterdir()) == []
    (tmp_path / "file").write_text("")
    for name in ("file", "file/cache"):
        with pytest.raises(InputError, match=r"run.cache .*file.*; name a folder that can be"):
            check_cache(str(tmp_path / name))
