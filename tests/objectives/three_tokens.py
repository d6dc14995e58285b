"""All nine two-token sequences of a three-token model: expectations without sampling."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

SEQUENCES = list(itertools.product(range(3), repeat=2))


class ThreeTokens:
    """Logits of the first token (3,) and of the second after each first (3, 3), in float64."""

    def __init__(self, seed: int, scale: float = 1.0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.first = (scale * torch.randn(3, generator=generator).double()).requires_grad_()
        self.second = (scale * torch.randn(3, 3, generator=generator).double()).requires_grad_()

    @property
    def parameters(self) -> list[Tensor]:
        return [self.first, self.second]

    def logps(self) -> Tensor:
        """(9, 2): log pi of both tokens of each sequence."""
        one, two = self.first.log_softmax(-1), self.second.log_softmax(-1)
        return torch.stack([torch.stack([one[a], two[a, b]]) for a, b in SEQUENCES])

    def chances(self) -> Tensor:
        """(9,): pi(y)."""
        return self.logps().sum(-1).exp()

    def entropies(self) -> Tensor:
        """(9, 2): entropy of the law that each token was drawn from."""
        one, two = self.first.log_softmax(-1), self.second.log_softmax(-1)
        start = -(one.exp() * one).sum()
        after = -(two.exp() * two).sum(-1)
        return torch.stack([torch.stack([start, after[a]]) for a, _ in SEQUENCES])

    def token_kl(self, reference: ThreeTokens, prefixes: Tensor | None = None) -> Tensor:
        """Sum over prefixes of their chance (held; default: pi's own) times the reverse KL of the
        next token.
        """
        one, two = self.first.log_softmax(-1), self.second.log_softmax(-1)
        other_one = reference.first.log_softmax(-1).detach()
        other_two = reference.second.log_softmax(-1).detach()
        chances = one.exp().detach() if prefixes is None else prefixes
        start = (one.exp() * (one - other_one)).sum()
        return start + (chances * (two.exp() * (two - other_two)).sum(-1)).sum()
