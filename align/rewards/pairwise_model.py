"""A pairwise preference model as a judge of whole groups, and as a reward: the mean win rate within
the group.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Annotated, Literal, Protocol

from annotated_types import Ge, Gt

from align.records import Prompt, Sample, Score
from align.rewards.per_sample import failure
from align.rewards.protocol import Group
from align.rewards.reading import Reading


class Compares(Protocol):
    """What a pairwise scorer asks."""

    def compare(self, items: Sequence[tuple[Prompt, str, str]]) -> list[float | str]:
        """For each (prompt, first, second) the probability that the first is preferred, or why
        there is none.
        """
        ...

    def close(self) -> None:
        """Frees models and processes."""
        ...


@dataclass(frozen=True)
class PairwiseModel:
    """A causal language model that answers `A` or `B`; n (n - 1) comparisons for a group of n."""

    path: str
    """Hub id or folder."""
    max_length: Annotated[int, Ge(1)] | None = None
    """Tokens of context and both completions; a longer comparison is not made. Default: the model's
    context."""
    batch_size: Annotated[int, Ge(1)] = 8
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    chat_template: str | None = None
    """As `policy.chat_template`; default: the preference model's own."""
    add_generation_prompt: bool = True
    """Whether the label is read after the assistant's header. False for the released RLHFlow
    checkpoint, which was trained and is read without header and BOS: it must agree with
    training."""
    temperature: Annotated[float, Gt(0)] = 1.0
    slot: str = "RESPONSE"
    """Name of the two slots in the template; RSO uses `SUMMARY` for summarisation."""

    def open(self) -> PairwiseScorer:
        """Loads the model; `SetupError` where `A` or `B` is not one token."""
        from align.rewards.comparer import Comparer

        return PairwiseScorer(Comparer(reading_of(self)))


def reading_of(config: PairwiseModel) -> Reading:
    """The config without the reward's own options."""
    return Reading(
        path=config.path,
        max_length=config.max_length,
        batch_size=config.batch_size,
        dtype=config.dtype,
        chat_template=config.chat_template,
        add_generation_prompt=config.add_generation_prompt,
        temperature=config.temperature,
        slot=config.slot,
    )


class PairwiseScorer:
    """Judge and scorer."""

    def __init__(self, comparer: Compares) -> None:
        self._comparer = comparer

    def preferences(self, groups: Sequence[Group]) -> list[list[list[float]]]:
        """The groups' preference matrices; NaN where a comparison could not be made."""
        matrices = [[[0.5] * len(group.samples) for _ in group.samples] for group in groups]
        for (g, i, j), result in self._compare_all(groups).items():
            p = result if isinstance(result, float) else math.nan
            matrices[g][i][j], matrices[g][j][i] = p, 1.0 - p
        return matrices

    def score(self, groups: Sequence[Group]) -> list[list[Score]]:
        """Mean probability of being preferred to the group's other samples, over the comparisons
        that could be made.
        """
        met: list[list[list[float | str]]] = [[[] for _ in group.samples] for group in groups]
        for (g, i, j), result in self._compare_all(groups).items():
            met[g][i].append(result)
            met[g][j].append(1.0 - result if isinstance(result, float) else result)
        return [
            [mean_win_rate(sample, met[g][i]) for i, sample in enumerate(group.samples)]
            for g, group in enumerate(groups)
        ]

    def close(self) -> None:
        """Frees the model."""
        self._comparer.close()

    def _compare_all(self, groups: Sequence[Group]) -> dict[tuple[int, int, int], float | str]:
        """P(i preferred to j), or the reason why not, by (group, i, j) with i < j."""
        places = [
            (g, i, j)
            for g, group in enumerate(groups)
            for i, j in combinations(range(len(group.samples)), 2)
        ]
        items = [
            (groups[g].prompt, groups[g].samples[i].text, groups[g].samples[j].text)
            for g, i, j in places
        ]
        return dict(zip(places, self._comparer.compare(items), strict=True))


def mean_win_rate(sample: Sample, results: Sequence[float | str]) -> Score:
    """`[0.7, 0.9]` -> 0.8; a sample without a single comparison fails."""
    made = [result for result in results if isinstance(result, float)]
    if made:
        return Score(sample.sample_id, math.fsum(made) / len(made))
    reasons = [result for result in results if isinstance(result, str)]
    return failure(
        sample, reasons[0] if reasons else "its group has no other sample to compare with"
    )
