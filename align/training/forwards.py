"""How the rows of an optimizer step are cut into forwards: by a number of items, or by a budget of
tokens.

Every rank makes the same number of forwards a step, the most that any step needs, so that gradient
accumulation is one number for the job; where a step needs fewer, the rest are filler. The cut
depends on the data and the number of ranks alone, so a resumed run makes the same one.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from align.training.plan import Shape, micro_batch

IMBALANCE = 1.25
"""A prompt's rows are divided between ranks where they are so many times a rank's even share."""


@dataclass(frozen=True)
class Schedule:
    """`steps[step][forward * world + rank]` lists the items of one forward of one rank; empty for
    filler.
    """

    steps: Sequence[Sequence[Sequence[int]]]
    world: int

    @property
    def accumulation(self) -> int:
        """Forwards of one rank in each step."""
        return len(self.steps[0]) // self.world if self.steps else 1


@dataclass(frozen=True)
class Extent:
    """What some items take in a forward."""

    lines: int
    longest: int
    """Places of the longest line."""
    shares_prompts: bool
    """Whether any line holds several completions; such forwards need a mask."""

    @property
    def tokens(self) -> int:
        """Places computed, padding included."""
        return self.lines * self.longest

    def __add__(self, other: Extent) -> Extent:
        return Extent(
            self.lines + other.lines,
            max(self.longest, other.longest),
            self.shares_prompts or other.shares_prompts,
        )


@dataclass(frozen=True)
class _Part:
    items: tuple[int, ...]
    extent: Extent


Measure = Callable[[Sequence[int]], Extent]


def cut_by_size(steps: Sequence[Sequence[int]], shape: Shape) -> Schedule:
    """`shape.micro` items a forward, in the order of the step."""
    return Schedule(
        [
            [
                micro_batch(step, shape, forward, rank)
                for forward in range(shape.accumulation)
                for rank in range(shape.world)
            ]
            for step in steps
        ],
        shape.world,
    )


def cut_by_tokens(
    steps: Sequence[Sequence[int]],
    prompts: Sequence[str],
    measure: Measure,
    budget: int,
    world: int,
) -> Schedule:
    """At most `budget` tokens a forward, padding included, with `prompts[item]` kept together.

    A prompt's items are divided where they exceed the budget or leave other ranks idle; a single
    item that exceeds it gets a forward of its own. The longest come first, so that what does not
    fit into memory fails at once, and the ranks of a forward hold lines of similar length.
    """
    cut = [_cut_step(step, prompts, measure, budget, world) for step in steps]
    places = max((len(parts) for parts in cut), default=0)
    places = max(world, -(-places // world) * world)
    return Schedule([[*parts, *[()] * (places - len(parts))] for parts in cut], world)


def _cut_step(
    step: Sequence[int], prompts: Sequence[str], measure: Measure, budget: int, world: int
) -> list[tuple[int, ...]]:
    """The items of each forward; forward by forward, in a forward rank by rank."""
    together: dict[str, list[int]] = {}
    for item in step:
        together.setdefault(prompts[item], []).append(item)
    whole = [_Part(tuple(items), measure(items)) for items in together.values()]
    share = sum(part.extent.tokens for part in whole) / world
    limit = budget if world == 1 else min(budget, IMBALANCE * share)
    parts = [part for group in whole for part in _divide(group, measure, limit, budget)]
    parts.sort(key=lambda part: (not part.extent.shares_prompts, -part.extent.longest, part.items))
    least = len(_ends(parts, budget))
    bins = -(-least // world) * world
    # the smallest capacity that needs no more forwards fills them evenly
    low, high = 1, budget
    while low < high:
        middle = (low + high) // 2
        if len(_ends(parts, middle)) <= bins:
            high = middle
        else:
            low = middle + 1
    filled = sorted(_fill(parts, high), key=lambda part: (-part.extent.tokens, part.items))
    rounds = [filled[begin : begin + world] for begin in range(0, len(filled), world)]
    # the largest of each round goes to another rank than that of the round before
    return [
        items
        for number, some in enumerate(rounds)
        for items in _dealt([part.items for part in some], world, is_reversed=number % 2 == 1)
    ]


def _divide(part: _Part, measure: Measure, limit: float, budget: int) -> list[_Part]:
    """The part in as few even parts as keep to the limit on average, and each to the budget."""
    count = len(part.items)
    number = min(count, math.ceil(part.extent.tokens / limit))
    while True:
        edges = [count * place // number for place in range(number + 1)]
        pieces = [part.items[begin:end] for begin, end in itertools.pairwise(edges)]
        parts = [part] if number == 1 else [_Part(own, measure(own)) for own in pieces]
        if number == count or all(own.extent.tokens <= budget for own in parts):
            return parts
        number += 1


def _fill(parts: Sequence[_Part], capacity: int) -> list[_Part]:
    """Neighbours joined while they fit; those that need a mask stay apart from those that do
    not.
    """
    joined: list[_Part] = []
    for begin, end in itertools.pairwise([0, *_ends(parts, capacity)]):
        first, *others = parts[begin:end]
        extent = sum((part.extent for part in others), start=first.extent)
        items = itertools.chain.from_iterable(part.items for part in parts[begin:end])
        joined.append(_Part(tuple(items), extent))
    return joined


def _ends(parts: Sequence[_Part], capacity: int) -> list[int]:
    """Where each run of neighbours that fit together ends."""
    ends: list[int] = []
    lines = longest = 0
    shares = False
    for place, part in enumerate(parts):
        own = part.extent
        lines, longest = lines + own.lines, max(longest, own.longest)
        if place and (own.shares_prompts != shares or lines * longest > capacity):
            ends.append(place)
            lines, longest = own.lines, own.longest
        shares = own.shares_prompts
    return [*ends, len(parts)] if parts else []


def _dealt(some: list[tuple[int, ...]], world: int, *, is_reversed: bool) -> list[tuple[int, ...]]:
    padded = [*some, *[()] * (world - len(some))]
    return padded[::-1] if is_reversed else padded
