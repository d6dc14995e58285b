"""Statistical rejection sampling, RSO (arXiv:2309.06657, Algorithm 1; ALGORITHMS 4).

Samples of the policy are accepted so that the kept ones follow pi(y) exp(r(y) / beta) / Z.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from align.candidates import Explained, Uniform, usable
from align.records import Sample, Score

Refresh = Literal["sweep", "acceptance"]


@dataclass(frozen=True)
class Sweep:
    """One pass over what was left."""

    looked: int
    """Candidates that were judged, one draw each."""
    accepted: tuple[int, ...]


def sweep(
    scores: Sequence[float], keep: int, beta: float, rng: Uniform, refresh: Refresh = "sweep"
) -> list[Sweep]:
    """The passes of Algorithm 1, see `accept`; none over an empty pool."""
    sweeps: list[Sweep] = []
    pool = list(range(len(scores)))
    missing = keep
    while pool and missing:
        highest = max(scores[index] for index in pool)
        left, accepted, looked = set(pool), list[int](), 0
        for index in pool:
            looked += 1
            if rng.random() < acceptance(scores[index], highest, beta):
                accepted.append(index)
                left.remove(index)
                if len(accepted) == missing:
                    break
                if refresh == "acceptance" and left:
                    highest = max(scores[other] for other in left)
        sweeps.append(Sweep(looked, tuple(accepted)))
        missing -= len(accepted)
        pool = [index for index in pool if index in left]
    return sweeps


def accept(
    scores: Sequence[float], keep: int, beta: float, rng: Uniform, *, refresh: Refresh = "sweep"
) -> list[int]:
    """Indices of accepted candidates in order of acceptance; all there are if fewer than `keep`.

    Sweeps over what is left, in order; a candidate is accepted if U[0, 1) < exp((r - r_max) /
    beta), with one draw for each candidate looked at and r_max the largest score left. beta 0
    accepts only the maxima (the top `keep`), beta inf the first `keep`. `refresh` says when r_max
    follows the acceptances: with each `sweep` (the paper) or with each `acceptance`, which accepts
    more of the lower scores.

    The order decides who is looked at first, so it must not depend on the scores.

        >>> draws = iter([0.6, 0.22, 0.5, 0.4, 0.85, 0.30, 0.02, 0.5])
        >>> class Scripted:
        ...     def random(self): return next(draws)
        >>> accept([1.0, 0.2, 0.7, -0.5, 0.9], 4, 0.5, Scripted())
        [0, 2, 3, 4]
    """
    return [index for one in sweep(scores, keep, beta, rng, refresh) for index in one.accepted]


def acceptance(score: float, highest: float, beta: float) -> float:
    """exp((score - highest) / beta), 1 for the highest, exact at beta 0 and inf."""
    if score >= highest:
        return 1.0
    return math.exp((score - highest) / beta) if beta > 0 else 0.0


@dataclass(frozen=True)
class StatisticalRejection:
    """RSO's sampler. Samples with the same tokens are one candidate.

    Candidates are looked at in the order given, which must not depend on the scores: the select
    stage shuffles each prompt's by its seed. With few candidates the kept ones are tilted less than
    beta says (ALGORITHMS 4.2): sample many (64 for 8).
    """

    beta: float = 0.5
    """Temperature of the tilt in units of the score, >= 0; 0 keeps the best, `.inf` any."""
    keep: int = 8
    """How many samples a prompt, >= 1; a prompt with fewer distinct candidates yields them
    all, and is counted as `short`."""
    refresh: Refresh = "sweep"
    """When the maximum is taken anew: each `sweep` (the paper) or each `acceptance`."""
    truncated: Literal["drop", "keep"] = "drop"
    """Whether samples cut at the length limit may be candidates."""

    def __post_init__(self) -> None:
        if not self.beta >= 0:
            raise ValueError(f"beta must be at least 0, not {self.beta}")
        if self.keep < 1:
            raise ValueError(f"keep must be at least 1, not {self.keep}")

    def __call__(
        self, samples: Sequence[Sample], scores: Sequence[Score], rng: Uniform
    ) -> list[int]:
        """Indices kept, in order of acceptance."""
        return self.explain(samples, scores, rng).kept

    def explain(
        self, samples: Sequence[Sample], scores: Sequence[Score], rng: Uniform
    ) -> Explained:
        """The same, and how the sampler did on this prompt.

        `acceptance/rate` is that of the first sweep, the only one that is judged against the best
        of all; `acceptance/expected` what Theorem 1 says of it, E[exp((r - r_max) / beta)] over the
        candidates looked at; `effective_samples` (sum w)^2 / sum w^2 of all these weights: how many
        candidates the tilted law leaves.
        """
        values = usable(samples, scores, keep_truncated=self.truncated == "keep")
        # The pool is a map, as in the paper: a repeat keeps its first place and takes the last
        # score.
        pool = {samples[index].completion_ids: index for index in values}
        distinct = list(pool.values())
        pool_scores = [values[index] for index in distinct]
        sweeps = sweep(pool_scores, self.keep, self.beta, rng, self.refresh)
        kept = [distinct[place] for one in sweeps for place in one.accepted]
        counts = {"short": int(len(kept) < self.keep), "repeats": len(values) - len(distinct)}
        if not sweeps:
            return Explained(kept, counts)
        highest = max(pool_scores)
        weights = [acceptance(score, highest, self.beta) for score in pool_scores]
        first, total = sweeps[0], math.fsum(weights)
        shares = {
            "acceptance/rate": (len(first.accepted), first.looked),
            # of those looked at: all candidates' mean would not allow for the stop at enough
            "acceptance/expected": (math.fsum(weights[: first.looked]), first.looked),
            "effective_samples": (total**2 / math.fsum(weight**2 for weight in weights), 1),
            "candidates_distinct": (len(distinct), 1),
            "sweeps": (len(sweeps), 1),
        }
        return Explained(kept, counts, shares)
