"""Which rows each optimizer step sees: decided once, for the whole job, the same on every rank.

A step's composition depends on the seed alone, never on ranks or micro-batches; those only cut it
into pieces. So the denominators of a step are known before its first forward, and a resumed or
re-launched run sees the same steps.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

from align.records import derive_seed

OPEN_STEPS = 8
"""Steps that wait for a small group to fill them; bounds the search and keeps the order near the
shuffle's.
"""


@dataclass(frozen=True)
class Shape:
    """How a global batch is cut: `micro` items a forward, `accumulation` forwards a rank, `world`
    ranks.
    """

    micro: int
    accumulation: int
    world: int

    @property
    def size(self) -> int:
        """Items an optimizer step sees."""
        return self.micro * self.accumulation * self.world


def plan_epoch(
    groups: Sequence[Sequence[int]], size: int, rng: random.Random, *, whole: bool
) -> list[list[int]]:
    """Steps of at most `size` items each, every item once.

    `groups` lists each prompt's items (pairs or completions). With `whole`, groups are shuffled and
    none is divided between steps unless it is larger than one; otherwise items are shuffled and
    only the last step is smaller.

    >>> plan_epoch([[0, 1], [2], [3, 4]], 3, random.Random(0), whole=True)
    [[0, 1, 2], [3, 4]]
    """
    if not whole:
        items = [item for group in groups for item in group]
        rng.shuffle(items)
        return [items[begin : begin + size] for begin in range(0, len(items), size)]
    order = [
        group[begin : begin + size] for group in groups for begin in range(0, len(group), size)
    ]
    rng.shuffle(order)
    steps: list[list[int]] = []
    waiting: list[list[int]] = []
    for group in order:
        step = next((step for step in waiting if len(step) + len(group) <= size), None)
        if step is None:
            step = []
            steps.append(step)
            waiting.append(step)
        step.extend(group)
        waiting = [step for step in waiting if len(step) < size][-OPEN_STEPS:]
    return steps


def plan_steps(
    groups: Sequence[Sequence[int]],
    size: int,
    *,
    seed: int,
    whole: bool,
    epochs: float,
    max_steps: int = -1,
) -> list[list[int]]:
    """The steps of a whole job: epochs (a fraction ends inside one) or `max_steps` if positive,
    each epoch reshuffled.
    """
    steps: list[list[int]] = []
    epoch = 0
    while True:
        new = plan_epoch(
            groups, size, random.Random(derive_seed(seed, "order", epoch)), whole=whole
        )
        if max_steps > 0:
            steps.extend(new[: max_steps - len(steps)])
        else:
            steps.extend(
                new[: math.ceil((epochs - epoch) * len(new))] if epochs - epoch < 1 else new
            )
        epoch += 1
        if not new or (len(steps) >= max_steps if max_steps > 0 else epoch >= epochs):
            return steps


def micro_batch(step: Sequence[int], shape: Shape, accumulation: int, rank: int) -> list[int]:
    """The items of one forward of one rank; empty where a smaller step has none left for it."""
    begin = (accumulation * shape.world + rank) * shape.micro
    return list(step[begin : begin + shape.micro])
