"""Rules between sections: each a small function that yields the problems it finds.

Those on samples and their scores are in `sample_rules.py`, those that ask what an objective reads
in `objective_rules.py`, those that need the disk or the libraries in `environment.py`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import TypeAlias

from align.recipe.loop_rules import LOOP_RULES
from align.recipe.objective_rules import check_objective
from align.recipe.parts import has_stored_only, scorings, sources
from align.recipe.problems import Problem, suggest
from align.recipe.sample_rules import SAMPLE_RULES
from align.recipe.sections import (
    Ema,
    Made,
    Policy,
    Recipe,
)
from align.recipe.split import check_splits

Problems: TypeAlias = Iterator[Problem]


def check_rules(recipe: Recipe, *, plugin_classes: bool = True) -> list[Problem]:
    """All problems between sections; without `plugin_classes` those that need a plug-in's class
    are left out.
    """
    problems = [problem for rule in _RULES for problem in rule(recipe)]
    return problems + ([*check_objective(recipe), *check_splits(recipe)] if plugin_classes else [])


def something_to_do(recipe: Recipe) -> Problems:
    """A recipe runs something."""
    stages = (
        recipe.sft,
        recipe.reward,
        recipe.generate,
        recipe.train,
        recipe.evaluate,
        recipe.publish,
    )
    if all(stage is None for stage in stages):
        yield Problem(
            (), "the recipe has nothing to do", "add sft, reward, generate, train or evaluate"
        )


def lists_are_not_empty(recipe: Recipe) -> Problems:
    """`generate: []` says neither yes nor no."""
    for key, value in (("generate", recipe.generate), ("score", recipe.score)):
        if value == []:
            yield Problem((key,), "is an empty list", f"name one, or remove {key}")


def name_is_one_folder(recipe: Recipe) -> Problems:
    """`runs/NAME` is a folder in `runs/`."""
    name = recipe.run.name
    if name is not None and (not name.strip() or "/" in name or name in (".", "..")):
        yield Problem(
            ("run", "name"),
            f"{name!r} is not the name of a folder in runs/",
            "use letters, digits, - and _, or choose the whole path by --out",
        )


def policy_is_given_once(recipe: Recipe) -> Problems:
    """A policy is a checkpoint, or made from a config and a tokenizer."""
    policy = recipe.policy
    if policy is None:
        return
    if (policy.path is None) == (policy.config is None):
        both = policy.path is not None
        message = "has both path and config" if both else "has neither path nor config"
        yield Problem(("policy",), message, "give exactly one of path and config")
    elif policy.config is not None:
        yield from _from_scratch(policy)
    elif policy.tokenizer is not None:
        yield Problem(("policy", "tokenizer"), "is only for a policy made from config", "remove it")


def quantized_weights_stay(recipe: Recipe) -> Problems:
    """Weights in few bits cannot be trained; an adapter over them can."""
    policy = recipe.policy
    if policy is not None and policy.quantization is not None and policy.peft is None:
        yield Problem(
            ("policy", "quantization"),
            "freezes all weights, and there is no adapter to train",
            "add policy.peft, e.g. {r: 16, target_modules: all-linear}",
        )


def _from_scratch(policy: Policy) -> Problems:
    if "model_type" not in (policy.config or {}):
        yield Problem(
            ("policy", "config", "model_type"), "is required", "add it, e.g. model_type: llama"
        )
    if policy.revision is not None:
        yield Problem(("policy", "revision"), "is only for a policy with a path", "remove it")
    tokenizer = policy.tokenizer
    if tokenizer is None:
        yield Problem(
            ("policy", "tokenizer"),
            "is required with policy.config",
            'add e.g. tokenizer: {kind: characters, alphabet: "0123456789+="}',
        )
        return
    for key in tokenizer.keys() - {"kind", "alphabet", "path"}:
        remedy = suggest(key, ["kind", "alphabet", "path"])
        yield Problem(("policy", "tokenizer", key), "is not a key of policy.tokenizer", remedy)
    characters = tokenizer.get("kind") == "characters" and isinstance(
        tokenizer.get("alphabet"), str
    )
    if not characters and not isinstance(tokenizer.get("path"), str):
        yield Problem(
            ("policy", "tokenizer"),
            "says neither which alphabet nor which path",
            'write {kind: characters, alphabet: "..."} or {path: ...}',
        )


def sections_have_a_policy(recipe: Recipe) -> Problems:
    """What trains or samples needs a policy."""
    if recipe.policy is not None:
        return
    made = recipe.reward.data if recipe.reward else None
    needs = {
        "sft": recipe.sft is not None,
        "reward": recipe.reward is not None
        and (
            recipe.reward.init == "policy"
            or (isinstance(made, Made) and not has_stored_only(made.generate))
        ),
        "generate": recipe.generate is not None and not has_stored_only(recipe.generate),
        "train": recipe.train is not None,
        "evaluate": recipe.evaluate is not None,
    }
    for key in (name for name, needed in needs.items() if needed):
        yield Problem((key,), "needs a policy", "add policy: {path: ...}")


def train_has_one_kind_of_data(recipe: Recipe) -> Problems:
    """Training reads human preferences or samples, never both."""
    if recipe.train is None:
        return
    if recipe.train.data is None and recipe.generate is None:
        yield Problem(
            ("train",), "has nothing to train on", "add train.data, or generate and score"
        )
    if recipe.train.data is not None and recipe.generate is not None:
        yield Problem(("train", "data"), "stands beside generate", "keep one: data or samples")


def sources_are_given_once(recipe: Recipe) -> Problems:
    """A source is a path, a built-in name or a mix."""
    for key, source in sources(recipe):
        ways = {"path": source.path, "name": source.name, "mix": source.mix}
        given = [name for name, value in ways.items() if value is not None]
        if len(given) != 1:
            said = f"has {' and '.join(given)}" if given else "has no path, name or mix"
            yield Problem(key, said, "give exactly one of path, name and mix")
        if source.mix == []:
            yield Problem((*key, "mix"), "is an empty list", "name sources to mix")


def iterations_have_a_loop(recipe: Recipe) -> Problems:
    """More than one iteration needs sampling that changes; history and a moving reference need
    iterations, of which `run.iterations: 1` may leave the first alone.
    """
    train = recipe.train
    if recipe.run.iterations > 1:
        if train is None:
            yield Problem(
                ("run", "iterations"),
                "needs train: nothing changes between iterations",
                "set it to 1",
            )
        elif train.data is not None:
            yield Problem(
                ("run", "iterations"),
                "needs generate: train.data is the same in each",
                "set it to 1 and train.args.num_train_epochs to more",
            )
        elif has_stored_only(recipe.generate):
            yield Problem(
                ("run", "iterations"),
                "needs a sampler: stored samples are the same in each",
                "set it to 1 and train.args.num_train_epochs to more",
            )
    elif train is not None and "iterations" not in recipe.run.model_fields_set:
        if train.history != "current":
            yield Problem(
                ("train", "history"), "needs several iterations", "set run.iterations, or remove it"
            )
        if isinstance(train.reference, Ema):
            yield Problem(
                ("train", "reference"),
                "needs several iterations",
                "set run.iterations, or remove it",
            )


def batches_divide(recipe: Recipe) -> Problems:
    """A global batch is a whole number of micro-batches."""
    for key, section in (("sft", recipe.sft), ("reward", recipe.reward), ("train", recipe.train)):
        if section is None or section.micro_batch_size is None:
            continue
        whole, part = section.global_batch_size, section.micro_batch_size
        if whole % part:
            below = max(size for size in range(1, part + 1) if whole % size == 0)
            yield Problem(
                (key, "micro_batch_size"),
                f"({part}) does not divide {key}.global_batch_size ({whole})",
                f"use e.g. {below}",
            )


def forwards_are_cut_once(recipe: Recipe) -> Problems:
    """A forward is bounded by items or by tokens, not by both; TRL's trainer knows items only."""
    train = recipe.train
    if train is None or train.micro_batch_tokens is None:
        return
    if train.micro_batch_size is not None:
        yield Problem(
            ("train", "micro_batch_tokens"),
            "excludes train.micro_batch_size: each says how much a device forwards at once",
            "remove one of them",
        )
    elif train.engine == "trl":
        yield Problem(
            ("train", "micro_batch_tokens"),
            "is not known to train.engine: trl",
            "set train.micro_batch_size instead",
        )


