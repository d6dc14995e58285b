"""What objectives of scope `global_batch` know of their whole optimizer step: sequence sums,
measured without gradient before its first micro-batch (`ops.batch.StepSums`).

Every rank forwards its own micro-batches and the sums are added over ranks, so the numbers depend
neither on micro-batches nor on ranks. All ranks make the same number of forwards, fillers
included: under ZeRO-3 each is collective.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import cast

import torch
from accelerate import Accelerator
from torch import Tensor

from align.ops.batch import StepSums, require
from align.ops.logps import sum_tokens
from align.protocols import Objective
from align.training.batches import MicroBatch, MicroBatches

Forward = Callable[[MicroBatch], Tensor]
"""Log-probs (N, T) of a micro-batch's rows, without gradient."""


class WholeStep:
    """The step that a trainer is in. It is measured once, at its first micro-batch.

    `mismatched` has the same items as `batches`, with completions of other prompts.
    """

    def __init__(
        self,
        batches: MicroBatches,
        objective: Objective,
        mismatched: MicroBatches | None,
    ) -> None:
        self._batches, self._mismatched = batches, mismatched
        self._forwards_rows = mismatched is None
        reads_step = objective.scope == "global_batch"
        self._is_needed = reads_step and (mismatched is not None or not batches.is_undivided)
        self._place_of = {s.sample_id: place for place, s in enumerate(batches.data.samples)}
        self._step: int | None = None
        self._sums: StepSums | None = None

    def sums_for(
        self, micro: MicroBatch, step: int, forward: Forward, accelerator: Accelerator
    ) -> StepSums | None:
        """The sums of `step`, as this micro-batch is to see them; None where it is the whole step,
        or where the objective asks for none.
        """
        if not self._is_needed:
            return None
        if self._step != step or self._sums is None:
            self._step, self._sums = step, self._measure(step, forward, accelerator)
        if self._sums.chosen is None:
            return self._sums
        order = {item: place for place, item in enumerate(self._batches.items(step))}
        own = torch.tensor([order[item] for item in micro.items], device=self._sums.chosen.device)
        return replace(self._sums, own=own)

    def _measure(self, step: int, forward: Forward, accelerator: Accelerator) -> StepSums:
        data, items, device = self._batches.data, self._batches.items(step), accelerator.device
        # a sample may be in several pairs; it counts once, in the order of the plan
        places = list(dict.fromkeys(row for item in items for row in data.rows_of([item])))
        slots = {place: slot for slot, place in enumerate(places)}
        sums = torch.zeros(len(places), 2, 2, dtype=torch.float64)
        rank = accelerator.process_index
        for micro in self._batches.of_rank(step, rank) if self._forwards_rows else ():
            self._add(sums[:, 0], slots, micro, forward(micro).cpu())
        for micro in self._mismatched.of_rank(step, rank) if self._mismatched else ():
            logps, refs = forward(micro).cpu(), require(micro.batch.ref_logps, "ref_logps")
            self._add(sums[:, 1], slots, micro, logps - refs)
        sums = sums.to(device)
        if accelerator.num_processes > 1:
            sums = cast(Tensor, accelerator.reduce(sums, reduction="sum"))
        means = (sums[..., 0] / sums[..., 1].clamp(min=1)).float().to(device)
        ref_logps = [self._ref_sum(place) for place in places]
        pairs = data.pairs
        return StepSums(
            logps=means[:, 0] if self._forwards_rows else means[:0, 0],
            ref_logps=torch.tensor(ref_logps if self._forwards_rows else [], device=device),
            chosen=None
            if pairs is None
            else torch.tensor([slots[pairs[item][0]] for item in items], device=device),
            rejected=None
            if pairs is None
            else torch.tensor([slots[pairs[item][1]] for item in items], device=device),
            mismatched=None if self._mismatched is None else means[:, 1],
        )

    def _add(
        self, sums: Tensor, slots: Mapping[int, int], micro: MicroBatch, values: Tensor
    ) -> None:
        """Adds (sum over trained tokens, 1) at each row's slot; of a filler nothing."""
        if not micro.is_filler:
            rows = sum_tokens(values, require(micro.batch.mask, "mask").bool()).double()
            own = torch.tensor([slots[self._place_of[name]] for name in micro.ids])
            sums.index_add_(0, own, torch.stack([rows, torch.ones_like(rows)], -1))

    def _ref_sum(self, place: int) -> float:
        data = self._batches.data
        if data.ref_logps is None:
            return 0.0
        mask = torch.tensor(data.samples[place].loss_mask, dtype=torch.bool)
        return float(sum_tokens(data.ref_logps[place][None], mask[None])[0])
