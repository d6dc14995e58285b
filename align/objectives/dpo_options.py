"""Which options of `dpo` belong to which loss, their defaults and their ranges."""

from __future__ import annotations

import math
from collections.abc import Mapping

_USERS: dict[str, tuple[str, ...]] = {
    "label_smoothing": ("cdpo", "robust", "exo"),
    "alpha": ("rpo", "r_dpo", "odpo", "ld_dpo"),
    "tau": ("discopop",),
    "penalty": ("dpop",),
    "ipo_length_norm": ("ipo",),
    "nll_norm": ("rpo",),
    "clamp_weights": ("wpo",),
}

OF_A_DIFFERENCE = ("sigmoid", "cdpo", "robust", "hinge", "sigmoid_norm", "exo", "discopop")
"""Losses that read nothing but f'(e^{u_w}) - f'(e^{u_l}), in which the normaliser cancels."""

_SMOOTHING = {"cdpo": 0.1, "robust": 0.1, "exo": 0.001}
"""cdpo: of the RLHF Workflow recipe (ALGORITHMS 6.2); exo: of its authors."""

_STRENGTH = {"rpo": 1.0, "odpo": 1.0}


def smoothing(loss: str, given: float | None) -> float:
    """eps of the loss, 0 for one that has none."""
    return _SMOOTHING.get(loss, 0.0) if given is None else given


def strength(loss: str, given: float | None) -> float:
    """The given coefficient, else the loss's default, 0 for one that has none."""
    return _STRENGTH.get(loss, 0.0) if given is None else given


def order(given: float | None) -> float:
    """alpha of `divergence: alpha`."""
    return 0.5 if given is None else given


def temperature(given: float | None) -> float:
    """tau of discopop, as its authors found it."""
    return 0.05 if given is None else given


def check_options(
    loss: str,
    divergence: str,
    numbers: Mapping[str, float | None],
    switches: Mapping[str, bool],
) -> None:
    """Raises ValueError for an option that the loss would ignore, one that it lacks, and one out of
    its range.

    `numbers` are None where not given; `switches` are true where not at their default.
    """
    given = [name for name, value in numbers.items() if value is not None]
    given += [name for name, is_set in switches.items() if is_set]
    for name in given:
        if loss not in _USERS[name] and (name, divergence) != ("alpha", "alpha"):
            raise ValueError(
                f"{name} is used only by loss: {', '.join(_USERS[name])}"
                + (" and by divergence: alpha" if name == "alpha" else "")
                + f", and {loss} would ignore it; leave it out or change the loss"
            )
    if divergence != "reverse_kl" and loss not in OF_A_DIFFERENCE:
        raise ValueError(
            f"divergence: {divergence} is offered for losses of a difference alone"
            f" ({', '.join(OF_A_DIFFERENCE)}), not for {loss}: leave it out or change the loss"
        )
    eps, alpha = numbers["label_smoothing"], numbers["alpha"]
    if eps is not None:
        _check_smoothing(loss, eps)
    if divergence == "alpha" and alpha is not None and not 0 < alpha < 1:
        raise ValueError(
            f"alpha of divergence: alpha must lie between 0 and 1, not {alpha};"
            " 0 is forward_kl and 1 is reverse_kl"
        )
    if alpha is None and loss in ("r_dpo", "ld_dpo"):
        meaning = {
            "r_dpo": "nats a token of length",
            "ld_dpo": "the weight of the longer side's tail",
        }
        raise ValueError(f"loss: {loss} needs alpha, {meaning[loss]}")
    if alpha is not None and not 0 <= alpha < math.inf:
        raise ValueError(f"alpha must be finite and at least 0, not {alpha}")
    if loss == "ld_dpo" and alpha is not None and alpha > 1:
        raise ValueError(f"alpha of ld_dpo weighs a tail and must lie in 0 to 1, not {alpha}")
    tau, penalty = numbers["tau"], numbers["penalty"]
    if tau is not None and not 0 < tau <= 1:
        raise ValueError(
            f"tau must be above 0 and at most 1, not {tau}: above 1 the exponential part of"
            " discopop grows without bound on misordered pairs"
        )
    if loss == "dpop" and penalty is None:
        raise ValueError(
            "loss: dpop needs penalty, the weight of what chosen lose to the reference"
        )
    if penalty is not None and not 0 <= penalty < math.inf:
        raise ValueError(f"penalty must be finite and at least 0, not {penalty}")


def _check_smoothing(loss: str, eps: float) -> None:
    if not 0 <= eps <= 0.5:
        raise ValueError(f"label_smoothing must lie in 0 to 0.5, not {eps}")
    if loss == "robust" and eps == 0.5:
        raise ValueError(
            "label_smoothing of robust must be below 0.5: it divides by 1 - 2 label_smoothing"
        )
    if loss == "exo" and eps == 0:
        raise ValueError(
            "label_smoothing of exo must be above 0: it takes its logarithm; 0.001 is the default"
        )
