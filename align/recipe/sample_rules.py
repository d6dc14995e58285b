"""Rules on what is sampled, scored and paired: each a small function that yields the problems it
finds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeAlias

from align.recipe.document import Key
from align.recipe.parts import generators, has_stored_only, rewards, scorings
from align.recipe.problems import Problem
from align.recipe.sections import Generate, Made, PairFrom, Recipe, Scoring
from align.registry import TABLES

Problems: TypeAlias = Iterator[Problem]

JUDGES = ("pairwise_judge", "pairwise_model")
"""Rewards that compare samples; a test compares the list with the classes."""


def samplers_have_prompts(recipe: Recipe) -> Problems:
    """Samplers other than `stored` need prompts."""
    if recipe.prompts is not None:
        return
    if recipe.generate and not has_stored_only(recipe.generate):
        yield Problem(("generate",), "needs prompts", "add prompts: {path: ...}")
    made = recipe.reward.data if recipe.reward else None
    if isinstance(made, Made) and made.prompts is None and not has_stored_only(made.generate):
        yield Problem(
            ("reward", "data"), "needs prompts", "add prompts: {path: ...} to it or to the recipe"
        )


def sections_have_samples(recipe: Recipe) -> Problems:
    """Scoring, selecting and pairing work on samples."""
    remedy = "add generate, e.g. {name: vllm, n: 8} or {name: stored, path: ...}"
    if recipe.generate is None:
        if recipe.score is not None and recipe.evaluate is None:
            yield Problem(("score",), "has no samples to score", remedy)
        for key, value in (("select", recipe.select), ("pair", recipe.pair)):
            if value is not None:
                yield Problem((key,), "has no samples to work on", remedy)
        return
    if recipe.score is None and not has_stored_only(recipe.generate):
        judged = recipe.pair is not None and recipe.pair.judge is not None
        for key, value in (("select", recipe.select), ("pair", None if judged else recipe.pair)):
            if value is not None:
                yield Problem(
                    (key,), "needs scores", "add score, e.g. {name: reward_model, path: ...}"
                )


def judges_compare(recipe: Recipe) -> Problems:
    """A judge is asked which of two samples is better; most rewards look at each alone."""
    for key, judge in rewards(recipe):
        is_ours = judge.name in TABLES["reward"]
        if key[-1] == "judge" and is_ours and judge.name not in JUDGES:
            message = f'"{judge.name}" scores samples one by one and compares none'
            remedy = (
                f"name {' or '.join(JUDGES)}, or let score rate the samples and leave judge out"
            )
            yield Problem((*key, "name"), message, remedy)


def prompts_are_read(recipe: Recipe) -> Problems:
    """Prompts are there to be sampled from."""
    made = recipe.reward.data if recipe.reward else None
    read = recipe.generate is not None or (isinstance(made, Made) and made.prompts is None)
    if recipe.prompts is not None and not read:
        yield Problem(
            ("prompts",), "is not read: nothing samples", "add generate, or remove prompts"
        )


def pairs_have_two_samples(recipe: Recipe) -> Problems:
    """A prompt with one sample makes no pair."""
    made = recipe.reward.data if recipe.reward else None
    if recipe.pair is not None:
        yield from _two_samples((), recipe.generate)
    if isinstance(made, Made):
        yield from _two_samples(("reward", "data"), made.generate)


def _two_samples(key: Key, generate: Generate | list[Generate] | None) -> Problems:
    samplers = generators(generate, (*key, "generate"))
    counts = [sampler.options.get("n") for _, sampler in samplers if sampler.name != "stored"]
    if len(counts) == len(samplers) == 1 and counts[0] == 1:
        yield Problem(
            (*samplers[0][0], "n"), "is 1, and one sample makes no pair", "set it to 2 or more"
        )


def pairs_have_two_kept_samples(recipe: Recipe) -> Problems:
    """Nor does one of which selection keeps one sample."""
    select = recipe.select
    if recipe.pair is not None and select is not None and select.options.get("keep") == 1:
        yield Problem(
            ("select", "keep"),
            "is 1, and one kept sample of a prompt makes no pair",
            "set it to 2 or more, or remove select",
        )


def thresholds_part_verdicts(recipe: Recipe) -> Problems:
    """Anna Karenina sampling tells right from wrong by a score between the two verdicts."""
    select, sources = recipe.select, scorings(recipe.score)
    if select is None or select.name != "anna_karenina" or len(sources) != 1:
        return
    options, weight = sources[0][1].options, sources[0][1].weight
    ends = [options.get("right"), options.get("wrong")]
    numbers = [weight * end for end in ends if isinstance(end, int | float)]
    threshold = select.options.get("threshold", 0.0)
    if len(numbers) < 2 or not isinstance(threshold, int | float):
        return
    if min(numbers) == max(numbers) or min(numbers) <= threshold < max(numbers):
        return
    yield Problem(
        ("select", "threshold"),
        f"is {threshold:g}, which does not part the verdicts {numbers[0]:g} (right) and "
        f"{numbers[1]:g} (wrong): a sample above it is positive",
        f"set it to {sum(numbers) / 2:g}",
    )


def samplers_differ(recipe: Recipe) -> Problems:
    """The best of two samplers needs two of them."""
    made = recipe.reward.data if recipe.reward else None
    found: list[tuple[Key, PairFrom | None, Generate | list[Generate] | None]]
    found = [((), recipe.pair, recipe.generate)]
    if isinstance(made, Made):
        found.append((("reward", "data"), made.pair, made.generate))
    for key, pair, generate in found:
        if pair is None or pair.options.get("between") != "samplers":
            continue
        if len(generators(generate)) == 1 and not has_stored_only(generate):
            yield Problem(
                (*key, "pair", "between"),
                "is samplers, and here is one sampler, whose samples would make no pair",
                "name two in generate, or set it to samples",
            )


def rejection_rejects(recipe: Recipe) -> Problems:
    """Where as many samples are kept as are drawn, RSO's sampler accepts them all."""
    select, samplers = recipe.select, generators(recipe.generate)
    if select is None or select.name != "statistical_rejection":
        return
    keep = select.options.get("keep")
    counts = [sampler.options.get("n") for _, sampler in samplers]
    numbers = [number for number in counts if isinstance(number, int)]
    if len(numbers) < len(counts) or not numbers or not isinstance(keep, int):
        return
    if keep >= sum(numbers):
        yield Problem(
            ("select", "keep"),
            f"is {keep} of {sum(numbers)} samples a prompt, so none is rejected whatever beta says",
            "lower it, or raise generate.n (the paper: 8 of 64)",
        )


