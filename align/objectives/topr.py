"""Tapered off-policy REINFORCE (ALGORITHMS 7): learns from fixed samples without a KL term."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from align.objectives.regularisers import KlPenalty, check_entropy, regulariser_needs
from align.objectives.windowed import weigh_by_window
from align.ops.batch import LossOutput, PolicyBatch, PolicyOutputs
from align.ops.windows import RatioLevel, Window, check_window


@dataclass(frozen=True)
class Topr:
    """arXiv:2503.14286: grad J = E_mu[ clip(rho, a, b) A grad log pi(y) ], rho = pi(y) / mu(y).

    The window [a, b] is `positive` where A >= 0 and `negative` where A < 0; no gradient flows
    through the clipped ratio. Loss: - mean_i alpha_i A_i sum_t log pi(y_it). With the default
    windows positives are imitated at full strength and negatives fade as the policy leaves them, so
    the objective is bounded above.
    """

    scope: ClassVar[str] = "local"

    positive: Window = (1.0, 1.0)
    """[low, high] of the ratio where the advantage is >= 0; equal ends are a constant weight."""
    negative: Window = (0.0, 1.0)
    """[low, high] where it is negative; low > 0 brings back the instability of plain REINFORCE."""
    ratio_level: RatioLevel = "sequence"
    """`sequence` (the paper: product over tokens), `geometric` (its mean a token) or `token`."""
    kl: KlPenalty | None = None
    """Not in the paper: penalty for leaving the reference, `{weight: .04, estimator: k3+}`."""
    entropy: float = 0.0
    """Not in the paper: weight of the entropy bonus, >= 0."""

    @property
    def needs(self) -> frozenset[str]:
        own = frozenset({"advantages", "sampling_logps"})
        return own | regulariser_needs(self.kl, self.entropy)

    def __post_init__(self) -> None:
        check_window(self.positive, "positive")
        check_window(self.negative, "negative")
        check_entropy(self.entropy)

    def __call__(self, outputs: PolicyOutputs, batch: PolicyBatch) -> LossOutput:
        """One term per sequence, and the regularisers. A NaN in `sampling_logps` counts as ratio 1
        at that token.
        """
        return weigh_by_window(
            outputs,
            batch,
            positive=self.positive,
            negative=self.negative,
            level=self.ratio_level,
            kl=self.kl,
            entropy=self.entropy,
        )
