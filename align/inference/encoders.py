"""Encoders (BERT, RoBERTa, DeBERTa, ModernBERT, ...) as reward models: what they read, and how they
are forwarded.

A pair is two segments, `tokenizer(prompt, completion)`: [CLS] prompt [SEP] completion [SEP], as the
released models were trained; token type 1 marks the second where the model has such types. Under a
chat template the rendered conversation is one segment. Attention goes both ways, so a completion
changes what its prompt becomes, and no two completions can share one: each is a row of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import (
    MODEL_FOR_MASKED_LM_MAPPING,
    AutoConfig,
    AutoModelForSequenceClassification,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.modeling_outputs import SequenceClassifierOutput

from align.data.chat import written_out
from align.errors import DataError
from align.inference.packing import PackedRows, TokenRow
from align.records import Turn

TYPES = "token_type_ids"
UNBOUNDED = 10**9
"""Tokenizers that know no context say a number larger than this."""


def is_encoder(config: PreTrainedConfig) -> bool:
    """True for masked language models; they read a text both ways."""
    return type(config) in MODEL_FOR_MASKED_LM_MAPPING and not config.is_encoder_decoder


def read_config(folder: Path) -> PreTrainedConfig | None:
    """An encoder's config; None for other models, where `folder` holds none, and where only code of
    its own can read it.
    """
    if not (folder / "config.json").is_file():
        return None
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError):
        return None
    return config if is_encoder(config) else None


def holds_encoder(folder: Path) -> bool:
    """Whether a checkpoint is an encoder's."""
    return read_config(folder) is not None


def read_segments(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Turn],
    completion: str,
    chat_template: str | None,
    *,
    finished: bool = True,
) -> TokenRow:
    """What an encoder reads; the row's completion is what has token type 1.

    One turn, and plain text, needs no template; several turns do. Raises `DataError` where they
    have none.
    """
    if _is_bare(tokenizer, messages, chat_template):
        content = messages[0].get("content")
        first, second = content if isinstance(content, str) else "", completion
    else:
        parts, is_plain = written_out(
            tokenizer, messages, completion, chat_template, finished=finished
        )
        # the tokenizer writes [CLS] itself
        begin = str(tokenizer.cls_token or "")
        first, second = parts if is_plain else ("".join(parts).removeprefix(begin), None)
    read = tokenizer(first, second, verbose=False)
    ids: list[int] = list(read["input_ids"])
    types: list[int] = list(read[TYPES]) if TYPES in read else [0] * len(ids)
    end = types.count(0)
    if types != [0] * end + [1] * (len(ids) - end):
        raise DataError("the tokenizer marks other segments than a prompt and its completion")
    return TokenRow(tuple(ids[:end]), tuple(ids[end:]))


def _is_bare(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Turn], chat_template: str | None
) -> bool:
    has_none = chat_template is None and tokenizer.chat_template is None
    return has_none and len(messages) == 1 and messages[0].get("role") == "user"


def encoder_scores(model: torch.nn.Module, rows: PackedRows) -> Float[Tensor, " N"]:
    """The raw logit of each row, float32; every row has a line to itself."""
    outputs = model(
        input_ids=rows.input_ids,
        attention_mask=(rows.group >= 0).long(),
        token_type_ids=(rows.branch > 0).long(),
    )
    lines = rows.last // rows.input_ids.shape[1]
    return outputs.logits[lines, 0].float()


def segment_types(mask: Int[Tensor, "N T"], firsts: Sequence[int]) -> Int[Tensor, "N T"]:
    """1 on each row's second segment, which begins after `firsts` tokens.

    >>> segment_types(torch.tensor([[1, 1, 1, 0]]), [2])
    tensor([[0, 0, 1, 0]])
    """
    places = torch.arange(mask.shape[1], device=mask.device)
    begins = torch.tensor(firsts, device=mask.device)
    later: Bool[Tensor, "N T"] = places >= begins[:, None]
    return (later & (mask != 0)).long()


def score_pair(
    self: PreTrainedModel,
    input_ids: Tensor | None = None,
    attention_mask: Tensor | None = None,
    token_type_ids: Tensor | None = None,
    inputs_embeds: Tensor | None = None,
    labels: Tensor | None = None,
    **kwargs: object,
) -> SequenceClassifierOutput:
    """`forward` of an encoder: the library's own, without what only decoders take (a cache), and
    token types only where the model has some.
    """
    if labels is not None:
        raise ValueError("a scorer computes no loss of its own; pass no labels")
    types = {TYPES: token_type_ids} if has_types(self.config) else {}
    return type(self).forward(
        self,
        input_ids=input_ids,
        attention_mask=attention_mask,
        inputs_embeds=inputs_embeds,
        return_dict=True,
        **types,
    )


def has_types(config: PreTrainedConfig) -> bool:
    """Whether the model tells two segments apart."""
    return int(vars(config).get("type_vocab_size") or 0) >= 2


def context_of(config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Tokens that the model was made for; None where neither it nor its tokenizer says."""
    limits = [vars(config).get("max_position_embeddings"), tokenizer.model_max_length]
    limits.append(positions_of(config))
    return min((limit for limit in limits if limit and 0 < limit < UNBOUNDED), default=None)


def positions_of(config: PreTrainedConfig) -> int | None:
    """Rows of the table of positions, which bound what the model can read at all; None where there
    is no table.

    RoBERTa's family counts them from behind the padding's.
    """
    for name, module in _skeleton(config).named_modules():
        is_table = name.endswith("embeddings.position_embeddings")
        if is_table and isinstance(module, torch.nn.Embedding):
            padding = module.padding_idx
            return module.num_embeddings - (0 if padding is None else padding + 1)
    return None


def head_of(config: PreTrainedConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the weights that a classifier of one label has and its pretrained encoder
    need not: those outside of it, and its pooler. Loads no weights.
    """
    model = _skeleton(config)
    inside = f"{model.base_model_prefix}."
    return {
        name: tuple(tensor.shape)
        for name, tensor in model.state_dict().items()
        if not name.startswith(inside) or ".pooler." in name
    }


def head_modules(config: PreTrainedConfig) -> list[str]:
    """The modules that hold `head_of`: what an adapter trains whole and saves."""
    found = set[str]()
    for name in head_of(config):
        parts = name.split(".")
        end = parts.index("pooler") + 1 if "pooler" in parts else 1
        found.add(".".join(parts[:end]))
    return sorted(found)


def _skeleton(config: PreTrainedConfig) -> PreTrainedModel:
    """The classifier without its weights."""
    config = type(config).from_dict({**config.to_dict(), "num_labels": 1})
    with torch.device("meta"):
        return AutoModelForSequenceClassification.from_config(config)
