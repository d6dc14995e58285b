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
