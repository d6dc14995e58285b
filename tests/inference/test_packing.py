import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention.flex_attention import create_mask

from align.errors import DataError
from align.inference.packing import (
    Line,
    PackedRows,
    TokenRow,
    by_prompt,
    pack_rows,
    single_lines,
)
from align.inference.visibility import rule, visible, windows
from tests.inference.models import ARCHITECTURES, make_model

PAIR = [TokenRow([1, 5], [6, 7, 2]), TokenRow([1, 5], [8, 2])]


def test_group_of_two_is_laid_out_without_last_tokens() -> None:
    """Places: 1 5 | 6 7 | 8. Token 5 (place 1) predicts both first tokens, 6 predicts 7, 7 predicts
    2, and 8 predicts the other 2.
    """
    packed = pack_rows(PAIR, [[[0, 1]]], 0)
    assert packed.input_ids.tolist() == [[1, 5, 6, 7, 8]]
    assert packed.positions.tolist() == [[0, 1, 2, 3, 2]]
    assert packed.group.tolist() == [[0, 0, 0, 0, 0]]
    assert packed.branch.tolist() == [[0, 0, 1, 1, 2]]
    assert packed.predictor.tolist() == [1, 2, 3, 1, 4]
    assert packed.targets.tolist() == [6, 7, 2, 8, 2]
    assert packed.slots.tolist() == [0, 1, 2, 3, 4]
    assert packed.row.tolist() == [0, 0, 0, 1, 1]
    assert packed.is_token.tolist() == [[True, True, True], [True, True, False]]
    spread = packed.spread(torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0]))
    assert spread.tolist() == [[1.0, 2.0, 3.0], [4.0, 5.0, 0.0]]
    assert (packed.needed_tokens, packed.computed_tokens, packed.shares_prompts) == (5, 5, True)


def test_whole_rows_keep_their_last_tokens_and_say_where_they_end() -> None:
    """Places: 1 5 | 6 7 2 | 8 2; a row without completion ends with its prompt. The log-probs' side
    is as before.
    """
    packed = pack_rows(PAIR, [[[0, 1]]], 0, whole=True)
    assert packed.input_ids.tolist() == [[1, 5, 6, 7, 2, 8, 2]]
    assert packed.positions.tolist() == [[0, 1, 2, 3, 4, 2, 3]]
    assert packed.last.tolist() == [4, 6]
    assert packed.predictor.tolist() == [1, 2, 3, 1, 5]
    assert packed.targets.tolist() == [6, 7, 2, 8, 2]
    assert pack_rows([TokenRow([1, 5], [])], [[[0]]], 0, whole=True).last.tolist() == [1]


def test_mask_of_a_small_example_element_by_element() -> None:
    """Two groups in a line (prompts of 2 and 1, completions of 2 and 1 places; 1) and padding.

    Places: 0 1 prompt, 2 3 first completion, 4 second, 5 other prompt, 6 its completion; in the
    other line a prompt of 1, a completion of 1, then padding.
    """
    rows = [
        TokenRow([1, 5], [6, 7, 2]),
        TokenRow([1, 5], [8, 2]),
        TokenRow([3], [9, 2]),
        TokenRow([4], [9, 2]),
    ]
    packed = pack_rows(rows, [[[0, 1], [2]], [[3]]], 0)
    assert packed.positions.tolist() == [[0, 1, 2, 3, 2, 0, 1], [0, 1, 0, 0, 0, 0, 0]]
    assert [[int(seen) for seen in line] for line in visible(packed)[0]] == [
        [1, 0, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0, 0],
        [1, 1, 1, 1, 0, 0, 0],
        [1, 1, 0, 0, 1, 0, 0],
        [0, 0, 0, 0, 0, 1, 0],
        [0, 0, 0, 0, 0, 1, 1],
    ]
    assert [[int(seen) for seen in line] for line in visible(packed, window=2)[0]] == [
        [1, 0, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0, 0],
        [0, 1, 1, 0, 0, 0, 0],
        [0, 0, 1, 1, 0, 0, 0],
        [0, 1, 0, 0, 1, 0, 0],
        [0, 0, 0, 0, 0, 1, 0],
        [0, 0, 0, 0, 0, 1, 1],
    ]
    second = visible(packed)[1]
    assert second[:2, 2:].any().item() is False  # no token sees padding
    assert second[2:, :2].any().item() is False
    assert second.diagonal().all().item() is True  # and no softmax is over nothing


