"""How far a policy has left the one that sampled, as distributions that a log line can hold
(ALGORITHMS 7.7): shares of sequences by log-ratio, and what lengths do to negatives.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from align.ops.batch import Ratio

LOG_RATIO_EDGES = (-math.inf, -10.0, -5.0, -3.0, -2.0, -1.0, -0.3, 0.3, 1.0, 2.0, 3.0, math.inf)
"""Bins of log pi/mu of a sequence. e^-3 = .05: where a negative no longer teaches."""
LENGTHS = tuple(2**power for power in range(1, 17))
"""Upper ends of bins of trained tokens, the lower end being half of it; longer is in the last."""


def histogram(
    log_ratio: Float[Tensor, " N"], is_counted: Bool[Tensor, " N"], name: str
) -> dict[str, Ratio]:
    """`name/[LOW,HIGH)`: the share of counted sequences whose log-ratio lies there.

    >>> found = histogram(torch.tensor([-4.0, 0.0]), torch.tensor([True, True]), "x")
    >>> found["x/[-5,-3)"].numerators.tolist(), found["x/[-0.3,0.3)"].numerators.tolist()
    ([1.0, 0.0], [0.0, 1.0])
    """
    below = is_counted.to(torch.float32)
    return {
        f"{name}/[{low:g},{high:g})": Ratio(
            below * ((log_ratio >= low) & (log_ratio < high)).to(torch.float32), below
        )
        for low, high in pairwise(LOG_RATIO_EDGES)
    }


def by_length(
    values: Float[Tensor, " N"],
    lengths: Float[Tensor, " N"],
    is_counted: Bool[Tensor, " N"],
    name: str,
) -> dict[str, Ratio]:
    """`name/length/L`: the mean of counted sequences of more than L / 2 and at most L tokens."""
    found: dict[str, Ratio] = {}
    for length in LENGTHS:
        is_last = length == LENGTHS[-1]
        is_in = is_counted & (lengths > length / 2) & ((lengths <= length) | is_last)
        if length == LENGTHS[0]:
            is_in = is_counted & (lengths <= length)
        below = is_in.to(torch.float32)
        found[f"{name}/length/{length}"] = Ratio(torch.where(is_in, values, 0.0), below)
    return found
