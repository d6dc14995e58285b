"""The engine of every policy objective on stored tokens: a `transformers.Trainer` with its own loss
and order of rows.

It leans on three public facts (STYLE part 3), each pinned by a test: `compute_loss` is ours,
`model_accepts_loss_kwargs = False` makes the trainer divide by the accumulation steps (which we
undo), and gradients are averaged over ranks (which we undo too). So the step's gradient is that of
one global sum over one global count.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, replace

import torch
from torch import Tensor
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from align.errors import NumericsError
from align.inference.agreement import Layout
from align.inference.head import forward_packed, install_head
from align.inference.plain import accepts_logits_to_keep, forward_plain
from align.ops.batch import PolicyBatch, PolicyOutputs
from align.ops.reduce import reduce
from align.protocols import Objective
from align.training.batches import MicroBatch, MicroBatches
from align.training.guards import check_finite, zero_stage
from align.training.metrics import Metrics, constants_for_first_log, measures_entropy
from align.training.signed_gradients import SignedGradients
from align.training.start import StartsEqual, disagreement
from align.training.whole_step import WholeStep
from align.training.wrapping import inner_model, wrapped_model

FIRST_LOSS_TOLERANCE = 1e-3
"""Relative to a loss above 1."""


class PolicyTrainer(Trainer):
    """Trains a causal model by an objective over the micro-batches of a plan.

    `constants` are metrics that were measured before the first step; they are logged with it.
    """

    # from transformers 5.19 on; before, `model_accepts_loss_kwargs` below says the same
    loss_is_scaled_for_ga = False

    def __init__(
        self,
        model: PreTrainedModel | torch.nn.Module,
        args: TrainingArguments,
        batches: MicroBatches,
        objective: Objective,
        tokenizer: PreTrainedTokenizerBase,
        *,
        layout: Layout = "rows",
        starts_equal: StartsEqual | None = None,
        whole_step: WholeStep | None = None,
        constants: Mapping[str, float] | None = None,
        gradient_norms: int | None = None,
        callbacks: list[TrainerCallback] | None = None,
    ) -> None:
        super().__init__(
            model=model,
            args=args,
            train_dataset=batches,
            data_collator=_unwrap_single,
            processing_class=tokenizer,
            callbacks=callbacks,
        )
        self.model_accepts_loss_kwargs = False
        self._objective = objective
        self._starts_equal = starts_equal or StartsEqual()
        self._whole_step = whole_step
        self._layout = layout
        self._keeps_logits = accepts_logits_to_keep(model)
        if layout != "plain":
            install_head(model)
        self._metrics, self._constants = Metrics(), constants or {}
        self._is_exact = not (args.bf16 or args.fp16)
        self._signed: SignedGradients | None = None
        if gradient_norms is not None:
            is_sharded = zero_stage(self) == 3 or self.is_fsdp_enabled
            self._signed = SignedGradients(gradient_norms, objective, is_sharded=is_sharded)

    def compute_loss(
        self,
        model: Callable[..., object],
        inputs: Mapping[str, object],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        """The micro-batch's share of the step's loss, times ranks and accumulation steps (undone
        by their averages).
        """
        self._metrics.begin()
        micro = inputs["micro"]
        assert isinstance(micro, MicroBatch)
        device = self.args.device
        batch = _moved(micro.batch, device)
        if self._whole_step is not None:
            step = self._whole_step.sums_for(
                micro, self.state.global_step, self._forward_fixed, self.accelerator
            )
            batch = replace(batch, step=step)
        needs = self._objective.needs
        if measures_entropy(self.state.global_step):
            needs |= {"entropy"}
        outputs = self.forward(model, micro, needs)
        if self.state.global_step == 0 and not micro.is_filler:
            self._check_start(outputs, batch)
        result = self._objective(outputs, batch)
        loss = reduce(result, micro.counts)
        check_finite(loss, "the loss", micro.ids)
        self._metrics.add(result, outputs, batch, micro)
        if self._signed is not None and self._signed.measures(self.state.global_step):
            trained = [one for one in inner_model(self).parameters() if one.requires_grad]
            self._signed.add(trained, outputs, batch, micro.counts)
        return loss * self.accelerator.num_processes * self.current_gradient_accumulation_steps

    def forward(
        self, model: Callable[..., object], micro: MicroBatch, needs: frozenset[str] = frozenset()
    ) -> PolicyOutputs:
        """What the model says about the rows of the micro-batch, in the layout of the job."""
        rows = micro.rows.to(self.args.device)
        if self._layout == "plain":
            outputs = forward_plain(model, rows, keeps_logits=self._keeps_logits, needs=needs)
        else:
            outputs = forward_packed(model, rows, needs=needs, widest=micro.widest)
        places = micro.places.to(self.args.device)
        # a sample of several pairs is forwarded once and stands in each of them
        more = {"entropy": outputs.entropy, "sum_p_squared": outputs.sum_p_squared}
        picked = {
            name: value.index_select(0, places) for name, value in more.items() if value is not None
        }
        return PolicyOutputs(outputs.logps.index_select(0, places), **picked)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the metrics since the last log, averaged over all ranks with global counts."""
        if "loss" in logs:
            logs |= self._metrics.take(self.accelerator)
            if self._signed is not None:
                logs |= self._signed.take(self.accelerator)
            logs |= constants_for_first_log(self.state.log_history, self._constants)
            expected = self._starts_equal.loss
            allowed = FIRST_LOSS_TOLERANCE if self._is_exact else 50 * FIRST_LOSS_TOLERANCE
            if (
                expected is not None
                and self.state.global_step == 1
                and abs(logs["loss"] - expected) > allowed * max(1.0, abs(expected))
            ):
                raise NumericsError(
                    f"the loss of the first step is {logs['loss']:.6f} where policy and reference "
                    f"are one and it must be {expected:.6f}; the reference is not the policy's"
                )
        super().log(logs, start_time)

    @torch.no_grad()
    def _forward_fixed(self, micro: MicroBatch) -> Tensor:
        """Log-probs without gradient.

        In eval mode: DeepSpeed traces forwards of training, and one without a backward would break
        the trace; checkpointed layers would be computed twice.
        """
        model = wrapped_model(self)
        model.eval()
        logps = self.forward(model, micro).logps
        model.train()
        return logps

    def _check_start(self, outputs: PolicyOutputs, batch: PolicyBatch) -> None:
        """Raises `NumericsError` where log-probs of one model differ before the first update."""
        pairs = {
            "reference": (self._starts_equal.reference, batch.ref_logps),
            "sampler": (self._starts_equal.sampler, batch.sampling_logps),
        }
        for name, (is_equal, others) in pairs.items():
            if not is_equal or others is None or batch.mask is None:
                continue
            fault = disagreement(
                outputs.logps.detach(), others, batch.mask.bool(), is_exact=self._is_exact
            )
            if fault is not None:
                raise NumericsError(
                    f"before the first update policy and {name} are the same weights, but {fault}: "
                    "forwards disagree"
                )


def _unwrap_single(items: list[MicroBatch]) -> dict[str, object]:
    """The loader's batch of one; `input_ids` is there for the trainer's own count of operations."""
    (micro,) = items
    return {"micro": micro, "input_ids": micro.rows.input_ids}


def _moved(batch: PolicyBatch, device: torch.device) -> PolicyBatch:
    values = {item.name: getattr(batch, item.name) for item in fields(batch)}
    return replace(
        batch, **{name: value.to(device) for name, value in values.items() if value is not None}
    )