def stop_samples_as_it_trains(recipe: Recipe) -> Problems:
    """`sft.stop` samples replies behind the assistant's header."""
    sft = recipe.sft
    if sft is not None and sft.stop is not None and not sft.add_generation_prompt:
        yield Problem(
            ("sft", "stop"),
            "samples behind the assistant's header, which add_generation_prompt: false leaves out",
            "remove one of them",
        )


def evaluation_is_complete(recipe: Recipe) -> Problems:
    """Evaluation samples and scores, with sections of its own or the recipe's."""
    evaluate = recipe.evaluate
    if evaluate is None:
        return
    if evaluate.score is None and recipe.score is None:
        yield Problem(
            ("evaluate",), "needs scores", "add evaluate.score or score, e.g. {name: exact_match}"
        )
    if evaluate.generate is None and (recipe.generate is None or has_stored_only(recipe.generate)):
        yield Problem(("evaluate",), "has no sampler", "add evaluate.generate, e.g. {name: vllm}")
    if evaluate.generate is not None and evaluate.generate.name == "stored":
        yield Problem(
            ("evaluate", "generate"),
            "reads stored samples, which do not come from the policy",
            "name a sampler",
        )


def votes_are_weighed(recipe: Recipe) -> Problems:
    """Votes are weighed by what a source of the evaluation says, and cast by a pattern."""
    evaluate = recipe.evaluate
    if evaluate is None or evaluate.vote is None:
        return
    try:
        re.compile(evaluate.vote.extract or "")
    except re.error as error:
        yield Problem(
            ("evaluate", "vote", "extract"),
            f"is not a regular expression: {error}",
            "see the documentation of Python's re module",
        )
    if evaluate.vote.weight is None:
        return
    found = scorings(evaluate.score or recipe.score)
    labels = [scoring.label or scoring.name for _, scoring in found]
    # A source that is made of others names theirs behind a slash.
    if labels and evaluate.vote.weight.partition("/")[0] not in labels:
        yield Problem(
            ("evaluate", "vote", "weight"),
            f'"{evaluate.vote.weight}" names no source of the evaluation',
            f"name one of {', '.join(labels)}, or add one with that label and weight: 0",
        )


def publishing_has_a_target(recipe: Recipe) -> Problems:
    """Publishing goes somewhere and has something to publish."""
    if recipe.publish is None:
        return
    if recipe.publish.repo is None and recipe.publish.folder is None:
        yield Problem(("publish",), "has no target", "add repo: org/name, or folder: path")
    if recipe.publish.repo is not None and recipe.publish.folder is not None:
        yield Problem(
            ("publish", "folder"),
            "stands beside repo, and a run is published to one place",
            "remove one; `align publish` copies it to the other",
        )
    if recipe.sft is None and recipe.reward is None and recipe.train is None:
        yield Problem(("publish",), "has no model to publish", "add sft, reward or train")


_RULES: tuple[Callable[[Recipe], Problems], ...] = (
    something_to_do,
    name_is_one_folder,
    lists_are_not_empty,
    policy_is_given_once,
    quantized_weights_stay,
    sections_have_a_policy,
    *SAMPLE_RULES,
    train_has_one_kind_of_data,
    sources_are_given_once,
    iterations_have_a_loop,
    *LOOP_RULES,
    batches_divide,
    forwards_are_cut_once,
    stop_samples_as_it_trains,
    evaluation_is_complete,
    votes_are_weighed,
    publishing_has_a_target,
)
