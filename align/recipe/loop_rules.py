"""Rules on the online loop: samplers that share the prompts, rounds of further ones, stops, and the
model that is published. Each a small function that yields the problems it finds.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator
from typing import TypeAlias

from align.recipe.parts import generators, has_stored_only
from align.recipe.problems import Problem
from align.recipe.sections import Made, Recipe

Problems: TypeAlias = Iterator[Problem]

_POLICIES = ("current", "initial")
"""What a sampler draws from, a checkpoint aside."""


def shares_add_up(recipe: Recipe) -> Problems:
    """Samplers with a share divide the prompts: each has one of them."""
    made = recipe.reward.data if recipe.reward else None
    own = recipe.evaluate.generate if recipe.evaluate else None
    if own is not None and own.share is not None:
        yield Problem(
            ("evaluate", "generate", "share"),
            "is for several samplers, and here is one",
            "remove it",
        )
    for found in (
        generators(recipe.generate),
        generators(
            made.generate if isinstance(made, Made) else None, ("reward", "data", "generate")
        ),
    ):
        shares = [(key, each.share) for key, each in found if each.share is not None]
        for key, each in found:
            if each.share is not None and each.name == "stored":
                yield Problem(
                    (*key, "share"),
                    "is for samplers, and stored samples are all taken",
                    "remove it",
                )
        total = sum(share for _, share in shares)
        if shares and abs(total - 1) > 1e-6:
            yield Problem(
                (*shares[-1][0], "share"),
                f"makes the shares add up to {total:g}, and each prompt has one of these samplers",
                "let them add up to 1, or leave share out where a sampler draws for every prompt",
            )


def samplers_are_spelt(recipe: Recipe) -> Problems:
    """`policy: inital` would be looked for on the Hub."""
    for key, each in generators(recipe.generate):
        near = difflib.get_close_matches(each.policy, _POLICIES, 1, cutoff=0.8)
        if near and each.policy not in _POLICIES:
            yield Problem(
                (*key, "policy"), f'"{each.policy}" is no policy', f'did you mean "{near[0]}"?'
            )


def refills_can_be_judged(recipe: Recipe) -> Problems:
    """A refill asks whether the scores of a prompt's samples differ."""
    made = recipe.reward.data if recipe.reward else None
    if isinstance(made, Made) and made.prompts is not None and made.prompts.refill is not None:
        yield Problem(
            ("reward", "data", "prompts", "refill"), "is for the loop's prompts", "remove it"
        )
    prompts = recipe.prompts
    if prompts is None or prompts.refill is None:
        return
    key = ("prompts", "refill")
    if recipe.train is None or recipe.score is None or has_stored_only(recipe.generate):
        yield Problem(
            key, "needs samples that are drawn, scored and trained on", "add generate, score, train"
        )
    if prompts.per_iteration is None:
        yield Problem(
            key, "needs prompts.per_iteration, the size of a round", "set prompts.per_iteration"
        )
    elif prompts.refill.informative > prompts.per_iteration * (1 + prompts.refill.rounds):
        most = prompts.per_iteration * (1 + prompts.refill.rounds)
        yield Problem(
            (*key, "informative"),
            f"asks for more prompts than all rounds together sample ({most})",
            f"set it to at most {most}, or raise rounds",
        )


def stops_are_measured(recipe: Recipe) -> Problems:
    """The loop is stopped by what evaluation measures."""
    stop, evaluate = recipe.run.stop, recipe.evaluate
    if stop is None:
        return
    key = ("run", "stop")
    if stop.kl is None and stop.length_growth is None and stop.held_out_falls is None:
        yield Problem(key, "bounds nothing", "set kl, length_growth or held_out_falls")
    if recipe.train is None or recipe.train.data is not None:
        yield Problem(key, "ends a loop of sampling and training, and there is none", "remove it")
    if evaluate is None:
        yield Problem(
            key,
            "is decided by evaluation after each iteration",
            "add evaluate: {prompts: {path: ...}}",
        )
    elif stop.kl is not None and not evaluate.kl:
        yield Problem(
            (*key, "kl"), "is not measured: evaluate.kl is false", "set evaluate.kl: true"
        )
    if stop.held_out_falls is not None and recipe.score is None:
        yield Problem(
            (*key, "held_out_falls"),
            "compares with the scores of the iterations' samples, and there are none",
            "add score, or remove it",
        )


def best_is_evaluated(recipe: Recipe) -> Problems:
    """The best policy is told by its held-out score."""
    publish = recipe.publish
    if publish is None or publish.model == "last":
        return
    if recipe.evaluate is None or recipe.train is None:
        yield Problem(
            ("publish", "model"),
            "best is told by the evaluation after each iteration",
            "add train and evaluate, or set it to last",
        )


LOOP_RULES: tuple[Callable[[Recipe], Problems], ...] = (
    shares_add_up,
    samplers_are_spelt,
    refills_can_be_judged,
    stops_are_measured,
    best_is_evaluated,
)