@st.composite
def layouts(draw: st.DrawFn) -> tuple[list[TokenRow], list[Line]]:
    """Some prompts with some completions each, cut into lines at random."""
    rng = random.Random(draw(st.integers(0, 2**32)))
    rows: list[TokenRow] = []
    groups: list[list[int]] = []
    for number in range(draw(st.integers(1, 4))):
        prompt = [20 + number, *rng.choices(range(4, 14), k=rng.randint(0, 4))]
        members = []
        for _ in range(draw(st.integers(1, 4))):
            members.append(len(rows))
            rows.append(TokenRow(prompt, rng.choices(range(4, 14), k=rng.randint(0, 4))))
        split = rng.randint(0, len(members))
        groups += [part for part in (members[:split], members[split:]) if part]
    lines: list[Line] = []
    for group in groups:
        if lines and rng.random() < 0.5:
            lines[-1] = [*lines[-1], group]
        else:
            lines.append([group])
    return rows, lines


def seen_by_hand(packed: PackedRows, rows: list[TokenRow], row: int) -> list[list[int]]:
    """The tokens that each completion token's predictor sees, as the mask has it."""
    mask = visible(packed)
    length = packed.input_ids.shape[1]
    found = []
    for place in packed.predictor[packed.row == row].tolist():
        line, at = divmod(place, length)
        found.append(packed.input_ids[line][mask[line, at]].tolist())
    return found


@settings(max_examples=60, deadline=None)
@given(layouts())
def test_each_token_is_predicted_from_its_own_prefix(
    case: tuple[list[TokenRow], list[Line]],
) -> None:
    """Whatever the layout, token t of a row is scored by a place that sees prompt + y_<t in order,
    at positions 0, 1, 2, ... .
    """
    rows, lines = case
    packed = pack_rows(rows, lines, 0)
    for number, row in enumerate(rows):
        whole = [*row.prompt_ids, *row.completion_ids]
        begin = len(row.prompt_ids)
        assert packed.targets[packed.row == number].tolist() == list(row.completion_ids)
        expected = [whole[: begin + t] for t in range(len(row.completion_ids))]
        assert seen_by_hand(packed, rows, number) == expected
    mask = visible(packed)
    length = packed.input_ids.shape[1]
    for place in packed.predictor.tolist():
        line, at = divmod(place, length)
        seen = packed.positions[line][mask[line, at]]
        assert seen.tolist() == list(range(len(seen)))


@settings(max_examples=30, deadline=None)
@given(layouts(), st.sampled_from([None, 1, 3]))
def test_rule_for_blocks_is_the_dense_mask(
    case: tuple[list[TokenRow], list[Line]], window: int | None
) -> None:
    rows, lines = case
    packed = pack_rows(rows, lines, 0)
    count, length = packed.input_ids.shape
    found = create_mask(rule(packed, window), count, None, length, length, device="cpu")
    assert torch.equal(found[:, 0], visible(packed, window))


def test_rows_of_one_prompt_are_found_in_order() -> None:
    rows = [TokenRow([1], [2]), TokenRow([3], [2]), TokenRow((1,), [4])]
    assert by_prompt(rows) == [[0, 2], [1]]
    assert single_lines(2) == [[[0]], [[1]]]


def test_empty_prompt_and_strangers_in_a_group_are_refused() -> None:
    with pytest.raises(DataError, match="a prompt has no tokens"):
        pack_rows([TokenRow([], [5])], [[[0]]], 0)
    with pytest.raises(ValueError, match=r"rows \[0, 1\] do not share a prompt"):
        pack_rows([TokenRow([1], [5]), TokenRow([2], [5])], [[[0, 1]]], 0)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("llama", {"full_attention": None}),
        ("mistral", {"full_attention": 5}),
        ("gemma3", {"full_attention": None, "sliding_attention": 5}),
    ],
)
def test_windows_are_read_from_the_config(name: str, expected: dict[str, int | None]) -> None:
    assert windows(make_model(*ARCHITECTURES[name]).config) == expected
