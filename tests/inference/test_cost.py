import pytest

from align.inference.cost import LONGEST_DENSE, Cost, cut_lines, deal
from align.inference.packing import TokenRow


def test_line_costs_its_places_and_their_pairs() -> None:
    """Prompt 8, completions 2 and 4: 14 places, 14 + 0.5 * 196; alone 12 + 0.1 * 144."""
    cost = Cost(dense_pair=0.5, causal_pair=0.1)
    assert cost.line(8, [2, 4]) == 112
    assert cost.line(8, [4]) == pytest.approx(26.4)


def test_long_prompts_are_shared_and_long_completions_are_not() -> None:
    """Width 320: at 256 + 8 x 64 one line of 768 costs less than 8 rows of 320; with 8 completions
    of 1,024 after a prompt of 8 there is nothing to share.
    """
    cost = Cost(0.2 / 320, 0.15 / 320)
    assert cost.cut(256, [64] * 8) == [list(range(8))]
    assert cost.cut(8, [1024] * 8) == [[index] for index in range(8)]


def test_group_is_cut_where_two_lines_cost_less_than_one() -> None:
    """Pair cost 0.01, prompt 50, four completions of 50. One line: 250 + 625 = 875. Two of 150:
    2 * (150 + 225) = 750. Three of 50 + 200 / 3: 3 * (116.7 + 136.1) = 758. Four single rows at the
    same price a pair: 4 * (100 + 100) = 800.
    """
    assert len(Cost(0.01, 0.01).cut(50, [50] * 4)) == 2


def test_line_too_long_for_a_dense_mask_is_cut_even_if_pairs_cost_nothing() -> None:
    lines = Cost(0.0, 0.0).cut(100, [3000] * 4)
    assert [len(line) for line in lines] == [2, 2]
    assert 100 + 2 * 3000 <= LONGEST_DENSE < 100 + 3 * 3000


def test_parts_are_filled_evenly() -> None:
    """9 | 5 4, then 3 to the lesser: 9 | 9, ties to the first part."""
    assert deal([9, 5, 4, 3], 2) == [[0, 3], [1, 2]]
    assert deal([1, 1, 1], 3) == [[0], [1], [2]]


def test_lines_hold_one_prompt_each() -> None:
    rows = [TokenRow([1], [5, 2]), TokenRow([3], [2]), TokenRow([1], [6, 2])]
    assert cut_lines(rows, Cost(0.0, 0.0)) == [[[0, 2]], [[1]]]
    assert cut_lines(rows, None) == [[[0]], [[1]], [[2]]]
