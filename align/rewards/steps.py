"""A scalar reward model read at the last token of every step, one forward a row."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from peft import PeftModel
from transformers import PreTrainedModel

from align.data.chat import encode_pair
from align.data.fingerprint import local_folder
from align.errors import DataError, SetupError
from align.inference.encoders import holds_encoder
from align.models import load_scorer, load_tokenizer, pad_id
from align.records import Prompt, Sample
from align.rewards.batches import Row, pad_rows, pick_device
from align.rewards.classifier import weights_of
from align.rewards.heads import require_head
from align.rewards.rows import reads_alike
from align.rewards.segments import segment_ends, token_ends


@dataclass(frozen=True, slots=True)
class Step:
    """One segment of a completion: its tokens and the raw logit at the last of them."""

    first: int
    end: int
    value: float


@dataclass(frozen=True)
class StepOptions:
    """How the model is read."""

    path: str
    separator: re.Pattern[str] | None
    policy: str | None
    max_length: int | None
    batch_size: int
    dtype: str
    chat_template: str | None


class StepReader:
    """An opened reward model."""

    def __init__(self, options: StepOptions) -> None:
        folder = local_folder(options.path)
        weights = weights_of(folder)
        require_head(weights)
        if holds_encoder(local_folder(weights.base)):
            raise SetupError(
                f"{options.path} is an encoder, which has one score for a whole text and none for "
                "its steps; name a decoder, or use reward_model"
            )
        has_tokenizer = (folder / "tokenizer_config.json").is_file()
        own = folder if has_tokenizer else local_folder(weights.base)
        self._options, self._tokenizer = options, load_tokenizer(own)
        self._device = pick_device()
        model = load_scorer(weights, dtype=options.dtype).eval()
        torch.nn.Module.to(model, self._device)
        # With an adapter the layers inside are the adapted ones.
        inner = model.get_base_model() if isinstance(model, PeftModel) else model
        self._model = cast(PreTrainedModel, inner)
        self._pad_id = pad_id(self._tokenizer)
        context = vars(self._model.config.get_text_config()).get("max_position_embeddings")
        self._max_length: int | None = options.max_length or context
        self.is_aligned = (
            options.policy is not None
            and options.chat_template is None
            and reads_alike(own, local_folder(options.policy))
        )
        """True where steps are counted in the sample's own tokens."""

    def read(self, items: Sequence[tuple[Prompt, Sample]]) -> list[list[Step] | str]:
        """The steps of each sample, or why there are none."""
        found: list[list[Step] | str] = []
        rows: list[tuple[int, Row, int, list[int]]] = []
        for place, (prompt, sample) in enumerate(items):
            located = self._locate(prompt, sample)
            found.append(located if isinstance(located, str) else [])
            if not isinstance(located, str):
                rows.append((place, *located))
        rows.sort(key=lambda row: (len(row[1]), row[1]))
        for start in range(0, len(rows), self._options.batch_size):
            batch = rows[start : start + self._options.batch_size]
            for (place, _, before, ends), logits in zip(
                batch, self._forward([row for _, row, _, _ in batch]), strict=True
            ):
                values = [logits[before + end - 1] for end in ends]
                bad = next((value for value in values if not math.isfinite(value)), None)
                starts = [0, *ends[:-1]]
                found[place] = (
                    f"the model's output is {bad}"
                    if bad is not None
                    else [Step(*step) for step in zip(starts, ends, values, strict=True)]
                )
        return found

    def close(self) -> None:
        """Frees the model."""
        del self._model
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _locate(self, prompt: Prompt, sample: Sample) -> tuple[Row, int, list[int]] | str:
        """The row, the length of its prompt, and where the steps end in its completion."""
        before, after = list(sample.prompt_ids), list(sample.completion_ids)
        if not self.is_aligned:
            finished = sample.finish == "stop"
            try:
                before, after = encode_pair(
                    self._tokenizer,
                    prompt.messages,
                    sample.text,
                    self._options.chat_template,
                    finished=finished,
                )
            except DataError as error:
                return str(error)
        ends = segment_ends(sample.text, self._options.separator)
        if not ends or not after:
            return "there is no step to score: the completion says nothing"
        length = len(before) + len(after)
        if self._max_length is not None and length > self._max_length:
            return f"{length} tokens are more than max_length = {self._max_length}"
        return (*before, *after), len(before), token_ends(self._tokenizer, before, after, ends)

    @torch.inference_mode()
    def _forward(self, rows: Sequence[Row]) -> list[list[float]]:
        """The head's logit at every token, padding included."""
        ids, mask = pad_rows(rows, self._pad_id, "right")
        ids, mask = ids.to(self._device), mask.to(self._device)
        outputs = self._model.base_model(input_ids=ids, attention_mask=mask, use_cache=False)
        logits = self._model.get_submodule("score")(outputs.last_hidden_state)
        return logits[..., 0].float().cpu().tolist()
