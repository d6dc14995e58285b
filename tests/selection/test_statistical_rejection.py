"""ALGORITHMS 4.7 to the draw, the law of 4.2, and the edges of 4.6."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence

import pytest

from align.selection.statistical_rejection import StatisticalRejection, accept, acceptance, sweep

CANDIDATES = [1.0, 0.2, 0.7, -0.5, 0.9]
DRAWS = [0.6, 0.22, 0.5, 0.4, 0.85, 0.30, 0.02, 0.5]


class Scripted:
    """Hands out the given draws and counts them."""

    def __init__(self, draws: Sequence[float]) -> None:
        self.draws = list(draws)
        self.used = 0

    def random(self) -> float:
        self.used += 1
        return self.draws[self.used - 1]


def test_reference_vector() -> None:
    """[a, c, d, e] with all eight draws."""
    rng = Scripted(DRAWS)
    assert accept(CANDIDATES, 4, 0.5, rng) == [0, 2, 3, 4]
    assert rng.used == 8


def test_refreshing_with_each_acceptance_is_another_algorithm() -> None:
    """[a, b, c, e] on the same draws: after a, b is judged against .9 (p .2466 > .22)."""
    rng = Scripted(DRAWS)
    assert accept(CANDIDATES, 4, 0.5, rng, refresh="acceptance") == [0, 1, 2, 4]
    assert rng.used == 5


def test_acceptance_probabilities_of_the_reference_vector() -> None:
    first = [acceptance(score, 1.0, 0.5) for score in CANDIDATES]
    assert first == pytest.approx([1, 0.201897, 0.548812, 0.049787, 0.818731], abs=1e-6)
    assert sum(first) / 5 == pytest.approx(0.523845, abs=1e-6)
    assert acceptance(0.2, 0.9, 0.5) == pytest.approx(0.246597, abs=1e-6)
    assert acceptance(-0.5, 0.9, 0.5) == pytest.approx(0.060810, abs=1e-6)


def test_the_rule_follows_the_reference_vector(make_group: Callable) -> None:
    rule = StatisticalRejection(beta=0.5, keep=4)
    assert rule(*make_group(CANDIDATES), Scripted(DRAWS)) == [0, 2, 3, 4]


def test_a_sweep_stops_as_soon_as_it_has_enough() -> None:
    """The first two of equal scores, two draws."""
    rng = Scripted([0.9, 0.9])
    assert accept([0.3, 0.3, 0.3], 2, 0.5, rng) == [0, 1]
    assert rng.used == 2


def test_beta_zero_keeps_the_top() -> None:
    """Each sweep takes the maxima of what is left: 1.0, then .9, then .7."""
    assert accept(CANDIDATES, 3, 0.0, random.Random(0)) == [0, 4, 2]
    assert accept([1.0, 2.0, 2.0], 2, 0.0, random.Random(0)) == [1, 2]


def test_a_draw_of_exactly_zero_accepts_nothing_impossible() -> None:
    """U is in [0, 1): at beta 0 only the maximum passes, even on draws of 0."""
    assert accept([0.0, 1.0], 1, 0.0, Scripted([0.0, 0.0])) == [1]


def test_beta_infinite_keeps_the_first() -> None:
    rng = Scripted([0.999999] * 3)
    assert accept(CANDIDATES, 3, math.inf, rng) == [0, 1, 2]


def test_a_shortage_returns_what_there_is() -> None:
    """Where the paper's listing would raise."""
    assert sorted(accept([0.0, 5.0], 8, 0.5, random.Random(0))) == [0, 1]
    assert accept([], 8, 0.5, random.Random(0)) == []


def test_a_huge_spread_neither_overflows_nor_stalls() -> None:
    scores = [0.0, 1e308, -1e308, 5.0]
    assert accept(scores, 4, 1e-300, random.Random(0)) == [1, 3, 0, 2]


@pytest.mark.parametrize(("count", "mean"), [(16, 0.63), (64, 0.948)])
def test_the_kept_follow_the_tilted_law(count: int, mean: float) -> None:
    """ALGORITHMS 4.2: y ~ N(0, 1), r = tanh(y), beta .5, keep 8: mean .948 from 64 candidates, .63
    from 16.

    1,000 prompts of 8 give a standard error of about .01.
    """
    rng = random.Random(5)
    kept: list[float] = []
    for _ in range(1000):
        values = [rng.gauss(0, 1) for _ in range(count)]
        kept += [values[place] for place in accept([math.tanh(y) for y in values], 8, 0.5, rng)]
    assert sum(kept) / len(kept) == pytest.approx(mean, abs=0.03)


