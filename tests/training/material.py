"""Made data for the trainers' tests: random completions of random prompts, seeded."""

from __future__ import annotations

import random
from pathlib import Path

import torch
from safetensors.torch import load_file

from align.data.fingerprint import fingerprint
from align.recipe.sections import Recipe
from align.records import Pair, Prompt, Sample, Score, WeightsRef
from align.training.job import Job

DIGITS = range(4, 14)
"""Ids of ten characters of the tiny tokenizer (0 to 3 are special)."""
BOS, EOS = 1, 2


def make_samples(
    prompts: int = 8,
    each: int = 2,
    *,
    seed: int = 0,
    policy: str = "",
    temperature: float = 1.0,
    finished: float = 0.8,
) -> list[Sample]:
    """`each` completions of unequal length for every prompt; some do not end, so they have no end
    token.
    """
    rng = random.Random(seed)
    samples = []
    for number in range(prompts):
        prompt = Prompt.of(f"{number}+{seed}=")
        prompt_ids = (BOS, *rng.choices(DIGITS, k=rng.randint(2, 6)))
        for index in range(each):
            is_finished = rng.random() < finished
            body = rng.choices(DIGITS, k=rng.randint(1, 7))
            ids = (*body, EOS) if is_finished else tuple(body)
            samples.append(
                Sample(
                    sample_id=f"s{seed}-{number}-{index}",
                    prompt_id=prompt.prompt_id,
                    index=index,
                    policy=policy,
                    prompt_ids=prompt_ids,
                    completion_ids=ids,
                    loss_mask=(1,) * len(ids),
                    logps=None,
                    text="".join(str(i - DIGITS[0]) for i in body),
                    finish="stop" if is_finished else "length",
                    temperature=temperature,
                )
            )
    return samples


def make_pairs(samples: list[Sample]) -> list[Pair]:
    """The first two samples of each prompt, in order."""
    first: dict[str, Sample] = {}
    pairs = []
    for sample in samples:
        if sample.index == 0:
            first[sample.prompt_id] = sample
        elif sample.index == 1:
            pairs.append(Pair(first[sample.prompt_id].sample_id, sample.sample_id))
    return pairs


def make_scores(samples: list[Sample]) -> list[Score]:
    """+1 and -1 in turn."""
    return [
        Score(sample.sample_id, 1.0 if place % 2 else -1.0) for place, sample in enumerate(samples)
    ]


def make_job(
    model: Path, out: Path, section: dict[str, object], *, seed: int = 0, **policy: object
) -> Job:
    """A policy job that starts from `model`, which is also its reference."""
    recipe = Recipe.model_validate({"policy": {"path": str(model), **policy}, "train": section})
    assert recipe.train is not None
    weights = WeightsRef(str(model))
    return Job(recipe, recipe.train, weights, out, seed, reference=weights)


def fingerprint_of(model: Path) -> str:
    """The fingerprint of full weights in a folder."""
    return fingerprint(WeightsRef(str(model)))


SGD: dict[str, object] = {
    "optim": "sgd",
    "learning_rate": 1.0,
    "lr_scheduler_type": "constant",
    "max_grad_norm": 0.0,
}
"""Plain gradient descent: what a run changes in the weights is its gradient."""


def update_of(start: Path, end: Path) -> torch.Tensor:
    """All weights' change as one float64 vector, in the order of their names."""
    before, after = tensors_of(start), tensors_of(end)
    assert before.keys() == after.keys()
    return torch.cat(
        [(after[name].double() - before[name].double()).flatten() for name in sorted(after)]
    )


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    """The tensors of a saved model or adapter."""
    return {
        name: value
        for path in sorted(folder.glob("*.safetensors"))
        for name, value in load_file(path).items()
    }


def relative_gap(one: torch.Tensor, other: torch.Tensor) -> float:
    """L2 of the difference, relative to the first."""
    return float((one - other).norm() / one.norm())
