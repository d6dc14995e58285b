"""Weights in and out: policies, scorers and tokenizers from a folder or a Hub id, and policies made
from a config.

Only safetensors are read (no pickle) and code shipped with a checkpoint runs only where the caller
says so (I8).
"""

from __future__ import annotations

import contextlib
import difflib
import json
from collections.abc import Iterator
from pathlib import Path
from types import MethodType

import torch
from huggingface_hub.errors import StrictDataclassError
from peft import PeftModel
from torch import Tensor
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BitsAndBytesConfig,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.modeling_outputs import SequenceClassifierOutputWithPast

from align.data.characters import make_character_tokenizer
from align.data.fingerprint import local_folder
from align.errors import DataError, SetupError
from align.inference.encoders import is_encoder, score_pair
from align.recipe.sections import Options, Policy
from align.records import WeightsRef

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load_tokenizer(
    path: str | Path, *, trust_remote_code: bool = False, revision: str | None = None
) -> PreTrainedTokenizerBase:
    """The tokenizer of a checkpoint, as it was saved. Raises `DataError` where there is none."""
    folder = local_folder(str(path), revision)
    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path} holds no tokenizer that can be loaded ({_first_line(error)})"
        ) from error


def load_causal(
    weights: WeightsRef,
    *,
    dtype: str = "float32",
    trust_remote_code: bool = False,
    revision: str | None = None,
    is_trainable: bool = False,
    quantization: BitsAndBytesConfig | None = None,
    attention: str | None = None,
) -> PreTrainedModel | PeftModel:
    """The language model that `weights` names, in `eval` mode on the CPU; a `PeftModel` where it
    has an adapter.

    `is_trainable` lets gradients reach the adapter (without one, all weights are trainable anyway).
    With `quantization` the base is put into few bits on this process's GPU, where it stays.
    `attention` names the kernel; None leaves it to the library.
    """
    folder = _weights_folder(weights.base, revision)
    place = {} if quantization is None else {"device_map": {"": torch.cuda.current_device()}}
    model = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=_dtype(dtype),
        use_safetensors=True,
        trust_remote_code=trust_remote_code,
        quantization_config=quantization,
        attn_implementation=attention,
        **place,
    )
    return _with_adapter(model, weights.adapter, is_trainable)


def load_scorer(
    weights: WeightsRef | str | Path,
    *,
    dtype: str = "float32",
    seed: int = 0,
    trust_remote_code: bool = False,
    revision: str | None = None,
    is_trainable: bool = False,
) -> PreTrainedModel | PeftModel:
    """A model with one logit a row, `(N, 1)`: a saved scorer, or a causal checkpoint with a new
    head drawn from `seed`.

    The logit is read at the last position that the attention mask keeps, so that neither the
    padding side nor a pad token that also occurs in the text (pad = eos) moves it (ALGORITHMS 2.1).
    An encoder's logit is that of its own head. `config.pad_token_id` is set. Raises `SetupError`
    for models that are neither.
    """
    if not isinstance(weights, WeightsRef):
        weights = WeightsRef(str(weights))
    folder = _weights_folder(weights.base, revision)
    tokenizer = load_tokenizer(folder, trust_remote_code=trust_remote_code)
    with _seeded(seed):
        model = AutoModelForSequenceClassification.from_pretrained(
            folder,
            num_labels=1,
            dtype=_dtype(dtype),
            use_safetensors=True,
            trust_remote_code=trust_remote_code,
        )
    reads_both_ways = is_encoder(model.config)
    if not reads_both_ways and "score" not in dict(model.named_children()):
        raise SetupError(
            f"{type(model).__name__} reads its score elsewhere than at the last token; a reward "
            "model is a decoder (Llama, Qwen, Mistral, Gemma, GPT-2, ...) or an encoder (BERT, "
            "RoBERTa, DeBERTa, ModernBERT, ...)"
        )
    model.config.pad_token_id = pad_id(tokenizer)
    model.forward = MethodType(score_pair if reads_both_ways else _score_at_last_attended, model)
    return _with_adapter(model, weights.adapter, is_trainable)


def _score_at_last_attended(
    self: PreTrainedModel,
    input_ids: Tensor | None = None,
    attention_mask: Tensor | None = None,
    inputs_embeds: Tensor | None = None,
    labels: Tensor | None = None,
    **kwargs: object,
) -> SequenceClassifierOutputWithPast:
    """`forward` of a scorer: the library's own looks for the last token that is not `pad_token_id`
    instead.
    """
    if labels is not None:
        raise ValueError("a scorer computes no loss of its own; pass no labels")
    rows = input_ids if input_ids is not None else inputs_embeds
    if rows is None:
        raise ValueError("a scorer needs input_ids or inputs_embeds")
    if attention_mask is None:
        if len(rows) > 1:
            raise ValueError(
                "a scorer needs the attention mask of a batch: it says where each row ends"
            )
        attention_mask = torch.ones(rows.shape[:2], dtype=torch.long, device=rows.device)
    kwargs.setdefault("use_cache", False)
    outputs = self.base_model(
        input_ids=input_ids, attention_mask=attention_mask, inputs_embeds=inputs_embeds, **kwargs
    )
    positions = torch.arange(rows.shape[1], device=attention_mask.device)
    last = (positions * (attention_mask != 0)).argmax(dim=-1)
    hidden = outputs.last_hidden_state
    pooled = hidden[torch.arange(len(rows), device=hidden.device), last.to(hidden.device)]
    return SequenceClassifierOutputWithPast(logits=self.get_submodule("score")(pooled))