def test_the_kept_follow_the_tilted_law_on_an_enumerable_space() -> None:
    """Five completions with SFT probabilities p and rewards r; the target is p exp(r / beta) / Z.

    2,000 prompts of 256 candidates, 8 kept: the total variation of 16,000 draws from the very law
    is .005 on average, so .02 leaves no room for another law (that of `p` lies .51 away).
    """
    chances, rewards, beta = [0.4, 0.3, 0.2, 0.08, 0.02], [-1.0, 0.0, 0.5, 1.0, 1.5], 0.5
    rng = random.Random(11)
    kept = [0] * 5
    for _ in range(2000):
        drawn = rng.choices(range(5), chances, k=256)
        for place in accept([rewards[y] for y in drawn], 8, beta, rng):
            kept[drawn[place]] += 1
    weights = [p * math.exp(r / beta) for p, r in zip(chances, rewards, strict=True)]
    law = [weight / sum(weights) for weight in weights]
    found = [count / sum(kept) for count in kept]
    assert sum(kept) == 16_000
    assert sum(abs(a - b) for a, b in zip(found, law, strict=True)) / 2 < 0.02
    assert sum(abs(a - b) for a, b in zip(found, chances, strict=True)) / 2 > 0.5


def test_the_sampler_says_how_it_did(make_group: Callable) -> None:
    """4.7: the first sweep looks at five and accepts a and c, .523845 being expected; the weights
    add up to 2.619227 and their squares to 2.014744: 3.405 effective samples.
    """
    explained = StatisticalRejection(beta=0.5, keep=4).explain(
        *make_group(CANDIDATES), Scripted(DRAWS)
    )
    assert explained.kept == [0, 2, 3, 4]
    assert explained.counts == {"short": 0, "repeats": 0}
    shares = {name: above / below for name, (above, below) in explained.shares.items()}
    assert shares == pytest.approx(
        {
            "acceptance/rate": 0.4,
            "acceptance/expected": 0.523845,
            "effective_samples": 3.405051,
            "candidates_distinct": 5,
            "sweeps": 2,
        },
        abs=1e-5,
    )


def test_a_shortage_is_counted(make_group: Callable) -> None:
    group = make_group([0.5, 0.5, 0.5], tokens=[(1, 2), (1, 2), (3,)])
    explained = StatisticalRejection(keep=3).explain(*group, random.Random(0))
    assert explained.counts == {"short": 1, "repeats": 1}
    nothing = StatisticalRejection(keep=3).explain(*make_group([None]), random.Random(0))
    assert (nothing.kept, nothing.counts["short"], nothing.shares) == ([], 1, {})


def test_the_acceptance_rate_is_that_of_theorem_1() -> None:
    """r = tanh(y), y ~ N(0, 1), beta .5: rate and expectation of 500 prompts agree within .01."""
    rng = random.Random(2)
    accepted = looked = 0
    expected = 0.0
    for _ in range(500):
        scores = [math.tanh(rng.gauss(0, 1)) for _ in range(64)]
        first = sweep(scores, 8, 0.5, rng)[0]
        accepted, looked = accepted + len(first.accepted), looked + first.looked
        seen = scores[: first.looked]
        expected += sum(acceptance(score, max(scores), 0.5) for score in seen)
    assert accepted / looked == pytest.approx(expected / looked, abs=0.01)


def test_equal_completions_are_one_candidate(make_group: Callable) -> None:
    group = make_group([0.5, 0.5, 0.5], tokens=[(1, 2), (1, 2), (3,)])
    kept = StatisticalRejection(keep=8)(*group, random.Random(0))
    assert len(kept) == 2 and 2 in kept


def test_a_repeat_takes_the_last_score(make_group: Callable) -> None:
    """The pool {x: .9, y: .5} at beta 0: sample 2, not sample 0, stands for x."""
    group = make_group([0.1, 0.5, 0.9], tokens=[(1,), (2,), (1,)])
    rule = StatisticalRejection(keep=1, beta=0.0)
    assert rule(*group, random.Random(0)) == [2]


def test_failures_and_truncated_samples_are_no_candidates(make_group: Callable) -> None:
    group = make_group([None, 0.1, 9.0], cut=[2])
    assert StatisticalRejection()(*group, random.Random(0)) == [1]
    kept = StatisticalRejection(truncated="keep", beta=0.0, keep=1)(*group, random.Random(0))
    assert kept == [2]


@pytest.mark.parametrize("options", [{"beta": -0.1}, {"beta": math.nan}, {"keep": 0}])
def test_impossible_options_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be at least"):
        StatisticalRejection(**options)  # type: ignore[arg-type]
