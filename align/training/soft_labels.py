"""TRL's RewardTrainer for pairs that carry a label (P(chosen preferred), 0.5 for a tie), or rows of
two segments.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutputWithPast
from trl import RewardTrainer
from trl.trainer.reward_trainer import DataCollatorForPreference

from align.inference.encoders import TYPES, segment_types

FIRSTS = "firsts"
"""Column: tokens of the first segment of the chosen and of the rejected row."""


class LabelCollator:
    """TRL's collator, the pairs' labels `(P,)` and their rows' token types `(2P, T)` where they
    have some.
    """

    def __init__(self, pad_token_id: int) -> None:
        self._collate = DataCollatorForPreference(pad_token_id=pad_token_id)

    def __call__(self, pairs: Sequence[Mapping[str, object]]) -> dict[str, Tensor]:
        batch: dict[str, Tensor] = self._collate(list(pairs))
        if "label" in pairs[0]:
            batch["label"] = torch.tensor([pair["label"] for pair in pairs])
        if FIRSTS in pairs[0]:
            firsts = [cast("Sequence[int]", pair[FIRSTS]) for pair in pairs]
            # TRL puts the chosen rows first
            order = [own[0] for own in firsts] + [own[1] for own in firsts]
            batch[TYPES] = segment_types(batch["attention_mask"], order)
        return batch


class SoftLabelTrainer(RewardTrainer):
    """L = - mean[ l log sigma(z) + (1 - l) log sigma(-z) ], z = r_chosen - r_rejected - margin, and
    TRL's centering term (ALGORITHMS 2.1; cross-entropy with the label l).
    """

    def compute_loss(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        model: PreTrainedModel,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | None = None,
    ) -> object:
        """TRL's loss plus (1 - l) z, since -log sigma(-z) = -log sigma(z) + z."""
        label = inputs.pop("label", None)
        loss, outputs = cast(
            "tuple[Tensor, SequenceClassifierOutputWithPast]",
            super().compute_loss(model, inputs, return_outputs=True),
        )
        if label is not None:
            logits = cast(Tensor, outputs.logits)
            chosen, rejected = torch.chunk(logits.squeeze(-1), chunks=2)
            gaps = chosen - rejected
            if "margin" in inputs:
                gaps = gaps - inputs["margin"]
            loss = loss + ((1 - label) * gaps).mean()
        return (loss, outputs) if return_outputs else loss
