from pathlib import Path

import torch

from align.inference.logps import (
    TokenRow,
    accepts_logits_to_keep,
    batches_by_length,
    batches_of_lines,
    completion_logps,
    renumbered,
)
from align.models import load_causal
from align.records import WeightsRef

ROWS = [
    TokenRow([1, 5, 6, 7], [8, 9, 2]),
    TokenRow([1, 4], [5], 0.5),
    TokenRow([1, 4, 4, 4, 4, 4], [10, 11, 12, 13, 4, 5, 2], 2.0),
    TokenRow([1], [6, 6]),
]


def alone(model: torch.nn.Module, row: TokenRow) -> torch.Tensor:
    """The row's log-probs by the definition: one unpadded forward, every position."""
    ids = torch.tensor([[*row.prompt_ids, *row.completion_ids]])
    with torch.no_grad():
        logps = (model(ids).logits[0].double() / row.temperature).log_softmax(-1)
    first = len(row.prompt_ids) - 1
    return torch.stack([logps[first + t, token] for t, token in enumerate(row.completion_ids)])


def test_completion_logps_match_unpadded_rows(tiny_llama: Path) -> None:
    model = load_causal(WeightsRef(str(tiny_llama)))
    found = completion_logps(model, ROWS, pad_id=0, token_budget=20)
    for row, values in zip(ROWS, found, strict=True):
        assert values.shape == (len(row.completion_ids),)
        torch.testing.assert_close(values.double(), alone(model, row), atol=2e-6, rtol=0)


def test_completion_logps_do_not_depend_on_pad_id_or_logits_kept(tiny_llama: Path) -> None:
    model = load_causal(WeightsRef(str(tiny_llama)))
    assert accepts_logits_to_keep(model)
    one = completion_logps(model, ROWS, pad_id=0, keeps_logits=True)
    other = completion_logps(model, ROWS, pad_id=2, keeps_logits=False)
    for left, right in zip(one, other, strict=True):
        torch.testing.assert_close(left, right, atol=2e-6, rtol=0)


def test_completion_logps_are_the_same_in_every_layout(tiny_llama: Path) -> None:
    """Prompts shared by three, two and one rows, forwarded in several batches."""
    model = load_causal(WeightsRef(str(tiny_llama)))
    rows = [
        *ROWS,
        TokenRow([1, 4], [7, 7, 7, 2]),
        TokenRow([1, 5, 6, 7], [9]),
        TokenRow([1, 4], [8, 2], 0.7),
    ]
    plain = completion_logps(model, rows, pad_id=0)
    for layout in ("rows", "groups"):
        found = completion_logps(model, rows, pad_id=0, layout=layout, token_budget=24)
        for left, right in zip(plain, found, strict=True):
            torch.testing.assert_close(left, right, atol=2e-6, rtol=0)


def test_batches_keep_shared_lines_apart_and_number_their_rows() -> None:
    """Lines of 3 + 2 + 1 = 6 and 3 + 1 + 0 = 4 places are shared; the two single ones have 3."""
    rows = [TokenRow([1, 2, 3], [4] * size) for size in (3, 2, 2, 1, 1, 1)]
    lines = [[[2, 3]], [[4]], [[0, 1]], [[5]]]
    batches = batches_of_lines(rows, lines, token_budget=12)
    assert batches == [[[[0, 1]], [[2, 3]]], [[[4]], [[5]]]]
    assert renumbered(batches[0]) == [[[0, 1]], [[2, 3]]]
    assert renumbered([[[7, 3]], [[5]]]) == [[[0, 1]], [[2]]]


def test_batches_by_length_keep_to_the_budget() -> None:
    """Longest first; 3 rows of at most 5 tokens fit 15, the fourth does not."""
    assert batches_by_length([3, 5, 4, 2], 15) == [[1, 2, 0], [3]]
