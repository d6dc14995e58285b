"""Reads the probability of one label against another as a model's next token."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from align.data.chat import encode, encode_prompt
from align.data.fingerprint import local_folder
from align.errors import DataError, SetupError
from align.models import load_causal, load_tokenizer, pad_id
from align.records import Turn
from align.rewards.batches import Row, pad_rows, pick_device, run_batches
from align.rewards.classifier import weights_of


class LabelReader:
    """An opened model that answers with one of two tokens."""

    def __init__(
        self,
        path: str,
        labels: tuple[str, str],
        *,
        max_length: int | None,
        batch_size: int,
        dtype: str,
        chat_template: str | None,
    ) -> None:
        folder = local_folder(path)
        weights = weights_of(folder)
        has_tokenizer = (folder / "tokenizer_config.json").is_file()
        self._path, self._template, self._batch_size = path, chat_template, batch_size
        self._tokenizer = load_tokenizer(folder if has_tokenizer else weights.base)
        self._labels: dict[str, int] = {}
        self._names = labels
        self._device = pick_device()
        self._model = load_causal(weights, dtype=dtype).eval()
        torch.nn.Module.to(self._model, self._device)
        self._pad_id = pad_id(self._tokenizer)
        context = vars(self._model.config.get_text_config()).get("max_position_embeddings")
        self._max_length: int | None = max_length or context

    def read(self, asked: Sequence[Sequence[Turn]]) -> list[float | str]:
        """P(first label) / (P(first) + P(second)) after each prompt, or why there is none.

        Raises `SetupError` where a label is not one token there.
        """
        rows = [self._encode(turns) for turns in asked]
        whole = [row for row in rows if not isinstance(row, str)]
        if whole:
            self._find_labels(next(t for t, r in zip(asked, rows, strict=True) if r is whole[0]))
        margins = iter(run_batches(whole, self._batch_size, self._forward))
        return [row if isinstance(row, str) else self._share(next(margins)) for row in rows]

    def close(self) -> None:
        """Frees the model."""
        del self._model
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _share(self, margin: float) -> float | str:
        if not math.isfinite(margin):
            return "the verifier's logits are not finite"
        return 1.0 / (1.0 + math.exp(-max(-700.0, margin)))

    def _encode(self, turns: Sequence[Turn]) -> Row | str:
        try:
            row = tuple(encode_prompt(self._tokenizer, turns, self._template))
        except DataError as error:
            return str(error)
        if self._max_length is not None and len(row) > self._max_length:
            return f"a question of {len(row)} tokens is longer than max_length = {self._max_length}"
        return row

    def _find_labels(self, turns: Sequence[Turn]) -> None:
        """The labels' ids as they are spelled after a question: alone, some tokenizers write a
        space mark in front.
        """
        for label in self._names:
            if label in self._labels:
                continue
            encoded = encode(self._tokenizer, turns, label, self._template, finished=False)
            ids = list(encoded.completion_ids)
            if len(ids) != 1 or ids[0] == self._tokenizer.unk_token_id:
                raise SetupError(
                    f"{self._path} cannot judge: its tokenizer writes the label {label!r} as "
                    f"{len(ids)} tokens {ids}, one known token is needed"
                )
            self._labels[label] = ids[0]

    @torch.inference_mode()
    def _forward(self, rows: Sequence[Row]) -> list[float]:
        """z_first - z_second after each row. Padded on the left, so that one position holds every
        row's last token.
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
        first, second = (self._labels[name] for name in self._names)
        return (logits[:, first] - logits[:, second]).cpu().tolist()
