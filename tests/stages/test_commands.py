"""The command lines of a step's processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from align.recipe.sections import Recipe
from align.resources import accelerate_config
from align.stages.commands import Launch, commands
from align.stages.folder import RunFolder


@pytest.mark.parametrize("processes", [None, 1, 2])
def test_runs_side_by_side_on_one_machine_train_on_ports_of_their_own(
    tmp_path: Path, processes: int | None
) -> None:
    """One rank listens too: the launch files start it by torchrun, whose own default is fixed."""
    recipe = Recipe.model_validate({"policy": {"path": "org/base"}, "sft": {"data": {"path": "x"}}})
    run = RunFolder(recipe, tmp_path)
    launch = Launch(accelerate_config("cpu"), processes=processes)
    (command,) = commands(run, run.steps(), launch)
    words = command.argv
    assert words[words.index("--main_process_port") + 1] == "0"


RECIPE = {
    "policy": {"path": "org/base"},
    "prompts": {"name": "addition"},
    "generate": {"name": "vllm", "n": 2},
    "score": {"name": "exact_match"},
    "pair": {"name": "max_min"},
    "train": {"objective": {"name": "dpo"}, "global_batch_size": 4},
}


def forked(tmp_path: Path, launch: Launch, **sections: object) -> dict[str, bool]:
    """By kind, whether a step's process may be a fork."""
    run = RunFolder(Recipe.model_validate(RECIPE | sections), tmp_path)
    kinds = ("generate", "score", "policy")
    return {
        step.kind: commands(run, [step], launch)[0].forks
        for step in run.steps()
        if step.kind in kinds
    }


def test_stages_of_one_process_without_an_engine_may_be_forks(tmp_path: Path) -> None:
    launch = Launch(accelerate_config("cpu"), processes=1)
    assert forked(tmp_path, launch) == {"generate": False, "score": True, "policy": True}
    plain = {"name": "transformers", "n": 2}
    assert forked(tmp_path, launch, generate=plain)["generate"]
    other = plain | {"python": "/other/python"}
    assert not forked(tmp_path, launch, generate=other)["generate"]
    assert not any(forked(tmp_path, launch, run={"fork": False}, generate=plain).values())


@pytest.mark.parametrize(
    ("launch", "forks"),
    [
        (Launch(accelerate_config("cpu")), True),
        (Launch(accelerate_config("cpu"), processes=2), False),
        (Launch(accelerate_config("cpu"), processes=1, nodes=2), False),
        (Launch(accelerate_config("zero2"), processes=1), False),
        (Launch(accelerate_config("fsdp2"), processes=1), False),
    ],
    ids=["one rank", "two ranks", "two nodes", "zero", "fsdp"],
)
def test_training_is_a_fork_where_it_is_one_plain_rank(
    tmp_path: Path, launch: Launch, forks: bool
) -> None:
    assert forked(tmp_path, launch) == {"generate": False, "score": True, "policy": forks}


def test_nothing_is_forked_where_there_is_cuda(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A library may begin CUDA when it is imported, and CUDA does not survive a fork."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert not any(forked(tmp_path, Launch(accelerate_config("cpu"), processes=1)).values())
