"""What a forward costs, by its layout, and how a prompt's completions are cut into lines by it.

A shared line saves n - 1 prompts, but under a dense mask attention is computed between all its
places, other completions' included, so that long completions are cheaper in several lines.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedConfig

from align.inference.packing import Line, TokenRow, by_prompt, single_lines

DENSE_PAIR = 0.2
"""Cost of a pair of places under a dense mask, times the width of the model, in the matrix products
of one token: of a Llama 320 wide, sdpa on two CPU cores, forward and backward, 0.7 us against
1.1 ms.
"""
CAUSAL_PAIR = 0.15
"""The same where the mask is only causal and the kernel skips what lies after: 0.5 us."""
LONGEST_DENSE = 8192
"""Places of a line under a dense mask, whose own memory grows with the square: 256 MB here."""


@dataclass(frozen=True)
class Cost:
    """Costs of a model in the matrix products of one token."""

    dense_pair: float
    causal_pair: float

    @classmethod
    def of(cls, config: PreTrainedConfig) -> Cost:
        """A layer's products grow with the square of its width, a pair's with the width."""
        width = config.get_text_config().hidden_size
        return cls(DENSE_PAIR / width, CAUSAL_PAIR / width)

    def line(self, prompt: int, completions: Sequence[int]) -> float:
        """The cost of one line of a prompt and completions of so many tokens."""
        length = prompt + sum(completions)
        pair = self.causal_pair if len(completions) == 1 else self.dense_pair
        return length + pair * length * length

    def cut(self, prompt: int, completions: Sequence[int]) -> list[list[int]]:
        """The completions' places in lines, at about the least cost, evenly filled.

        >>> Cost(0.0, 0.0).cut(8, [2, 1, 3])
        [[0, 1, 2]]
        >>> Cost(1.0, 0.1).cut(8, [2, 1, 3])
        [[0], [1], [2]]
        """
        count, total = len(completions), sum(completions)
        best, number = sum(self.line(prompt, [size]) for size in completions), count
        for parts in range(1, count):
            length = prompt + total / parts
            price = parts * (length + self.dense_pair * length * length)
            if price < best and length <= LONGEST_DENSE:
                best, number = price, parts
        return deal(completions, number)


def deal(sizes: Sequence[int], number: int) -> list[list[int]]:
    """Places in `number` parts: the largest first, each to the part that holds least."""
    parts: list[list[int]] = [[] for _ in range(number)]
    filled = [(0, part) for part in range(number)]
    for place in sorted(range(len(sizes)), key=lambda place: (-sizes[place], place)):
        size, part = heapq.heappop(filled)
        parts[part].append(place)
        heapq.heappush(filled, (size + sizes[place], part))
    return [sorted(part) for part in parts]


def cut_lines(rows: Sequence[TokenRow], cost: Cost | None) -> list[Line]:
    """The rows in lines of one group each, as `cost` says; without it one row each."""
    if cost is None:
        return single_lines(len(rows))
    lines: list[Line] = []
    for members in by_prompt(rows):
        prompt = len(rows[members[0]].prompt_ids)
        sizes = [max(0, len(rows[member].completion_ids) - 1) for member in members]
        lines += [[[members[place] for place in part]] for part in cost.cut(prompt, sizes)]
    return lines
