"""Checks that need the installed libraries or the disk: `args`, `peft` and `policy.config`, local
files.

Imports transformers, trl and peft where the recipe has keys for them; loads no weights.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import TypeAlias, get_args, get_type_hints

from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError

from align.recipe.architecture import check_architecture
from align.recipe.document import Key, dotted
from align.recipe.optimizers import missing_package
from align.recipe.parts import generators, rewards, sources
from align.recipe.problems import Problem, describe, explain, suggest
from align.recipe.sections import Made, Recipe
from align.recipe.values import is_list, is_mapping

Problems: TypeAlias = Iterator[Problem]

OWNED: dict[str, str] = {
    "output_dir": "use align run --out",
    "overwrite_output_dir": "use align run --redo",
    "seed": "use run.seed",
    "data_seed": "use run.seed",
    "run_name": "use run.name",
    "report_to": "use run.report_to",
    "per_device_train_batch_size": "use {section}.micro_batch_size",
    "per_device_eval_batch_size": "use {section}.micro_batch_size",
    "gradient_accumulation_steps": "use {section}.global_batch_size",
    "auto_find_batch_size": "use {section}.micro_batch_size",
    "max_length": "use {section}.max_length",
    "push_to_hub": "use publish",
    "do_train": "remove it: a section that is there runs",
    "do_eval": "use evaluate",
    "do_predict": "use evaluate",
    "resume_from_checkpoint": "run the same command again: it resumes",
    "remove_unused_columns": "remove it: the data hold only what is read",
    "logging_dir": "remove it: logs lie in the run's folder",
    "deepspeed": "use align run --accelerate-config",
    "fsdp": "use align run --accelerate-config",
    "fsdp_config": "use align run --accelerate-config",
    "accelerator_config": "use align run --accelerate-config",
    "local_rank": "use align run --accelerate-config",
    "ddp_backend": "use align run --accelerate-config",
    "use_cpu": "use align run --accelerate-config",
    "model_init_kwargs": "use policy",
    "chat_template_path": "use policy.chat_template",
    "precompute_ref_log_probs": "remove it: reference log-probs are always cached",
    "beta": "use train.objective",
    "loss_type": "use train.objective",
    "label_smoothing": "use train.objective",
    "sync_ref_model": "use train.reference",
}
"""Keys of the libraries' config classes that the pipeline sets, and where the recipe says the same.
"""

_REPOSITORY = re.compile(r"(\b[\w\-.]+\b/)?\b[\w\-.]{1,96}\b", re.ASCII)
"""As `huggingface_hub.utils.validate_repo_id` has it, which a test compares."""
_DATA_SUFFIXES = (".json", ".jsonl", ".gz", ".parquet", ".tsv", ".csv", ".txt")


def check_environment(recipe: Recipe, *, libraries: bool = True) -> list[Problem]:
    """Problems with local paths, and with `args`, `peft` and `policy.config`, whose libraries take
    seconds to import.
    """
    found = (
        [
            *_args_of_all(recipe),
            *_peft(recipe),
            *_quantization(recipe),
            *_repository(recipe),
            *check_architecture(recipe),
        ]
        if libraries
        else []
    )
    return [*found, *missing_files(recipe), *missing_functions(recipe)]


def _args_of_all(recipe: Recipe) -> Problems:
    if recipe.sft is not None:
        yield from check_args("sft", recipe.sft.args, "trl.SFTConfig")
    if recipe.reward is not None:
        yield from check_args("reward", recipe.reward.args, "trl.RewardConfig")
    if recipe.train is not None:
        uses_trl = recipe.train.engine == "trl"
        name = "trl.DPOConfig" if uses_trl else "transformers.TrainingArguments"
        yield from check_args("train", recipe.train.args, name)


def check_args(section: str, args: Mapping[str, object], class_name: str) -> Problems:
    """Problems in a section's `args`, which go to the library's config class named `class_name`."""
    unowned: dict[str, object] = {}
    yield from _least((section, "args"), args)
    for key, value in args.items():
        remedy = "use publish" if key.startswith("hub_") else OWNED.get(key)
        if remedy is not None:
            message = "is set by align and cannot stand in args"
            yield Problem((section, "args", key), message, remedy.format(section=section))
        else:
            unowned[key] = value
    package = missing_package(unowned.get("optim"))
    if package is not None:
        message = f"{unowned['optim']} needs the package {package}, which is not installed here"
        remedy = f"pip install {package}, or use adamw_torch or adamw_torch_fused"
        yield Problem((section, "args", "optim"), message, remedy)
    if unowned:
        yield from _check_fields((section, "args"), unowned, config_class(class_name), class_name)


def _least(key: Key, args: Mapping[str, object]) -> Problems:
    """The libraries see these when training begins, after all that was sampled for it."""
    epochs, rate = args.get("num_train_epochs"), args.get("learning_rate")
    if isinstance(epochs, int | float) and not epochs > 0:
        message = f"must be above 0, not {epochs:g}"
        yield Problem(
            (*key, "num_train_epochs"), message, "a fraction trains on a part of the data"
        )
    if isinstance(rate, int | float) and rate < 0:
        yield Problem((*key, "learning_rate"), f"must be at least 0, not {rate:g}", "change it")


def config_class(name: str) -> type:
    """A library's config class by its dotted name, imported here: nothing else on this floor needs
    the library.
    """
    # Before the import: TRL pings telemetry otherwise.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    module, _, class_name = name.partition(".")
    found = getattr(importlib.import_module(module), class_name)
    if not is_dataclass(found) or not isinstance(found, type):
        raise TypeError(f"{name} is no dataclass any more")
    return found


def _check_fields(key: Key, values: Mapping[str, object], config: type, name: str) -> Problems:
    known = [field.name for field in fields(config) if field.init]
    hints = get_type_hints(config)
    for option, value in values.items():
        if option not in known:
            yield _unknown(key, option, name, [each for each in known if each not in OWNED])
        else:
            yield from _check_choice((*key, option), value, hints[option], name)
            yield from _check_type((*key, option), value, hints[option])


def _unknown(key: Key, option: str, name: str, known: list[str]) -> Problem:
    remedy = suggest(option, known)
    if not remedy.startswith("did"):
        # A hundred names are no help.
        remedy = f"see the documentation of {name}"
    return Problem((*key, option), f"is not a field of {name}", remedy)


def _check_choice(key: Key, value: object, hint: type, name: str) -> Problems:
    """The libraries declare `SchedulerType | str`, and later refuse what is not in the former."""
    for part in get_args(hint):
        if isinstance(part, type) and issubclass(part, Enum) and isinstance(value, str):
            choices = [str(each.value) for each in part]
            if value not in choices:
                message = f"must be one of the choices of {name}, not {describe(value)}"
                yield Problem(key, message, suggest(value, choices, what="choices"))


def _check_type(key: Key, value: object, hint: type) -> Problems:
    try:
        # As JSON, in which strictness still lets text be an enumeration's value.
        TypeAdapter[object](hint).validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        yield from (
            Problem((*key, *each.key), each.message, each.remedy)
            for each in explain(error, value, object)
        )
    except PydanticSchemaGenerationError:
        return  # A type that pydantic has no words for: the library checks it itself.


def _peft(recipe: Recipe) -> Problems:
    if recipe.policy is not None and recipe.policy.peft:
        name = "peft.LoraConfig"
        yield from _check_fields(("policy", "peft"), recipe.policy.peft, config_class(name), name)
        rank = recipe.policy.peft.get("r")
        if isinstance(rank, int) and rank < 1:
            yield Problem(("policy", "peft", "r"), f"must be at least 1, not {rank}", "e.g. 16")


def _quantization(recipe: Recipe) -> Problems:
    quantized = recipe.policy is not None and recipe.policy.quantization is not None
    if quantized and importlib.util.find_spec("bitsandbytes") is None:
        message = "needs the package bitsandbytes, which is not installed here"
        remedy = "pip install bitsandbytes on a machine with CUDA, or remove it"
        yield Problem(("policy", "quantization"), message, remedy)


def _repository(recipe: Recipe) -> Problems:
    """The Hub's own rule on names: a push that it refuses would end the run at its last step."""
    repo = recipe.publish.repo if recipe.publish else None
    if repo is None or (_REPOSITORY.fullmatch(repo) and not re.search(r"--|\.\.|\.git$", repo)):
        return
    yield Problem(
        ("publish", "repo"),
        f'"{repo}" is no name of a repository on the Hub',
        "write org/name, each of letters, digits, -, _ and ., with a letter or digit at its ends",
    )


