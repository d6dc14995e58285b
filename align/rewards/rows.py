"""What a scalar reward model reads of a sample: the sampled ids where its tokenizer is the policy's
(I1), else the text rendered anew. An encoder always reads the text.
"""

from __future__ import annotations

import json
from pathlib import Path

from align.data.chat import encode_pair
from align.data.fingerprint import local_folder, tokenizer_hash
from align.errors import DataError
from align.inference.encoders import holds_encoder, read_segments
from align.inference.packing import TokenRow
from align.models import load_tokenizer
from align.records import Prompt, Sample, WeightsRef


class RowEncoder:
    """A reward model's tokenizer."""

    def __init__(
        self,
        folder: Path,
        *,
        policy: str | None,
        chat_template: str | None,
        base: Path | None = None,
    ) -> None:
        """`policy` is the checkpoint that wrote the samples, None where it is not known; `base`
        holds the model's config where `folder`, its tokenizer's, does not.
        """
        self._chat_template = chat_template
        self._is_encoder = holds_encoder(base or folder)
        self.tokenizer = load_tokenizer(folder)
        self.keeps_ids = (
            policy is not None
            and not self._is_encoder
            and chat_template is None
            and reads_alike(folder, local_folder(policy))
        )

    def encode(self, prompt: Prompt, sample: Sample) -> TokenRow | str:
        """The row to score, or why there is none."""
        if self._is_encoder:
            return self._segments(prompt, sample)
        if self.keeps_ids:
            before, after = sample.prompt_ids, sample.completion_ids
        else:
            finished = sample.finish == "stop"
            try:
                before, after = encode_pair(
                    self.tokenizer,
                    prompt.messages,
                    sample.text,
                    self._chat_template,
                    finished=finished,
                )
            except DataError as error:
                return str(error)
        if not before:
            # the first token stands for the prompt that there is not
            before, after = after[:1], after[1:]
        row = TokenRow(tuple(before), tuple(after))
        return row if len(row) else "nothing to score, the sample has no tokens"

    def _segments(self, prompt: Prompt, sample: Sample) -> TokenRow | str:
        finished = sample.finish == "stop"
        try:
            return read_segments(
                self.tokenizer, prompt.messages, sample.text, self._chat_template, finished=finished
            )
        except DataError as error:
            return str(error)


def tokenizer_folder(folder: Path, weights: WeightsRef) -> Path:
    """Where a reward model's tokenizer lies: beside it, else with the base of its adapter."""
    has_tokenizer = (folder / "tokenizer_config.json").is_file()
    return folder if has_tokenizer else local_folder(weights.base)


def reads_alike(one: Path, other: Path) -> bool:
    """Whether two tokenizers, templates included, turn the same turns into the same ids."""
    return tokenizer_hash(one) == tokenizer_hash(other) or _spelling(one) == _spelling(other)


def _spelling(folder: Path) -> object:
    """What decides how text becomes ids. Padding and truncation are left out: they are settings of
    whoever saved it.
    """
    if not (folder / "tokenizer.json").is_file():
        return tokenizer_hash(folder)
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    template = folder / "chat_template.jinja"
    config = folder / "tokenizer_config.json"
    settings = json.loads(config.read_text(encoding="utf-8")) if config.is_file() else {}
    own = (
        template.read_text(encoding="utf-8")
        if template.is_file()
        else settings.get("chat_template")
    )
    return [{k: v for k, v in tokenizer.items() if k not in ("padding", "truncation")}, own]
