"""Rules that follow from what the recipe's objective reads (its `needs`)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TypeAlias, cast

from align import registry
from align.protocols import Objective
from align.recipe.document import dotted
from align.recipe.parts import generators, has_stored_only
from align.recipe.problems import Problem
from align.recipe.sections import Advantage, Recipe

Problems: TypeAlias = Iterator[Problem]


def check_objective(recipe: Recipe) -> list[Problem]:
    """All problems between the objective and the other sections."""
    return [problem for rule in _RULES for problem in rule(recipe)]


def advantage_is_said_once(recipe: Recipe) -> Problems:
    """The target share of positives is a way to choose the constant baseline."""
    if recipe.train is None:
        return
    advantage = recipe.train.advantage
    if advantage.target_positive_share is not None and advantage.baseline != "none":
        yield Problem(
            ("train", "advantage", "target_positive_share"),
            "chooses the baseline, and there is one already",
            "remove baseline or target_positive_share",
        )
    is_constant = not isinstance(advantage.baseline, str)
    if advantage.normalise == "whiten" and (is_constant or advantage.target_positive_share):
        yield Problem(
            ("train", "advantage", "normalise"),
            "whiten takes the mean away and a constant baseline with it",
            "use batch, or leave out the constant",
        )


def advantage_has_a_group(recipe: Recipe) -> Problems:
    """One sample a prompt has nothing to be compared with."""
    train, samplers = recipe.train, generators(recipe.generate)
    if train is None or not samplers or has_stored_only(recipe.generate):
        return
    given = [sampler.options.get("n") for _, sampler in samplers]
    counts = [number for number in given if isinstance(number, int)]
    if len(counts) < len(given) or sum(counts) != 1:
        return
    for key, value in (
        ("baseline", train.advantage.baseline),
        ("normalise", train.advantage.normalise),
    ):
        if value in ("group_mean", "leave_one_out", "group"):
            yield Problem(
                ("train", "advantage", key),
                f"{value} compares a prompt's samples, and there is one a prompt",
                "raise generate.n, or use a constant or batch_mean",
            )


def truncated_samples_have_one_sign(recipe: Recipe) -> Problems:
    """What a selection counts as negatives is trained on as such."""
    found, select, train = _needs(recipe), recipe.select, recipe.train
    if found is None or select is None or train is None or "advantages" not in found[1]:
        return
    if select.options.get("truncated") == "negative" and train.advantage.truncated == "keep":
        yield Problem(
            ("select", "truncated"),
            f"takes samples cut at the length limit as negatives, and {found[0]} would train on"
            " them by their score",
            "set train.advantage.truncated to negative too",
        )


def correction_is_possible(recipe: Recipe) -> Problems:
    """A correction weighs a policy gradient by the trainer's log-probs against the sampler's."""
    found, train = _needs(recipe), recipe.train
    if found is None or train is None or train.correction is None:
        return
    key, correction = ("train", "correction"), train.correction
    if "advantages" not in found[1]:
        yield Problem(key, f"is not read by {found[0]}, which is no policy gradient", "remove it")
    if not correction.low < correction.high < math.inf:
        yield Problem(
            (*key, "low"), f"must lie below high, which is {correction.high:g}", "change the band"
        )
    if train.sampling_logps == "sampler":
        yield Problem(
            key,
            "compares the trainer's log-probs with the sampler's, and train.sampling_logps: sampler"
            " takes the sampler's for both",
            "set train.sampling_logps to trainer, or remove correction",
        )


def trl_engine_trains_dpo(recipe: Recipe) -> Problems:
    """TRL's engine here is its DPOTrainer."""
    train = recipe.train
    if train is not None and train.engine == "trl" and train.objective.name != "dpo":
        yield Problem(
            ("train", "engine"), f"trl trains only dpo, not {train.objective.name}", "use align"
        )


def _needs(recipe: Recipe) -> tuple[str, frozenset[str]] | None:
    """The objective's name and what it reads; None where there is none or it cannot be had."""
    if recipe.train is None:
        return None
    section = recipe.train.objective
    found = registry.check("objective", section.name, section.options).config
    return None if found is None else (section.name, cast(Objective, found).needs)


def pairs_meet_a_pair_objective(recipe: Recipe) -> Problems:
    """Pair objectives read pairs; the others do not."""
    found, train = _needs(recipe), recipe.train
    if found is None or train is None:
        return
    name, needs = found
    if "pairs" in needs:
        if recipe.pair is None and train.data is None and recipe.generate is not None:
            yield Problem(
                ("train", "objective"), f"{name} needs pairs", "add pair, e.g. {name: max_min}"
            )
    elif recipe.pair is not None:
        yield Problem(
            ("pair",), f"is not read by {name}", "remove it, or use a pair objective such as dpo"
        )


