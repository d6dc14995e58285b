"""How hard samples with positive and with negative advantages pull: the norms of their gradients,
apart (ALGORITHMS 7.7).

Each measured step takes two more backwards through the forwards that it makes anyway, and holds two
gradients in float32 until its end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import torch
from accelerate import Accelerator
from torch import Tensor

from align.errors import RecipeError
from align.ops.batch import LossOutput, PolicyBatch, PolicyOutputs, require
from align.ops.reduce import Counts, reduce
from align.protocols import Objective

SIGNS = ("positives", "negatives")


class SignedGradients:
    """Sums over the micro-batches of a measured step; empty between steps."""

    def __init__(self, every: int, objective: Objective, *, is_sharded: bool) -> None:
        """Raises `RecipeError` where there are no advantages, or no rank holds whole gradients."""
        key = "train.gradient_norms"
        if "advantages" not in objective.needs:
            raise RecipeError(
                "tells positive from negative advantages, and this objective reads none",
                key=key,
                remedy="remove it",
            )
        if is_sharded:
            raise RecipeError(
                "needs whole parameters on every rank, which ZeRO-3 and FSDP do not keep",
                key=key,
                remedy="remove it, or launch with ddp, zero1 or zero2",
            )
        self._every, self._objective = every, objective
        self._sums: dict[str, list[Tensor]] = {}

    def measures(self, step: int) -> bool:
        """Whether a step, counted from 0, is measured."""
        return step % self._every == 0

    def add(
        self,
        parameters: Sequence[Tensor],
        outputs: PolicyOutputs,
        batch: PolicyBatch,
        counts: Counts,
    ) -> None:
        """Adds a micro-batch; its graph stays for the trainer's own backward."""
        advantages = require(batch.advantages, "advantages")
        for name in SIGNS:
            is_own = advantages > 0 if name == "positives" else advantages < 0
            own = replace(batch, advantages=torch.where(is_own, advantages, 0.0))
            # the first term is the policy's; a KL penalty or entropy bonus has no sign
            loss = reduce(LossOutput(self._objective(outputs, own).terms[:1]), counts)
            found = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
            sums = self._sums.setdefault(
                name, [torch.zeros_like(one, dtype=torch.float32) for one in parameters]
            )
            for total, value in zip(sums, found, strict=True):
                if value is not None:
                    total += value

    def take(self, accelerator: Accelerator) -> dict[str, float]:
        """`grad_norm/positives` and `grad_norm/negatives` of the step over all ranks; {} where it
        was not measured. Every rank calls it.
        """
        norms: dict[str, float] = {}
        for name, sums in self._sums.items():
            if accelerator.num_processes > 1:
                sums = [cast(Tensor, accelerator.reduce(one, reduction="sum")) for one in sums]
            squares = sum(float(one.double().square().sum()) for one in sums)
            norms[f"grad_norm/{name}"] = squares**0.5
        self._sums = {}
        return norms