def weights_paths(recipe: Recipe) -> Iterator[tuple[Key, str]]:
    """Every checkpoint that the recipe names, with its key."""
    policy, reward, evaluate = recipe.policy, recipe.reward, recipe.evaluate
    if policy is not None and policy.path is not None:
        yield ("policy", "path"), policy.path
    if policy is not None and isinstance(path := (policy.tokenizer or {}).get("path"), str):
        yield ("policy", "tokenizer", "path"), path
    made = reward.data if reward is not None and isinstance(reward.data, Made) else None
    if reward is not None and reward.init != "policy":
        yield ("reward", "init"), reward.init
    samplers = generators(recipe.generate)
    if made is not None:
        samplers += generators(made.generate, ("reward", "data", "generate"))
    if evaluate is not None:
        samplers += generators(evaluate.generate, ("evaluate", "generate"))
    for key, sampler in samplers:
        if sampler.policy not in ("current", "initial"):
            yield (*key, "policy"), sampler.policy
        if isinstance(path := sampler.options.get("path"), str):
            yield (*key, "path"), path
    for key, source in rewards(recipe):
        yield from nested_paths(key, source.options)


def nested_paths(key: Key, value: object, wanted: str = "path") -> Iterator[tuple[Key, str]]:
    """Every `path` (or other option) of a plug-in, those of its members too."""
    if is_mapping(value):
        for name, each in value.items():
            if name == wanted and isinstance(each, str):
                yield (*key, name), each
            else:
                yield from nested_paths((*key, name), each, wanted)
    elif is_list(value):
        for index, each in enumerate(value):
            yield from nested_paths((*key, index), each, wanted)


