"""Rows through a model in lines of one prompt each."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest
import torch

from align.inference.cost import Cost, cut_lines
from align.inference.packing import Line, TokenRow, pack_rows, single_lines
from align.inference.scores import forward_scores, shares_prompts
from align.models import load_scorer
from align.rewards.batches import run_lines

TOGETHER = partial(cut_lines, cost=Cost(0.0, 0.0))
ROWS = [
    TokenRow((1, 5), (6, 2)),
    TokenRow((1,), (7, 2)),
    TokenRow((1, 5), (8, 9, 2)),
    TokenRow((1, 5), (6, 2)),
    TokenRow((1, 5), (4,)),
]


def test_equal_rows_run_once_and_prompts_stand_together() -> None:
    seen: list[tuple[int, list[Line]]] = []

    def forward(rows: Sequence[TokenRow], lines: Sequence[Line]) -> list[float]:
        seen.append((len(rows), list(lines)))
        return [float(sum(row.completion_ids)) for row in rows]

    assert run_lines(ROWS, 8, TOGETHER, forward) == [8.0, 9.0, 19.0, 8.0, 4.0]
    # the single row needs no mask and runs alone; the group of three is one line
    assert seen == [(1, [[[0]]]), (3, [[[0, 1, 2]]])]


@pytest.mark.parametrize("order", [ROWS, ROWS[::-1]])
def test_no_forward_holds_more_rows_than_asked_for(order: list[TokenRow]) -> None:
    """Three rows of a prompt at two a forward: two and one, the same ones in any order."""
    met: list[set[tuple[int, ...]]] = []

    def forward(rows: Sequence[TokenRow], lines: Sequence[Line]) -> list[float]:
        met.append({tuple(row.completion_ids) for row in rows})
        return [0.0] * len(rows)

    run_lines(order, 2, TOGETHER, forward)
    assert met == [{(7, 2), (8, 9, 2)}, {(4,), (6, 2)}]


def test_scores_of_a_group_are_those_of_its_rows(scorer_folder: Path) -> None:
    """A base that runs once for the prompt and three completions, and once for each of them."""
    model = load_scorer(scorer_folder).eval()
    rows = [ROWS[0], ROWS[2], ROWS[4]]
    assert shares_prompts(model, rows, 0)
    together = forward_scores(model, pack_rows(rows, [[[0, 1, 2]]], 0, whole=True))
    apart = forward_scores(model, pack_rows(rows, single_lines(3), 0, whole=True))
    with torch.no_grad():
        expected = [
            float(model(input_ids=torch.tensor([[*row.prompt_ids, *row.completion_ids]])).logits)
            for row in rows
        ]
    assert together.tolist() == pytest.approx(expected, abs=1e-5)
    assert apart.tolist() == pytest.approx(expected, abs=1e-5)
