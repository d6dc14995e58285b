from __future__ import annotations

import math

import pytest
import torch

from align.inference.draw import draw_tokens, draw_uniforms, process_logits
from align.inference.requests import Decoding

LOGITS = torch.log(torch.tensor([[0.5, 0.3, 0.15, 0.05]]))


@pytest.mark.parametrize(
    ("decoding", "expected"),
    [
        (Decoding(), [0.5, 0.3, 0.15, 0.05]),
        # p^2 / sum: .25, .09, .0225, .0025 over .365
        (Decoding(temperature=0.5), [0.684932, 0.246575, 0.061644, 0.006849]),
        (Decoding(top_k=2), [0.625, 0.375, 0, 0]),
        # .5 alone is short of .6, .5 + .3 is enough
        (Decoding(top_p=0.6), [0.625, 0.375, 0, 0]),
        # at least one token stays
        (Decoding(top_p=0.01), [1, 0, 0, 0]),
        # top-p acts on what top-k left: .526, .316, .158 of three; .8 needs two
        (Decoding(top_k=3, top_p=0.8), [0.625, 0.375, 0, 0]),
        (Decoding(top_k=9), [0.5, 0.3, 0.15, 0.05]),
        (Decoding(temperature=0), [1, 0, 0, 0]),
    ],
)
def test_process_logits_gives_the_distribution_sampled_from(
    decoding: Decoding, expected: list[float]
) -> None:
    found = process_logits(LOGITS.clone(), decoding).exp()[0].tolist()
    assert found == pytest.approx(expected, abs=1e-6)


def test_process_logits_keeps_ties_with_the_last_token_kept() -> None:
    found = process_logits(torch.log(torch.tensor([[0.4, 0.3, 0.3]])), Decoding(top_k=2)).exp()
    assert found[0].tolist() == pytest.approx([0.4, 0.3, 0.3], abs=1e-6)


def test_process_logits_passes_nan_on() -> None:
    logits = torch.tensor([[0.0, math.nan]])
    assert process_logits(logits, Decoding()).isnan().all()
    assert process_logits(logits, Decoding(temperature=0)).isnan().any()


@pytest.mark.parametrize(
    ("uniform", "token"), [(0.0, 0), (0.499, 0), (0.501, 2), (0.74, 2), (0.76, 3), (1.0, 3)]
)
def test_draw_tokens_inverts_the_cumulative_distribution(uniform: float, token: int) -> None:
    logps = torch.log(torch.tensor([[0.5, 0.0, 0.25, 0.25, 0.0]]))
    assert draw_tokens(logps, torch.tensor([uniform], dtype=torch.float64)).tolist() == [token]


def test_draws_follow_the_distribution() -> None:
    """20,000 draws: standard error of a share below .0036; 5 of them."""
    probabilities = torch.tensor([0.5, 0.0, 0.2, 0.3])
    logps = probabilities.log().expand(20_000, -1)
    tokens = draw_tokens(logps, draw_uniforms(7, 20_000))
    shares = torch.bincount(tokens, minlength=4) / 20_000
    assert (shares - probabilities).abs().max() < 0.018
    assert shares[1] == 0


def test_uniforms_are_a_function_of_the_seed() -> None:
    assert torch.equal(draw_uniforms(2**62 + 1, 20), draw_uniforms(2**62 + 1, 20))
    assert not torch.equal(draw_uniforms(2**62 + 1, 20), draw_uniforms(2**62 + 2, 20))
