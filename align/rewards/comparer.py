r"""Generative pairwise preference model: P(first preferred) by two labels (ALGORITHMS 2.2).

After RLHF Workflow's pair model and RSO: one user message `[CONTEXT] {context} [RESPONSE A] {a}
[RESPONSE B] {b} \n`, p = softmax([z_A, z_B] / T), both orders averaged, so that p(a, b) = 1 - p(b,
a) exactly.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from align.data.builtin.pairwise import LABELS, comparison_text
from align.data.chat import encode, encode_headless, encode_prompt
from align.data.fingerprint import local_folder
from align.data.templates import find_template
from align.errors import DataError, SetupError
from align.models import load_causal, load_tokenizer, pad_id
from align.records import Prompt, Turn
from align.rewards.batches import Row, pad_rows, pick_device, run_batches
from align.rewards.classifier import weights_of
from align.rewards.reading import Reading


class Comparer:
    """An opened preference model."""

    def __init__(self, reading: Reading) -> None:
        folder = local_folder(reading.path)
        weights = weights_of(folder)
        has_tokenizer = (folder / "tokenizer_config.json").is_file()
        self._reading = reading
        self._tokenizer = load_tokenizer(folder if has_tokenizer else weights.base)
        self._labels = [self._label_id(label) for label in LABELS]
        self._device = pick_device()
        self._model = load_causal(weights, dtype=reading.dtype).eval()
        torch.nn.Module.to(self._model, self._device)
        self._pad_id = pad_id(self._tokenizer)
        context = vars(self._model.config.get_text_config()).get("max_position_embeddings")
        self._max_length: int | None = reading.max_length or context

    def compare(self, items: Sequence[tuple[Prompt, str, str]]) -> list[float | str]:
        """For each (prompt, first, second) the probability that the first is preferred, or why
        there is none.
        """
        asked = [
            (self._encode(prompt, first, second), self._encode(prompt, second, first))
            for prompt, first, second in items
        ]
        rows = [row for pair in asked for row in pair if isinstance(row, tuple)]
        margins = dict(
            zip(rows, run_batches(rows, self._reading.batch_size, self._forward), strict=True)
        )
        results = list[float | str]()
        for one, two in asked:
            if isinstance(one, str):
                results.append(one)
            elif isinstance(two, str):
                results.append(two)
            elif not (math.isfinite(margins[one]) and math.isfinite(margins[two])):
                results.append("the preference model's logits are not finite")
            else:
                results.append(
                    average_orders(margins[one], margins[two], self._reading.temperature)
                )
        return results

    def close(self) -> None:
        """Frees the model."""
        del self._model
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _label_id(self, label: str) -> int:
        """The id of the label as it is spelled after a comparison, where training put it: alone,
        some tokenizers write a space mark in front.
        """
        text = comparison_text([{"role": "user", "content": "a"}], "b", "c", self._reading.slot)
        asked, chosen = self._asked(text), self._reading.chat_template
        if self._reading.add_generation_prompt:
            encoded = encode(self._tokenizer, asked, label, chosen, finished=False)
        else:
            encoded = encode_headless(self._tokenizer, asked, label, chosen)
        ids = encoded.completion_ids
        if len(ids) != 1 or ids[0] == self._tokenizer.unk_token_id:
            raise SetupError(
                f"{self._reading.path} cannot compare: its tokenizer writes the label "
                f"{label!r} as {len(ids)} tokens {list(ids)}, one known token is needed"
            )
        return ids[0]

    def _own_template(self) -> str | None:
        own = self._tokenizer.chat_template
        return own if isinstance(own, str) else None

    def _encode(self, prompt: Prompt, first: str, second: str) -> Row | str:
        text = comparison_text(prompt.messages, first, second, self._reading.slot)
        try:
            row = tuple(self._ids(text))
        except DataError as error:
            return str(error)
        if self._max_length is not None and len(row) > self._max_length:
            return (
                f"a comparison of {len(row)} tokens is longer than max_length = {self._max_length}"
            )
        return row

    def _ids(self, text: str) -> Sequence[int]:
        turns, chosen = self._asked(text), self._reading.chat_template
        if self._reading.add_generation_prompt:
            return encode_prompt(self._tokenizer, turns, chosen)
        return encode_headless(self._tokenizer, turns, LABELS[0], chosen).prompt_ids

    def _asked(self, text: str) -> list[Turn]:
        template = find_template(self._own_template(), self._reading.chat_template)
        return [{"role": "text" if template is None else "user", "content": text}]

    @torch.inference_mode()
    def _forward(self, rows: Sequence[Row]) -> list[float]:
        """z_A - z_B after each row. Padded on the left, so that one position holds every row's last
        token.
        """
        ids, mask = pad_rows(rows, self._pad_id, "left")
        outputs = self._model(
            input_ids=ids.to(self._device),
            attention_mask=mask.to(self._device),
            position_ids=(mask.cumsum(-1) - 1).clamp(min=0).to(self._device),
            logits_to_keep=1,
            use_cache=False,
        )
        logits = outputs.logits[:, -1].float()
        return (logits[:, self._labels[0]] - logits[:, self._labels[1]]).cpu().tolist()


def average_orders(first_in_a: float, first_in_b: float, temperature: float = 1.0) -> float:
    """Mean of P(A) with the first completion in slot A and P(B) with it in slot B; arguments are
    z_A - z_B.

    z = (2.0, 1.0) and (0.5, 0.8): (0.731059 + 0.574443) / 2 = 0.652751
    """
    return (_sigmoid(first_in_a / temperature) + _sigmoid(-first_in_b / temperature)) / 2


def _sigmoid(value: float) -> float:
    if value >= 0:
        return 1.0 / (1.0 + math.exp(-value))
    return math.exp(value) / (1.0 + math.exp(value))
