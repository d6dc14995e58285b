"""What model a policy is: `policy.config` key by key, whether it is a language model, and whether
vLLM can run its heads here. Loads no weights.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar, Protocol, TypeAlias, cast

from align.recipe.document import Key
from align.recipe.parts import generators
from align.recipe.problems import Problem, describe, nearest
from align.recipe.sections import Made, Recipe

Problems: TypeAlias = Iterator[Problem]

CPU_HEAD_SIZES = (32, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512)
"""Those of vLLM 0.31's CPU attention; a test compares them with the library's own list."""


class _ModelConfig(Protocol):
    """What is read of transformers' config classes."""

    attribute_map: ClassVar[Mapping[str, str]]

    def __init__(self, **options: object) -> None: ...

    def to_dict(self) -> Mapping[str, object]: ...


def check_architecture(recipe: Recipe) -> Problems:
    """Problems with `policy.config`, or with the `config.json` of local weights."""
    if recipe.policy is not None and recipe.policy.config is not None:
        yield from _made(recipe, dict(recipe.policy.config))
    yield from _local(recipe)


def _made(recipe: Recipe, options: dict[str, object]) -> Problems:
    """Transformers keeps any key that a config is given, so a misspelt one would be silent."""
    model_type = options.pop("model_type", None)
    if model_type is None:
        return
    key = ("policy", "config")
    library = importlib.import_module("transformers.models.auto.configuration_auto")
    known = cast("Mapping[str, type[_ModelConfig]]", library.CONFIG_MAPPING)
    if not isinstance(model_type, str) or model_type not in known:
        near = nearest(str(model_type), known.keys())
        remedy = f'did you mean "{near}"?' if near else "write one, e.g. llama"
        message = f"is {describe(model_type)}, which transformers does not know"
        yield Problem((*key, "model_type"), message, remedy)
        return
    if not _is_causal(model_type):
        message = f"is {describe(model_type)}, of which transformers has no causal language model"
        yield Problem((*key, "model_type"), message, "write one that writes text, e.g. llama")
        return
    valid = {*known[model_type]().to_dict(), *known[model_type].attribute_map}
    wrong = [option for option in options if option not in valid]
    for option in wrong:
        near = nearest(option, valid)
        remedy = f'did you mean "{near}"?' if near else f"see {model_type}'s documentation"
        yield Problem((*key, option), f"is not an option of {model_type}", remedy)
    if wrong:
        return
    errors = importlib.import_module("huggingface_hub.errors")
    refused = cast("type[Exception]", errors.StrictDataclassError)
    try:
        config = known[model_type](**options).to_dict()
    except (refused, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        yield Problem(key, f"is no configuration of {model_type} ({reason})", "change the value")
        return
    if any(policy in ("current", "initial") for _, policy in _sampled_by_vllm(recipe)):
        yield from _heads(key, config)


def _is_causal(model_type: str) -> bool:
    library = importlib.import_module("transformers.models.auto.modeling_auto")
    return model_type in cast("Mapping[str, str]", library.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def _local(recipe: Recipe) -> Problems:
    """The same of checkpoints that lie here; those on the Hub are not looked up."""
    policy = recipe.policy
    if policy is not None and policy.path is not None and not policy.trust_remote_code:
        config = _read_config(policy.path)
        if not (_only_scores(recipe) and _is_masked(config.get("model_type"))):
            yield from _is_language_model(("policy", "path"), policy.path, config)
    named: dict[str, Key] = {}
    for key, sampled in _sampled_by_vllm(recipe):
        if sampled not in ("current", "initial"):
            named.setdefault(sampled, key)
        elif policy is not None and policy.path is not None:
            named.setdefault(policy.path, ("policy", "path"))
    for path, key in named.items():
        yield from _heads(key, _read_config(path))


def _is_masked(model_type: object) -> bool:
    library = importlib.import_module("transformers.models.auto.modeling_auto")
    return model_type in cast("Mapping[str, str]", library.MODEL_FOR_MASKED_LM_MAPPING_NAMES)


def _only_scores(recipe: Recipe) -> bool:
    """Whether the policy only begins a reward model, which may be an encoder."""
    trained = recipe.reward is not None and not isinstance(recipe.reward.data, Made)
    writes = (recipe.sft, recipe.generate, recipe.train, recipe.evaluate)
    return trained and not any(part is not None for part in writes)


def _read_config(path: str) -> Mapping[str, object]:
    """`config.json` of a local checkpoint; empty where there is none (an adapter) or it is broken,
    which the loader says better.
    """
    try:
        found = json.loads((Path(path).expanduser() / "config.json").read_text())
    except (OSError, ValueError):
        return {}
    return cast("Mapping[str, object]", found) if isinstance(found, dict) else {}


def _is_language_model(key: Key, path: str, config: Mapping[str, object]) -> Problems:
    """The class that wrote the weights usually says so itself; the library is asked only where it
    does not.
    """
    model_type, architectures = config.get("model_type"), config.get("architectures")
    causal = ("ForCausalLM", "LMHeadModel")
    if not isinstance(model_type, str) or any(word in str(architectures) for word in causal):
        return
    if not _is_causal(model_type):
        message = f'"{path}" is a {model_type}, of which transformers has no causal language model'
        yield Problem(key, message, "give a model that writes text")


def _sampled_by_vllm(recipe: Recipe) -> Iterator[tuple[Key, str]]:
    """What vLLM samplers sample from, with the key that says so; those of another environment
    (`python`) may have CUDA where this one has none.
    """
    found = generators(recipe.generate)
    made = recipe.reward.data if recipe.reward is not None else None
    if isinstance(made, Made):
        found += generators(made.generate, ("reward", "data", "generate"))
    if recipe.evaluate is not None:
        found += generators(recipe.evaluate.generate, ("evaluate", "generate"))
    for key, sampler in found:
        if sampler.name == "vllm" and sampler.options.get("python") is None:
            yield (*key, "policy"), sampler.policy


def _heads(key: Key, config: Mapping[str, object]) -> Problems:
    """vLLM's CPU attention has no kernel for every size. Only a size that it lacks is worth the
    seconds in which torch says whether there is CUDA.
    """
    config = text_part(config)
    size = head_size(config)
    if size is None or not lacks_kernel(config):
        return
    torch = importlib.import_module("torch")
    if not torch.cuda.is_available():
        sizes = ", ".join(str(known) for known in CPU_HEAD_SIZES)
        message = f"has heads of {size} dimensions, which vLLM cannot run on a CPU ({sizes} it can)"
        yield Problem(key, message, "use {name: transformers}, or a model with heads of 32")


def text_part(config: Mapping[str, object]) -> Mapping[str, object]:
    """The part on text where the model also takes other inputs, else all."""
    part = config.get("text_config")
    return cast("Mapping[str, object]", part) if isinstance(part, dict) else config


def lacks_kernel(config: Mapping[str, object]) -> bool:
    """Whether vLLM's CPU attention has none for these heads; multi-head latent attention is another
    kernel.
    """
    size = head_size(config)
    return size is not None and "kv_lora_rank" not in config and size not in CPU_HEAD_SIZES


def head_size(config: Mapping[str, object]) -> int | None:
    """Dimensions of an attention head; None where the config does not say."""
    given = config.get("head_dim")
    if isinstance(given, int):
        return given
    width = number(config, "hidden_size", "n_embd")
    heads = number(config, "num_attention_heads", "n_head")
    return width // heads if width and heads else None


def number(config: Mapping[str, object], *names: str) -> int | None:
    """The first of these entries that is a whole number: families of models name them otherwise."""
    return next((value for name in names if isinstance(value := config.get(name), int)), None)
