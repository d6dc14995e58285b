"""Losses of a pair and its log-ratios to a reference: DPO and its family (ALGORITHMS 3.1, 4.1)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias, assert_never

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from align.objectives.dpo_options import check_options, order, smoothing, strength, temperature
from align.ops.batch import (
    LossOutput,
    PolicyBatch,
    PolicyOutputs,
    require,
    trained_tokens,
)
from align.ops.divergences import Divergence, derivative
from align.ops.logps import count_tokens, exp_clipped, log_ratios, sum_tokens
from align.ops.pairs import NllNorm, PairRows
from align.ops.step_pairs import StepPairs, counterparts

PairLoss: TypeAlias = Literal[
    "sigmoid",
    "cdpo",
    "robust",
    "hinge",
    "ipo",
    "sigmoid_norm",
    "exo",
    "nca",
    "bco",
    "sppo",
    "apo_zero",
    "apo_down",
    "discopop",
    "rpo",
    "r_dpo",
    "odpo",
    "dpop",
    "wpo",
    "ld_dpo",
    "aot",
    "aot_unpaired",
]


@dataclass(frozen=True)
class Dpo:
    """Direct preference optimization and its relatives.

    u(y) = sum_t log pi(y_t) - log ref(y_t) of the chosen (u_w) and rejected (u_l) completion, of
    n_w and n_l tokens; d = beta (u_w - u_l); a_w = beta u_w, a_l = beta u_l.
    """

    loss: PairLoss = "sigmoid"
    """Each equation stands at its name in `Dpo._losses`."""
    beta: float = 0.1
    """Strength of the pull to the reference, > 0 (RSO calls it gamma)."""
    label_smoothing: float | None = None
    """eps, the assumed share of flipped labels: cdpo, robust (default 0.1), exo (0.001)."""
    alpha: float | None = None
    """The loss's own alpha: weight of the likelihood of chosen (rpo, default 1), nats a token of
    length (r_dpo), scale of the pair's margin (odpo, default 1), weight of the tokens past the
    shorter side's end (ld_dpo, 0 to 1), order of `divergence: alpha` (default 0.5).
    """
    tau: float | None = None
    """discopop only: temperature of its mixing weight, default 0.05."""
    penalty: float | None = None
    """dpop only: lambda, on chosen completions that fall below the reference."""
    divergence: Divergence = "reverse_kl"
    """f of the penalty, u -> f'(e^u) (f-DPO): losses of d only."""
    ipo_length_norm: Literal["token_mean", "sum"] = "token_mean"
    """ipo only: `token_mean`, as the authors ran it, or `sum`, as the paper writes it."""
    nll_norm: NllNorm = "sequence_mean"
    """rpo only: `sequence_mean` as in the paper, `token_mean` of all chosen tokens as in TRL, or
    `sequence_sum`."""
    clamp_weights: bool = True
    """wpo only: cap a pair's weight at 1, as the authors' code does and TRL does not."""

    def __post_init__(self) -> None:
        if not 0 < self.beta < math.inf:
            raise ValueError(f"beta must be finite and above 0, not {self.beta}")
        check_options(
            self.loss,
            self.divergence,
            {
                "label_smoothing": self.label_smoothing,
                "alpha": self.alpha,
                "tau": self.tau,
                "penalty": self.penalty,
            },
            {
                "ipo_length_norm": self.ipo_length_norm != "token_mean",
                "nll_norm": self.nll_norm != "sequence_mean",
                "clamp_weights": not self.clamp_weights,
            },
        )

    @property
    def needs(self) -> frozenset[str]:
        """wpo reads the policy's sum of squared probabilities too."""
        both = frozenset({"pairs", "ref_logps"})
        return both | {"sum_p_squared"} if self.loss == "wpo" else both

    @property
    def scope(self) -> str:
        """bco's delta and aot's order depend on all pairs of the step."""
        return "global_batch" if self.loss in ("bco", "aot", "aot_unpaired") else "local"

    def __call__(self, outputs: PolicyOutputs, batch: PolicyBatch) -> LossOutput:
        """One term per pair, for rpo one more; metrics per pair under the names of the field."""
        mask = trained_tokens(batch, outputs)
        pairs = PairRows.of(batch, mask)
        ratios = log_ratios(outputs.logps, require(batch.ref_logps, "ref_logps"), mask)
        u = sum_tokens(ratios, mask)
        logps = sum_tokens(outputs.logps, mask)
        terms = (pairs.term(self._losses(outputs, batch, mask, pairs, ratios)),)
        if self.loss == "rpo":  # eq. 1 of arXiv:2404.19733
            terms += (pairs.nll(outputs.logps, mask, self.nll_norm, strength("rpo", self.alpha)),)
        return LossOutput(terms, pairs.describe(self.beta * u, logps))

    def _losses(
        self,
        outputs: PolicyOutputs,
        batch: PolicyBatch,
        mask: Bool[Tensor, "N T"],
        pairs: PairRows,
        ratios: Float[Tensor, "N T"],
    ) -> Float[Tensor, " P"]:
        """The loss of each pair."""
        beta, eps = self.beta, smoothing(self.loss, self.label_smoothing)
        alpha = strength(self.loss, self.alpha)
        u = sum_tokens(ratios, mask)
        u_w, u_l = pairs.sides(u)
        a_w, a_l = beta * u_w, beta * u_l
        n_w, n_l = pairs.sides(count_tokens(mask))
        scores_w, scores_l = pairs.sides(derivative(self.divergence, u, order(self.alpha)))
        d = beta * (scores_w - scores_l)
        match self.loss:
            case "sigmoid" | "rpo":  # eq. 7 of arXiv:2305.18290; rpo adds the likelihood of chosen
                return -logsigmoid(d)
            case "cdpo":  # eq. 3 of "A note on DPO with noisy preferences" (Mitchell 2023)
                return -(1 - eps) * logsigmoid(d) - eps * logsigmoid(-d)
            case "robust":  # rDPO, arXiv:2403.00409: unbiased where labels flip at rate eps
                return (-(1 - eps) * logsigmoid(d) + eps * logsigmoid(-d)) / (1 - 2 * eps)
            case "hinge":  # hinge-norm of RSO, arXiv:2309.06657 section 3.3
                return torch.relu(1 - d)
            case "ipo":  # eq. 17 of arXiv:2310.12036, with tau = beta
                is_mean = self.ipo_length_norm == "token_mean"
                delta = u_w / n_w - u_l / n_l if is_mean else u_w - u_l
                return (delta - 1 / (2 * beta)) ** 2
            case "sigmoid_norm":  # sigmoid of d per token (Tulu 3, arXiv:2411.15124)
                return -logsigmoid(beta * (scores_w / n_w - scores_l / n_l))
            case "exo":  # eq. 16 of arXiv:2402.00856: KL(sigmoid(d), 1 - eps) of two outcomes
                wins = torch.sigmoid(d) * (logsigmoid(d) - math.log1p(-eps))
                return wins + torch.sigmoid(-d) * (logsigmoid(-d) - math.log(eps))
            case "nca":  # arXiv:2402.05369 with two completions
                return -logsigmoid(a_w) - 0.5 * logsigmoid(-a_w) - 0.5 * logsigmoid(-a_l)
            case "bco":  # arXiv:2404.04656; delta is the step's mean, not a running one
                step = self._step_pairs(outputs, batch, mask, pairs)
                delta = beta * torch.cat([step.u_w, step.u_l]).mean()
                return -logsigmoid(a_w - delta) - logsigmoid(delta - a_l)
            case "sppo":  # eq. 4.7 of arXiv:2405.00675 with win rates 1 and 0, eta = 1 / beta
                return (u_w - 1 / (2 * beta)) ** 2 + (u_l + 1 / (2 * beta)) ** 2
            case "apo_zero":  # eq. 7 of arXiv:2408.06266: chosen are better than the policy
                return torch.sigmoid(-a_w) + torch.sigmoid(a_l)
            case "apo_down":  # eq. 8 of arXiv:2408.06266: chosen are worse than the policy
                return torch.sigmoid(a_w) + torch.sigmoid(-d)
            case "discopop":  # eq. 5 of arXiv:2406.08414; g exp(-d) without overflow
                scaled = d / temperature(self.tau)
                return -torch.sigmoid(-scaled) * logsigmoid(d) + torch.exp(logsigmoid(scaled) - d)
            case "r_dpo":  # arXiv:2403.19159: chosen must win by more where they are shorter
                return -logsigmoid(d + alpha * (n_w - n_l))
            case "odpo":  # arXiv:2402.10571, the offset being the pair's margin
                margin = require(batch.margin, "margin").detach().to(d.dtype)
                return -logsigmoid(d - alpha * margin)
            case "dpop":  # Smaug, arXiv:2402.13228: chosen may not fall below the reference
                return -logsigmoid(d - beta * strength("dpop", self.penalty) * torch.relu(-u_w))
            case "wpo":  # eq. 2 of arXiv:2406.11827
                return self._wpo_weights(outputs, mask, pairs).detach() * -logsigmoid(d)
            case "ld_dpo":  # arXiv:2409.06411: sigmoid of u with lighter tails
                return -logsigmoid(beta * _shorten(ratios, mask, pairs, alpha))
            case "aot":  # arXiv:2406.05882: margins of policy and reference, each sorted
                step = self._step_pairs(outputs, batch, mask, pairs)
                logps_w, logps_l = pairs.sides(sum_tokens(outputs.logps, mask))
                targets = counterparts(step.logps_w - step.logps_l, step.ref_w - step.ref_l)
                return -logsigmoid(beta * (logps_w - logps_l - targets[step.own]))
            case "aot_unpaired":  # arXiv:2406.05882: u_w and u_l, each sorted
                step = self._step_pairs(outputs, batch, mask, pairs)
                partners_l = counterparts(step.u_w, step.u_l)[step.own]
                partners_w = counterparts(step.u_l, step.u_w)[step.own]
                both = -logsigmoid(beta * (u_w - partners_l)) - logsigmoid(
                    beta * (partners_w - u_l)
                )
                # each sorted pair is met from both sides: half the value, all of the gradient
                return both - (both / 2).detach()
            case unknown:
                assert_never(unknown)

    def _step_pairs(
        self,
        outputs: PolicyOutputs,
        batch: PolicyBatch,
        mask: Bool[Tensor, "N T"],
        pairs: PairRows,
    ) -> StepPairs:
        refs = require(batch.ref_logps, "ref_logps")
        return StepPairs.of(
            batch.step, pairs, sum_tokens(outputs.logps, mask), sum_tokens(refs, mask)
        )

    def _wpo_weights(
        self, outputs: PolicyOutputs, mask: Bool[Tensor, "N T"], pairs: PairRows
    ) -> Float[Tensor, " P"]:
        """exp of the two sides' mean of log pi(y_t) - log sum_v pi(v)^2: how likely the policy is
        to write the pair, against its own confidence.
        """
        squares = require(outputs.sum_p_squared, "sum_p_squared")
        aligned = torch.where(mask, outputs.logps - torch.log(squares), 0.0)
        weights_w, weights_l = pairs.sides(sum_tokens(aligned, mask) / count_tokens(mask))
        return exp_clipped(weights_w + weights_l, 0.0, 1.0 if self.clamp_weights else math.inf)


def _shorten(
    ratios: Float[Tensor, "N T"], mask: Bool[Tensor, "N T"], pairs: PairRows, alpha: float
) -> Float[Tensor, " P"]:
    """u_w - u_l with the tokens past the end of the pair's shorter side weighted by alpha."""
    shorter = torch.minimum(*pairs.sides(mask.sum(-1)))
    sums = [
        torch.where(place <= shorter[:, None], values, alpha * values).sum(-1)
        for place, values in zip(pairs.sides(mask.cumsum(-1)), pairs.sides(ratios), strict=True)
    ]
    return sums[0] - sums[1]
