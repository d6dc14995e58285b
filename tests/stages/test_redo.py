"""`--redo`: what it names, what follows, and that nothing is deleted before the run may go on."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from align.data.shards import write_part
from align.errors import InputError, InputsChanged
from align.recipe.sections import Recipe
from align.records import Score
from align.report.screen import RichScreen
from align.stages.commands import Launch
from align.stages.folder import RunFolder
from align.stages.manifest import Manifest, content_of, write_manifest
from align.stages.redo import Redo, steps_to_redo
from align.stages.run import run_recipe
from align.stages.steps import Step

STEPS = [
    Step("eval-prompts", "prompts"),
    Step("iter-000/prompts", "prompts"),
    Step("iter-000/samples", "generate", {"prompts": "step:iter-000/prompts"}),
    Step("iter-000/scores", "score", {"samples": "step:iter-000/samples"}),
    Step("iter-000/eval/scores", "score", {"prompts": "step:eval-prompts"}),
    Step("iter-000/stop", "stop"),
    Step("iter-001/stop", "stop"),
]


@pytest.mark.parametrize(
    ("names", "named", "also"),
    [
        ([], set(), set()),
        (["iter-000/samples"], {"iter-000/samples"}, {"iter-000/scores"}),
        (["iter-000/eval/"], {"iter-000/eval/scores"}, set()),
        (["score"], {"iter-000/scores", "iter-000/eval/scores"}, set()),
        (["iter-000/stop"], {"iter-000/stop"}, {"iter-001/stop"}),
        (["iter-001/stop"], {"iter-001/stop"}, set()),
    ],
)
def test_a_step_goes_with_all_that_read_it(
    names: list[str], named: set[str], also: set[str]
) -> None:
    assert steps_to_redo(STEPS, names) == Redo(frozenset(named), frozenset(named | also))


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("scores", "did you mean iter-000/scores or iter-000/eval/scores?"),
        ("eval/scores", "did you mean iter-000/eval/scores?"),
        ("sample", "did you mean iter-000/samples?"),
        ("iter-00/samples", "did you mean iter-000/samples?"),
        ("zzz", "it has eval-prompts, iter-000/prompts, iter-000/samples"),
    ],
)
def test_a_name_that_is_no_step_is_told_the_nearest(name: str, hint: str) -> None:
    with pytest.raises(InputError, match=f"^--redo {name}: this recipe has no such step; ") as got:
        steps_to_redo(STEPS, [name])
    assert hint in str(got.value)


def test_nothing_is_deleted_where_another_step_refuses(tmp_path: Path) -> None:
    """The prompts were made with another limit; the scores that `--redo` names must survive."""
    prompts: dict[str, object] = {"name": "addition", "digits": 1, "limit": 4}
    scored = {"generate": {"name": "stored", "path": "org/a"}, "score": {"name": "length"}}
    run = RunFolder(Recipe.model_validate({"prompts": prompts, **scored}), tmp_path)
    other = Recipe.model_validate({"prompts": {**prompts, "limit": 5}, **scored})
    for step in run.steps():
        folder = run.folder(step.name)
        write_part(folder, 0, [Score("s", 1.0)], Score)
        key = run.key(step)
        write_manifest(
            folder, Manifest(step.name, step.kind, key, content_of(folder), {}, {}, 1.0, "")
        )
    launch, screen = Launch(tmp_path / "unused.yaml"), RichScreen(Console())
    for redo in (["iter-000/scores"], []):
        with pytest.raises(InputsChanged, match=r"iter-000/prompts .*limit \(4 -> 5\)"):
            run_recipe(RunFolder(other, tmp_path), launch, screen, redo)
        assert run.manifest("iter-000/scores") is not None
    assert not (tmp_path / "recipe.yaml").exists()