def unset_variables(recipe: Recipe) -> list[str]:
    """The environment variables that rewards take tokens from and that are not set here."""
    named = [
        each
        for key, source in rewards(recipe)
        for each in nested_paths(key, source.options, "token_variable")
    ]
    return [
        f"{dotted(key)}: the environment variable {name} is not set; export it before the run"
        for key, name in named
        if not os.environ.get(name)
    ]


def all_paths(recipe: Recipe) -> Iterator[tuple[Key, str]]:
    """Every path or Hub id that the recipe reads, with its key."""
    yield from weights_paths(recipe)
    for key, source in sources(recipe):
        if source.path is not None:
            yield (*key, "path"), source.path
        yield from nested_paths(key, source.options)


def is_local(path: str) -> bool:
    """True for what exists here or can only be a local path; a Hub id is `name` or `org/name`."""
    looks_local = (
        path.startswith((".", "/", "~")) or path.endswith(_DATA_SUFFIXES) or path.count("/") > 1
    )
    return looks_local or Path(path).exists()


def _is_there(path: Path) -> bool:
    """`DIR/NAME` also stands for `DIR/NAME.train.jsonl` and its like; the split picks one."""
    return path.exists() or any(path.parent.glob(f"{path.name}[.-]*"))


def missing_functions(recipe: Recipe) -> Problems:
    """Functions of `python` rewards whose package is not there. It is looked for, not imported,
    which may take long.
    """
    for key, source in rewards(recipe):
        for place, name in _functions(key, {"name": source.name, **source.options}):
            package, _, rest = name.partition(".")
            if not rest:
                yield Problem(place, f'"{name}" is no dotted name', "write package.module.function")
            elif importlib.util.find_spec(package) is None:
                remedy = "install it, or run from the folder that holds it"
                yield Problem(place, f'"{name}": there is no module {package}', remedy)


def _functions(key: Key, value: object) -> Iterator[tuple[Key, str]]:
    """What every `python` reward calls, those inside others too."""
    if is_mapping(value):
        function = value.get("function")
        if value.get("name") == "python" and isinstance(function, str):
            yield (*key, "function"), function
        for name, each in value.items():
            yield from _functions((*key, name), each)
    elif is_list(value):
        for index, each in enumerate(value):
            yield from _functions((*key, index), each)


def missing_files(recipe: Recipe) -> Problems:
    """Local paths that are not there."""
    for key, path in all_paths(recipe):
        if is_local(path) and not _is_there(Path(path).expanduser()):
            remedy = f"paths are relative to the working folder, {Path.cwd()}"
            yield Problem(key, f'"{path}" does not exist', remedy)
    template = recipe.policy.chat_template if recipe.policy else None
    if template is not None and template.endswith(".jinja") and not Path(template).is_file():
        remedy = f"paths are relative to the working folder, {Path.cwd()}"
        yield Problem(("policy", "chat_template"), f'"{template}" does not exist', remedy)