def objective_has_what_it_reads(recipe: Recipe) -> Problems:
    """Advantages and labels come from scores, importance ratios from samples; sections that the
    objective does not read are not there.
    """
    found, train = _needs(recipe), recipe.train
    if found is None or train is None:
        return
    name, needs = found
    samples_anew = recipe.generate is not None and not has_stored_only(recipe.generate)
    if needs & {"advantages", "scores"} and recipe.score is None and samples_anew:
        yield Problem(
            ("train", "objective"),
            f"{name} needs scores",
            "add score, e.g. {name: exact_match}",
        )
    if "sampling_logps" in needs and train.data is not None:
        yield Problem(
            ("train", "data"),
            f"has no probabilities of the policy that wrote it, which {name} divides by",
            "use generate, or an objective such as dpo",
        )
    if "advantages" not in needs and train.advantage != Advantage():
        why = ", which compares pairs" if "pairs" in needs else ""
        yield Problem(("train", "advantage"), f"is not read by {name}{why}", "remove it")
    if "advantages" not in needs and train.gradient_norms is not None:
        yield Problem(
            ("train", "gradient_norms"),
            f"tells positive from negative advantages, and {name} reads none",
            "remove it",
        )
    if "ref_logps" not in needs and train.reference != "initial":
        yield Problem(("train", "reference"), f"is not read by {name}", "remove it")
    if "from_reference" in needs and train.reference == "initial" and samples_anew:
        drawn = [sampler for _, sampler in generators(recipe.generate)]
        if all(sampler.policy != "initial" for sampler in drawn) and recipe.run.iterations > 1:
            yield Problem(
                ("train", "objective"),
                f"{name} needs samples of the reference, which no sampler draws",
                "add to generate a sampler with policy: initial",
            )
    if "mismatched" in needs and train.global_batch_size < 2:
        yield Problem(
            ("train", "global_batch_size"),
            f"is 1, and {name} compares a completion with the prompts of others",
            "set it to 2 or more",
        )


def ratios_have_a_distribution(recipe: Recipe) -> Problems:
    """A greedy sampler draws from a point: a ratio to it is 0 or undefined."""
    found = _needs(recipe)
    if found is None or "sampling_logps" not in found[1]:
        return
    for key, sampler in generators(recipe.generate):
        if sampler.options.get("temperature") == 0:
            yield Problem(
                (*key, "temperature"),
                f"is 0: greedy samples have no distribution that {found[0]} could take ratios to",
                "set it above 0",
            )


def ratios_have_full_support(recipe: Recipe) -> Problems:
    """I7: top-p and top-k cut the support, so that pi/mu is not the ratio of what was sampled."""
    found, train = _needs(recipe), recipe.train
    if (
        found is None
        or train is None
        or train.allow_truncated_sampling
        or ("sampling_logps" not in found[1] and train.correction is None)
    ):
        return
    for key, sampler in generators(recipe.generate):
        top_p, top_k = sampler.options.get("top_p"), sampler.options.get("top_k")
        cuts = {
            "top_p": isinstance(top_p, (int, float)) and top_p < 1,
            "top_k": isinstance(top_k, int) and top_k > 0,
        }
        for option in (option for option, cut in cuts.items() if cut):
            neutral = "1.0" if option == "top_p" else "0"
            yield Problem(
                (*key, option),
                f"cuts the distribution that {found[0]} takes ratios to",
                f"set {dotted((*key, option))} to {neutral}, "
                "or train.allow_truncated_sampling to true",
            )


def reference_and_ratio_share_a_temperature(recipe: Recipe) -> Problems:
    """References are scored at temperature 1 and ratios at the sample's own, by one forward."""
    found = _needs(recipe)
    if found is None or not {"ref_logps", "sampling_logps"} <= found[1]:
        return
    for key, sampler in generators(recipe.generate):
        temperature = sampler.options.get("temperature")
        if isinstance(temperature, (int, float)) and temperature != 1:
            yield Problem(
                (*key, "temperature"),
                f"must be 1, not {temperature:g}: {found[0]} reads the reference at temperature 1"
                " beside the ratio to the sampler",
                "set it to 1, or leave out train.objective.kl",
            )


def limits_are_measured(recipe: Recipe) -> Problems:
    """A bound is of something that the objective lets the trainer measure."""
    found, train = _needs(recipe), recipe.train
    if found is None or train is None or train.stop is None:
        return
    name, needs = found
    if train.engine == "trl":
        yield Problem(("train", "stop"), "is not read by engine: trl", "use engine: align")
    if train.stop.kl is None and train.stop.chosen_logps_drop is None:
        yield Problem(("train", "stop"), "bounds nothing", "set kl or chosen_logps_drop")
    if train.stop.kl is not None and "ref_logps" not in needs:
        yield Problem(
            ("train", "stop", "kl"),
            f"bounds the log-ratio to a reference, which {name} has not",
            "remove it",
        )
    if train.stop.chosen_logps_drop is not None and needs.isdisjoint({"pairs", "scores"}):
        yield Problem(
            ("train", "stop", "chosen_logps_drop"),
            f"bounds chosen completions, which {name} has not",
            "remove it",
        )


_RULES: tuple[Callable[[Recipe], Problems], ...] = (
    advantage_is_said_once,
    advantage_has_a_group,
    truncated_samples_have_one_sign,
    correction_is_possible,
    trl_engine_trains_dpo,
    pairs_meet_a_pair_objective,
    objective_has_what_it_reads,
    ratios_have_a_distribution,
    ratios_have_full_support,
    reference_and_ratio_share_a_temperature,
    limits_are_measured,
)