def pad_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The id to pad with: the tokenizer's pad token, else its end token. Masks, never ids, say what
    padding is.
    """
    for candidate in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if isinstance(candidate, int):
            return candidate
    raise SetupError(
        "the tokenizer has neither a pad nor an end token; add one of them to it and save it again"
    )


def stop_ids(path: str | Path) -> list[int]:
    """Ids that end a generation: those of generation_config.json, else of config.json, and the
    tokenizer's end token.
    """
    folder = local_folder(str(path))
    ids: list[int] = []
    for name in ("generation_config.json", "config.json"):
        file = folder / name
        found = json.loads(file.read_text()).get("eos_token_id") if file.is_file() else None
        if found is not None:
            ids = [found] if isinstance(found, int) else list(found)
            break
    end = load_tokenizer(folder).eos_token_id
    if isinstance(end, int) and end not in ids:
        ids.append(end)
    if not ids:
        raise DataError(
            f"{path} names no end token; set eos_token_id in its generation_config.json"
        )
    return ids


def make_policy(policy: Policy, folder: Path, seed: int) -> None:
    """Writes a new policy, drawn from `seed`, into `folder`: config, float32 safetensors,
    tokenizer, end tokens.

    The weights depend on the config, the tokenizer's size and `seed` alone, never on the global
    random state, which is left as it was. Raises `DataError` where `policy` has no config or
    tokenizer, or names an unknown key.
    """
    if policy.config is None or policy.tokenizer is None:
        raise DataError("a policy from scratch needs both policy.config and policy.tokenizer")
    options = dict(policy.config)
    model_type = options.pop("model_type", None)
    if not isinstance(model_type, str) or model_type not in CONFIG_MAPPING:
        raise DataError(
            f"policy.config.model_type {model_type!r} is not known to transformers"
            + _near(model_type)
        )
    _refuse_unknown(model_type, options)
    positions = options.get("max_position_embeddings", options.get("n_positions"))
    tokenizer = _make_tokenizer(policy.tokenizer, positions if isinstance(positions, int) else 1024)
    special = {
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    config = _make_config(model_type, {"vocab_size": len(tokenizer)} | options | special)
    with _seeded(seed):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.generation_config = GenerationConfig(**special)
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _make_config(model_type: str, values: Options) -> PreTrainedConfig:
    try:
        return AutoConfig.for_model(model_type, **values)
    except (StrictDataclassError, TypeError, ValueError) as error:
        raise DataError(
            f"policy.config is not a {model_type} configuration: {_last_line(error)}"
        ) from error


def _make_tokenizer(options: Options, max_length: int) -> PreTrainedTokenizerBase:
    match options:
        case {"kind": "characters", "alphabet": str(alphabet), **rest} if not rest:
            return make_character_tokenizer(alphabet, max_length=max_length)
        case {"path": str(path), **rest} if not rest:
            return load_tokenizer(path)
    raise DataError(
        f"policy.tokenizer {options} is not understood; "
        "write {kind: characters, alphabet: ...} or {path: ...}"
    )


def _refuse_unknown(model_type: str, options: Options) -> None:
    # A transformers config keeps any key it is given, so a misspelt one would be silent.
    config_class = CONFIG_MAPPING[model_type]
    known = {*config_class().to_dict(), *config_class.attribute_map}
    for key in options:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f'; did you mean "{near[0]}"?' if near else ""
            raise DataError(f"policy.config.{key} is not an option of {model_type}{hint}")


def _near(model_type: object) -> str:
    near = difflib.get_close_matches(str(model_type), list(CONFIG_MAPPING.keys()), n=1)
    return f'; did you mean "{near[0]}"?' if near else "; write one, e.g. llama"


def _weights_folder(path: str, revision: str | None) -> Path:
    folder = local_folder(path, revision)
    if not any(folder.glob("*.safetensors")):
        raise DataError(
            f"{path} holds no *.safetensors weights; convert them (pickled weights are not loaded)"
        )
    return folder


def _with_adapter(
    model: PreTrainedModel, adapter: str | None, is_trainable: bool
) -> PreTrainedModel | PeftModel:
    if adapter is None:
        return model
    folder = local_folder(adapter)
    if not (folder / "adapter_model.safetensors").is_file():
        raise DataError(
            f"{adapter} holds no adapter_model.safetensors (pickled weights are not loaded)"
        )
    # Named again: PEFT would otherwise look for the base by the name stored in the adapter.
    return PeftModel.from_pretrained(model, str(folder), is_trainable=is_trainable).eval()


def _dtype(name: str) -> torch.dtype:
    if name not in DTYPES:
        raise DataError(f"dtype {name!r} is not one of {', '.join(DTYPES)}")
    return DTYPES[name]


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Draws inside depend on `seed` alone and leave the global random state untouched."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        yield


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]


def _last_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1].strip()
