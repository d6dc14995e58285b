"""Stops SFT by a metric: exact matches among completions sampled at temperature 1 from held-out
prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from accelerate.utils import broadcast_object_list
from transformers import (
    GenerationConfig,
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from align.data.chat import decode_completion
from align.recipe.sections import Stop
from align.records import derive_seed
from align.training.wrapping import inner_model

BATCH = 256
"""Rows sampled at once."""


@dataclass(frozen=True)
class HeldOut:
    """A prompt that is never trained on, and the reply that counts as right."""

    prompt_ids: Sequence[int]
    expected: str


class StopByScore(TrainerCallback):
    """Every `stop.every` steps samples each held-out row once and ends training when enough are
    right.

    All ranks sample all rows with one seed a step, so results depend neither on ranks nor on the
    trainer's random state, which is left as it was; the first rank's score decides. Under ZeRO-3
    `generate` keeps the ranks in step.
    """

    def __init__(
        self,
        trainer: Trainer,
        tokenizer: PreTrainedTokenizerBase,
        rows: Sequence[HeldOut],
        stop: Stop,
        *,
        pad_id: int,
        stop_ids: Sequence[int],
        seed: int,
    ) -> None:
        self._trainer, self._tokenizer, self._rows = trainer, tokenizer, rows
        self._stop, self._seed = stop, seed
        self._generation = GenerationConfig(
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            max_new_tokens=stop.max_new_tokens,
            pad_token_id=pad_id,
            eos_token_id=list(stop_ids),
        )

    @property
    def name(self) -> str:
        """The metric's name in logs."""
        return f"stop/{self._stop.score}"

    @property
    def target(self) -> float:
        """The score to reach."""
        return self._stop.at

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: object,
    ) -> None:
        """Samples and scores where it is time to; sets `control.should_training_stop`."""
        if state.global_step % self._stop.every:
            return
        model = inner_model(self._trainer)
        model.eval()
        scores = [self._measure(state.global_step)]
        broadcast_object_list(scores)
        # logged while the model is in eval mode: TRL would otherwise empty the step's own metrics
        # into this entry
        self._trainer.log({self.name: scores[0]})
        model.train()
        if scores[0] >= self._stop.at:
            control.should_training_stop = True
            # a checkpoint of this very step would be resumed from beyond the stop
            control.should_save = False

    def curve(self) -> dict[int, float]:
        """Optimizer step -> score, over resumed runs too."""
        return {
            int(entry["step"]): float(entry[self.name])
            for entry in self._trainer.state.log_history
            if self.name in entry
        }

    def _measure(self, step: int) -> float:
        """Share of the rows whose sampled reply is the expected one."""
        device = self._trainer.args.device
        generate = cast(Callable[..., torch.Tensor], inner_model(self._trainer).generate)
        devices = [device] if device.type == "cuda" else []
        right = 0
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(derive_seed(self._seed, "stop", step))
            for begin in range(0, len(self._rows), BATCH):
                rows = self._rows[begin : begin + BATCH]
                width = max(len(row.prompt_ids) for row in rows)
                pad = self._generation.pad_token_id
                ids = torch.tensor(
                    [[pad] * (width - len(row.prompt_ids)) + list(row.prompt_ids) for row in rows]
                )
                lengths = torch.tensor([len(row.prompt_ids) for row in rows])
                mask = (torch.arange(width) >= width - lengths[:, None]).long()
                output = generate(
                    ids.to(device),
                    attention_mask=mask.to(device),
                    generation_config=self._generation,
                )
                right += sum(
                    self._is_right(row, new.tolist())
                    for row, new in zip(rows, output[:, width:], strict=True)
                )
        return right / len(self._rows)

    def _is_right(self, row: HeldOut, new: list[int]) -> bool:
        text = decode_completion(self._tokenizer, row.prompt_ids, new)
        return text.strip() == row.expected.strip()
