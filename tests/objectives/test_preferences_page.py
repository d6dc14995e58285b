"""The page on preference objectives names everything that a recipe can name."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

from align.objectives.dpo import PairLoss
from tests.objectives.pair_objectives import PREFERENCE_OBJECTIVES

PAGE = Path(__file__).parents[2] / "docs" / "preferences.md"


def test_every_loss_and_objective_has_one_line() -> None:
    first, second = (
        re.findall(r"^\| `(\w+)` \|", part, flags=re.MULTILINE)
        for part in PAGE.read_text(encoding="utf-8").split("## Objectives of their own")
    )
    assert sorted(first) == sorted(get_args(PairLoss))
    names = {type(objective).__name__.lower() for objective in PREFERENCE_OBJECTIVES} - {"dpo"}
    assert sorted(second) == sorted(names)
