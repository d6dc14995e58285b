"""What the README shows is what the code accepts."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from align import LossOutput, PolicyBatch, PolicyOutputs, load_recipe
from align.ops.batch import Term

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()


class Objective(Protocol):
    def __call__(self, outputs: PolicyOutputs, batch: PolicyBatch) -> LossOutput: ...


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def test_readme_objective_is_the_loss_that_it_states() -> None:
    """Two rows of two tokens, the second token of row 1 masked: log pi = -3 and -1, so beta times
    the margin is 0.5 * (-3 - -1) = -1 and the loss log(1 + e).
    """
    (code,) = blocks("python")
    names: dict[str, object] = {
        "ClassVar": ClassVar,
        "F": F,
        "LossOutput": LossOutput,
        "PolicyBatch": PolicyBatch,
        "PolicyOutputs": PolicyOutputs,
        "Term": Term,
        "dataclass": dataclass,
        "torch": torch,
    }
    exec(compile(code, "README.md", "exec"), names)
    kind = names["Contrastive"]
    assert isinstance(kind, type)
    objective: Objective = kind(beta=0.5)
    outputs = PolicyOutputs(logps=torch.tensor([[-1.0, -2.0], [-1.0, -7.0]]))
    batch = PolicyBatch(
        mask=torch.tensor([[1.0, 1.0], [1.0, 0.0]]),
        chosen=torch.tensor([0]),
        rejected=torch.tensor([1]),
    )
    (term,) = objective(outputs, batch).terms
    assert term.per == "pair"
    values: Tensor = term.values
    torch.testing.assert_close(values, torch.tensor([math.log(1 + math.e)]))


def test_readme_recipe_is_accepted(tmp_path: Path) -> None:
    (text,) = blocks("yaml")
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    recipe = load_recipe(path)
    assert recipe.run.iterations == 3
    assert recipe.train is not None
    assert recipe.train.global_batch_size == 128


def test_readme_names_only_files_that_exist() -> None:
    named = set(
        re.findall(r"\b((?:align|docs|recipes|constraints)/[\w/]+\.(?:py|md|yaml|txt))", README)
    )
    named |= set(re.findall(r"\]\(([\w/.]+)\)", README))
    assert len(named) >= 5
    assert [name for name in named if not (ROOT / name).is_file()] == []
