"""Tiny encoders with random weights and the tokenizers that go with them."""

from __future__ import annotations

import string
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from tokenizers.processors import TemplateProcessing
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    DebertaV2Config,
    DebertaV2ForMaskedLM,
    DebertaV2ForSequenceClassification,
    ModernBertConfig,
    ModernBertForMaskedLM,
    ModernBertForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForMaskedLM,
    RobertaForSequenceClassification,
)

CHARACTERS = string.ascii_letters + string.digits + " +-=.,?!:<>|_/\n"
CONTEXT = 128
SMALL: dict[str, int] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_labels": 1,
}
TYPES = {
    "bert": (BertConfig, BertForMaskedLM, BertForSequenceClassification),
    "roberta": (RobertaConfig, RobertaForMaskedLM, RobertaForSequenceClassification),
    "deberta-v2": (DebertaV2Config, DebertaV2ForMaskedLM, DebertaV2ForSequenceClassification),
    "modernbert": (ModernBertConfig, ModernBertForMaskedLM, ModernBertForSequenceClassification),
}
OPTIONS: dict[str, dict[str, object]] = {
    "bert": {"max_position_embeddings": CONTEXT, "type_vocab_size": 2},
    # its positions are counted from behind the padding's, 1
    "roberta": {"max_position_embeddings": CONTEXT + 2, "type_vocab_size": 1},
    "deberta-v2": {
        "max_position_embeddings": CONTEXT,
        "type_vocab_size": 0,
        "relative_attention": True,
        "position_buckets": 16,
        "pos_att_type": ["p2c", "c2p"],
        "position_biased_input": False,
        "norm_rel_ebd": "layer_norm",
        "share_att_key": True,
    },
    "modernbert": {
        "max_position_embeddings": CONTEXT,
        "local_attention": 8,
        "global_attn_every_n_layers": 2,
        "classifier_pooling": "mean",
    },
}
NAMES = sorted(TYPES)


def make_tokenizer(name: str) -> PreTrainedTokenizerFast:
    """One token a character, the special tokens and pairs of the model's family."""
    is_roberta = name == "roberta"
    begin, end = ("<s>", "</s>") if is_roberta else ("[CLS]", "[SEP]")
    pad, unknown, mask = (
        ("<pad>", "<unk>", "<mask>") if is_roberta else ("[PAD]", "[UNK]", "[MASK]")
    )
    special = [begin, pad, end, unknown, mask] if is_roberta else [pad, unknown, begin, end, mask]
    vocabulary = {token: place for place, token in enumerate([*special, *CHARACTERS])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token=unknown))
    tokenizer.pre_tokenizer = Split(Regex(r"[\s\S]"), "isolated")
    middle = f"{end} {end}" if is_roberta else end
    second = "0" if is_roberta else "1"
    tokenizer.post_processor = TemplateProcessing(
        single=f"{begin} $A {end}",
        pair=f"{begin} $A {middle} $B:{second} {end}:{second}",
        special_tokens=[(begin, vocabulary[begin]), (end, vocabulary[end])],
    )
    names = ["input_ids", "attention_mask"]
    # as the families' own tokenizers: DeBERTa's says types that the model has not
    if name in ("bert", "deberta-v2"):
        names.insert(1, "token_type_ids")
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        cls_token=begin,
        sep_token=end,
        pad_token=pad,
        unk_token=unknown,
        mask_token=mask,
        model_max_length=CONTEXT,
        model_input_names=names,
    )


def make_encoder(name: str, folder: Path, *, headless: bool = False, **options: object) -> None:
    """A checkpoint with its tokenizer: a reward model, or the language model that one starts as."""
    config_class, language_class, scorer_class = TYPES[name]
    tokenizer = make_tokenizer(name)
    ids = {
        "pad_token_id": tokenizer.pad_token_id,
        "cls_token_id": tokenizer.cls_token_id,
        "sep_token_id": tokenizer.sep_token_id,
        "bos_token_id": tokenizer.cls_token_id,
        "eos_token_id": tokenizer.sep_token_id,
    }
    values = {**SMALL, **OPTIONS[name], **ids, "initializer_range": 0.2, **options}
    config = config_class(vocab_size=len(tokenizer), **values)
    torch.manual_seed(7)
    model: PreTrainedModel = (language_class if headless else scorer_class)(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
