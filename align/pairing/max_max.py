"""The best sample against another good one (RLHF Workflow's `max_max`; ALGORITHMS 6.2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from align.candidates import Uniform
from align.pairing.contest import Contest, Preferences, Truncated, check_margin
from align.records import Pair, Sample, Score


@dataclass(frozen=True)
class MaxMax:
    """At most one pair a prompt: the best sample against the second best, or against the best that
    another sampler drew.

    A released loop does the first; `between: samplers` is its paper's best of n of two policies,
    and with one sample a sampler the on-policy against reference pair of XPO (ALGORITHMS 11.5).
    With a judge, a sample's score is its mean win rate over the others.
    """

    between: Literal["samples", "samplers"] = "samples"
    """`samplers`: the two sides are of two samplers of `generate`; stored samples that differ in
    weights, temperature, top_p or top_k are."""
    min_margin: float = 0.0
    """The pair is made only if the scores differ by more than this."""
    truncated: Truncated = "drop"
    """Samples cut at the length limit: `drop`, `rejected` (never the chosen side) or `keep`."""

    def __post_init__(self) -> None:
        check_margin(self.min_margin)

    def __call__(
        self,
        samples: Sequence[Sample],
        scores: Sequence[Score],
        preferences: Preferences | None,
        rng: Uniform,
    ) -> list[Pair]:
        """The pair, or none for equal scores, equal tokens, too small a margin or one sampler."""
        contest = Contest.ranked(samples, scores, preferences, self.truncated)
        # Of equal scores the first comes first, and the pair stage shuffles each prompt's samples.
        ranked = sorted(contest.values, key=lambda index: -contest.values[index])
        while ranked and not contest.can_be_chosen(ranked[0]):
            ranked.pop(0)
        if not ranked:
            return []
        best, *others = ranked
        if self.between == "samplers":
            own = _sampler(samples[best])
            others = [index for index in others if _sampler(samples[index]) != own]
        pair = contest.pair(best, others[0], self.min_margin) if others else None
        return [] if pair is None else [pair]


def _sampler(sample: Sample) -> tuple[object, ...]:
    """What tells the samplers of a mixture apart: the number that the stage signed with, and of
    stored samples what they were drawn from.
    """
    number = sample.meta.get("sampler") if isinstance(sample.meta, Mapping) else None
    return number, sample.policy, sample.temperature, sample.top_p, sample.top_k