def verdicts_differ(recipe: Recipe) -> Problems:
    """A verifier whose two verdicts are one number tells nothing."""
    for key, source in rewards(recipe):
        right, wrong = source.options.get("right"), source.options.get("wrong")
        if right is not None and right == wrong:
            yield Problem(
                (*key, "right"),
                f"is {right:g}, as wrong is: every sample would score the same",
                "let them differ, e.g. right: 1, wrong: 0",
            )


def reward_models_exist(recipe: Recipe) -> Problems:
    """`reward_model` without a path is this recipe's own, so there must be one, made before."""
    made = recipe.reward.data if recipe.reward else None
    evaluate = recipe.evaluate
    found = [
        *scorings(recipe.score),
        *scorings(evaluate.score if evaluate else None, ("evaluate", "score")),
    ]
    for key, scoring in found:
        if _is_own(scoring) and recipe.reward is None:
            yield Problem(
                key, "names no reward model", "add its path, or a reward section that trains one"
            )
    if isinstance(made, Made):
        for key, scoring in scorings(made.score, ("reward", "data", "score")):
            if _is_own(scoring):
                yield Problem(key, "would score with the reward model that it trains", "add a path")


def sources_have_names_and_weight(recipe: Recipe) -> Problems:
    """Each source of a sum is called by a name of its own, and one of them counts."""
    made = recipe.reward.data if recipe.reward else None
    evaluate = recipe.evaluate
    for found in (
        scorings(recipe.score),
        scorings(evaluate.score if evaluate else None, ("evaluate", "score")),
        scorings(made.score if isinstance(made, Made) else None, ("reward", "data", "score")),
    ):
        labels: set[str] = set()
        for key, scoring in found:
            label = scoring.label or scoring.name
            if label in labels:
                yield Problem(key, f'is a second source called "{label}"', "give it a label")
            labels.add(label)
        if found and not any(scoring.weight for _, scoring in found):
            yield Problem((*found[-1][0], "weight"), "is 0, as all are", "let one source count")


def _is_own(scoring: Scoring) -> bool:
    return scoring.name == "reward_model" and scoring.options.get("path") is None


SAMPLE_RULES: tuple[Callable[[Recipe], Problems], ...] = (
    samplers_have_prompts,
    prompts_are_read,
    sections_have_samples,
    pairs_have_two_samples,
    pairs_have_two_kept_samples,
    thresholds_part_verdicts,
    samplers_differ,
    rejection_rejects,
    verdicts_differ,
    reward_models_exist,
    sources_have_names_and_weight,
    judges_compare,
)
