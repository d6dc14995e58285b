"""The rows of earlier iterations that a policy is trained on again (`train.history`)."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from align.records import Pair, Sample, Score


@dataclass
class Rows:
    """Training data of one or more iterations."""

    samples: list[Sample] = field(default_factory=list)
    scores: list[Score] = field(default_factory=list)
    pairs: list[Pair] = field(default_factory=list)
    ties: frozenset[Pair] = frozenset()
    """Pairs to be trained with the soft label 0.5."""

    def items(self) -> int:
        """Pairs, or samples where there are no pairs."""
        return len(self.pairs) or len(self.samples)

    def by_prompt(self) -> dict[str, int]:
        """Items of each prompt."""
        prompt_of = {sample.sample_id: sample.prompt_id for sample in self.samples}
        names = [pair.chosen for pair in self.pairs] or list(prompt_of)
        found: dict[str, int] = {}
        for name in names:
            found[prompt_of[name]] = found.get(prompt_of[name], 0) + 1
        return found

    def of(self, prompts: set[str]) -> Rows:
        """The rows of these prompts."""
        samples = [sample for sample in self.samples if sample.prompt_id in prompts]
        ids = {sample.sample_id for sample in samples}
        scores = [score for score in self.scores if score.sample_id in ids]
        return Rows(samples, scores, [pair for pair in self.pairs if pair.chosen in ids], self.ties)


def thin(past: Sequence[Rows], current: int, share: float, seed: int) -> list[Rows]:
    """Earlier rows so that they make up at most `share` of all, `current` being the others.

    Whole prompts are drawn at random, all iterations alike, because a policy gradient compares the
    samples of a prompt; one that would take the rest past the share is passed over.
    """
    left = math.floor(current * share / (1 - share) + 1e-9)  # 2 * 0.6 / 0.4 < 3 here
    groups = [
        (iteration, prompt, size)
        for iteration, rows in enumerate(past)
        for prompt, size in rows.by_prompt().items()
    ]
    random.Random(seed).shuffle(groups)
    kept: list[set[str]] = [set() for _ in past]
    for iteration, prompt, size in groups:
        if size <= left:
            kept[iteration].add(prompt)
            left -= size
    return [rows.of(prompts) for rows, prompts in zip(past, kept, strict=True)]
