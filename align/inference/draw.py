"""The distribution that tokens are drawn from, and the draw. Axes: N rows, V vocabulary."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from align.inference.requests import Decoding


def process_logits(logits: Float[Tensor, "N V"], decoding: Decoding) -> Float[Tensor, "N V"]:
    """Natural log-probs after temperature, then top-k, then top-p of what is left; cut tokens have
    -inf.

    Ties with the k-th token stay; at least one token stays. At temperature 0 the most likely token
    has 0, all others -inf. The order and the ties are vLLM's, so that log-probs of both engines are
    the same.
    """
    logits = logits.float()
    if decoding.temperature == 0:
        point = torch.full_like(logits, -torch.inf)
        best = logits.argmax(dim=-1, keepdim=True)
        return point.scatter(-1, best, 0.0 * logits.gather(-1, best))
    logits = logits / decoding.temperature
    if 0 < decoding.top_k < logits.shape[-1]:
        least = logits.topk(decoding.top_k, dim=-1).values[:, -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    if decoding.top_p < 1:
        ascending, order = logits.sort(dim=-1)
        is_cut = ascending.softmax(dim=-1).cumsum(dim=-1) <= 1 - decoding.top_p
        is_cut[:, -1] = False
        logits = logits.masked_fill(is_cut.scatter(-1, order, is_cut), -torch.inf)
    return logits.log_softmax(dim=-1)


def draw_tokens(logps: Float[Tensor, "N V"], uniforms: Float[Tensor, " N"]) -> Int[Tensor, " N"]:
    """The token at which each row's cumulative probability first exceeds its uniform number in [0,
    1).

    `logps = log [.5, 0, .25, .25], uniforms = [.6] -> [2]`. A token of probability 0 is never
    drawn.
    """
    cumulative = logps.double().exp().cumsum(dim=-1)
    # The total is 1 up to rounding; rounding up to it would point past the last possible token.
    target = uniforms[:, None].clamp(max=1 - 1e-12) * cumulative[:, -1:]
    tokens = torch.searchsorted(cumulative, target, right=True)[:, 0]
    return tokens.clamp(max=logps.shape[-1] - 1)


def draw_uniforms(seed: int, count: int) -> Float[Tensor, " count"]:
    """The uniform numbers of one sample, a token each: a function of its seed alone."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, generator=generator, dtype=torch.float64)
