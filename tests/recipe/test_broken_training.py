"""What training reads and cannot have: objectives, advantages, corrections, batches."""

from __future__ import annotations

from pathlib import Path

import pytest

from align.recipe.load import load_recipe
from tests.recipe.broken import (
    PAIRED,
    POLICY,
    PREFS,
    SAMPLES,
    SCORED,
    STORED,
    TOPR,
    TRAIN,
    check_error,
    one,
)

RULES = {
    "train without policy": one(PREFS + "}", 1, "train", "needs a policy", "add policy"),
    "train without data": one(
        POLICY + TRAIN + "}", 2, "train", "nothing to train on", "add train.data"
    ),
    "train on both": one(
        PAIRED + PREFS + "}", 6, "train.data", "stands beside generate", "keep one"
    ),
    "pair objective without pairs": one(
        SCORED + TRAIN + "}", 5, "train.objective", "dpo needs pairs", "add pair"
    ),
    "gradient norms without signs": one(
        PAIRED + TRAIN + ", gradient_norms: 4}",
        6,
        "train.gradient_norms",
        "tells positive from negative advantages, and dpo reads none",
        "remove it",
    ),
    "truncated samples of two signs": one(
        SCORED
        + "select: {name: anna_karenina, truncated: negative}\n"
        + "train: {objective: {name: topr}, global_batch_size: 8}",
        5,
        "select.truncated",
        "topr would train on them by their score",
        "train.advantage.truncated to negative",
    ),
    "pairs that nobody reads": one(
        TOPR + "}\npair: {name: max_min}\n", 6, "pair", "is not read by topr", "remove it"
    ),
    "advantage that nobody reads": one(
        PAIRED + TRAIN + ", advantage: {normalise: group}}",
        6,
        "train.advantage",
        "is not read by dpo",
        "remove it",
    ),
    "advantage beside labels": one(
        SCORED
        + "train: {objective: {name: kto}, advantage: {normalise: group}, global_batch_size: 8}",
        5,
        "train.advantage",
        "is not read by kto",
        "remove it",
    ),
    "labels without scores": one(
        SAMPLES + "train: {objective: {name: kto}, global_batch_size: 8}",
        4,
        "train.objective",
        "kto needs scores",
        "add score",
    ),
    "a step of one for kto": one(
        SCORED + "train: {objective: {name: kto}, global_batch_size: 1}",
        5,
        "train.global_batch_size",
        "compares a completion with the prompts of others",
        "set it to 2 or more",
    ),
    "pairs beside labels": one(
        SCORED + "train: {objective: {name: kto}, global_batch_size: 8}\npair: {name: max_min}\n",
        6,
        "pair",
        "is not read by kto",
        "remove it",
    ),
    "reference without need": one(
        PAIRED
        + "train: {objective: {name: simpo, gamma: 1}, reference: previous, global_batch_size: 8}",
        6,
        "train.reference",
        "is not read by simpo",
        "remove it",
    ),
    "both margins of simpo": one(
        POLICY + PREFS.replace("name: dpo", "name: simpo, gamma: 1, gamma_beta_ratio: 1") + "}",
        2,
        "train.objective",
        "give exactly one of gamma",
        "",
    ),
    "an option of another loss": one(
        POLICY + PREFS.replace("name: dpo", "name: dpo, loss: hinge, tau: 0.1") + "}",
        2,
        "train.objective",
        "tau is used only by loss: discopop, and hinge would ignore it",
        "",
    ),
    "an objective as a loss": one(
        POLICY + PREFS.replace("name: dpo", "name: dpo, loss: simpo") + "}",
        2,
        "train.objective.loss",
        'not the text "simpo"',
        "write {name: simpo}",
    ),
    "reference that nobody reads": one(
        TOPR + ", reference: previous}", 5, "train.reference", "is not read by topr", "remove it"
    ),
    "stop by a reference that is not read": one(
        TOPR + ", stop: {kl: 5.0}}", 5, "train.stop.kl", "a reference, which topr has not", "remove"
    ),
    "stop by completions that are not chosen": one(
        TOPR + ", stop: {chosen_logps_drop: 5.0}}",
        5,
        "train.stop.chosen_logps_drop",
        "chosen completions, which topr has not",
        "remove it",
    ),
    "stop in another engine": one(
        POLICY + PREFS + ", engine: trl, stop: {kl: 5.0}}",
        2,
        "train.stop",
        "not read by engine: trl",
        "use engine: align",
    ),
    "advantages without scores": one(
        SAMPLES + "train: {objective: {name: topr}, global_batch_size: 8}",
        4,
        "train.objective",
        "topr needs scores",
        "add score",
    ),
    "ratios on human data": one(
        POLICY + PREFS.replace("dpo", "topr") + "}",
        2,
        "train.data",
        "no probabilities of the policy that wrote it",
        "use generate",
    ),
    "baseline twice": one(
        TOPR + ", advantage: {baseline: 0.5, target_positive_share: 0.1}}",
        5,
        "train.advantage.target_positive_share",
        "there is one already",
        "remove baseline",
    ),
    "whitening a constant away": one(
        TOPR + ", advantage: {baseline: 0.5, normalise: whiten}}",
        5,
        "train.advantage.normalise",
        "takes the mean away",
        "use batch",
    ),
    "a group of one (deviation)": one(
        TOPR.replace("n: 4", "n: 1") + ", advantage: {normalise: group}}",
        5,
        "train.advantage.normalise",
        "group compares a prompt's samples, and there is one a prompt",
        "raise generate.n",
    ),
    "a group of one (baseline)": one(
        TOPR.replace("n: 4", "n: 1") + ", advantage: {baseline: leave_one_out}}",
        5,
        "train.advantage.baseline",
        "leave_one_out compares",
        "raise generate.n",
    ),
    "correction that nobody reads": one(
        PAIRED + TRAIN + ", correction: {kind: token_tis, high: 2}}",
        6,
        "train.correction",
        "is not read by dpo",
        "remove it",
    ),
    "correction with an empty band": one(
        TOPR + ", correction: {kind: token_mask, low: 2, high: 0.5}}",
        5,
        "train.correction.low",
        "must lie below high, which is 0.5",
        "change the band",
    ),
    "correction without a difference": one(
        TOPR + ", sampling_logps: sampler, correction: {kind: token_tis, high: 2}}",
        5,
        "train.correction",
        "takes the sampler's for both",
        "set train.sampling_logps to trainer",
    ),
    "correction of a cut distribution": one(
        TOPR.replace("topr", "reinforce").replace("n: 4", "top_p: 0.9")
        + ", correction: {kind: token_tis, high: 2}}",
        3,
        "generate.top_p",
        "cuts the distribution that reinforce takes ratios to",
        "set generate.top_p to 1.0",
    ),
    "reference and ratio at other temperatures": one(
        TOPR.replace("n: 4", "temperature: 0.7").replace("topr", "topr, kl: {weight: 0.1}") + "}",
        3,
        "generate.temperature",
        "must be 1, not 0.7",
        "leave out train.objective.kl",
    ),
    "penalty with an unknown key": one(
        TOPR.replace("topr", "ppo_clip, kl: {weight: 0.1, estimater: k2}") + "}",
        5,
        "train.objective.kl.estimater",
        "is not a key of",
        'did you mean "estimator"?',
    ),
    "k1 as a loss": one(
        TOPR.replace("topr", "ppo_clip, kl: {weight: 0.1, estimator: k1}") + "}",
        5,
        "train.objective.kl",
        "zero expected gradient",
        "",
    ),
    "ratios of a cut distribution (top_p)": one(
        TOPR.replace("n: 4", "top_p: 0.9") + "}",
        3,
        "generate.top_p",
        "cuts the distribution that topr takes ratios to",
        "set generate.top_p to 1.0, or train.allow_truncated_sampling to true",
    ),
    "ratios to a greedy sampler": one(
        TOPR.replace("n: 4", "temperature: 0.0") + "}",
        3,
        "generate.temperature",
        "greedy samples have no distribution that topr",
        "above 0",
    ),
    "ratios of a cut distribution (top_k)": one(
        TOPR.replace("n: 4", "top_k: 40") + "}",
        3,
        "generate.top_k",
        "cuts the distribution",
        "set generate.top_k to 0",
    ),
    "iterations over stored samples": one(
        "run: {iterations: 2}\n" + POLICY + STORED + "score: {name: length}\n"
        "train: {objective: {name: topr}, global_batch_size: 8}",
        1,
        "run.iterations",
        "stored samples are the same",
        "num_train_epochs",
    ),
    "history of one iteration": one(
        PAIRED + TRAIN + ", history: all}", 6, "train.history", "several iterations", "set run"
    ),
    "moving reference of one iteration": one(
        PAIRED + TRAIN + ", reference: {ema: 0.9}}",
        6,
        "train.reference",
        "several iterations",
        "set run",
    ),
    "batch that does not divide": one(
        POLICY + PREFS + ",\n  micro_batch_size: 3}",
        3,
        "train.micro_batch_size",
        "(3) does not divide train.global_batch_size (8)",
        "use e.g. 2",
    ),
    "forward cut twice": one(
        POLICY + PREFS + ", micro_batch_size: 2,\n  micro_batch_tokens: 512}",
        3,
        "train.micro_batch_tokens",
        "excludes train.micro_batch_size",
        "remove one",
    ),
    "tokens of TRL": one(
        POLICY + PREFS + ", engine: trl,\n  micro_batch_tokens: 512}",
        3,
        "train.micro_batch_tokens",
        "is not known to train.engine: trl",
        "set train.micro_batch_size",
    ),
    "stop without a header": one(
        "policy: {path: org/a}\nsft: {data: {path: org/b}, add_generation_prompt: false,\n"
        "  stop: {at: 0.5}}",
        3,
        "sft.stop",
        "samples behind the assistant's header",
        "remove one",
    ),
    "engine": one(
        TOPR + ", engine: trl}", 5, "train.engine", "trl trains only dpo, not topr", "use align"
    ),
}


@pytest.mark.parametrize("name", RULES)
def test_error_has_file_line_key_and_remedy(name: str, tmp_path: Path) -> None:
    check_error(RULES[name], tmp_path)


def test_ratios_of_a_cut_distribution_are_allowed_by_name(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(TOPR.replace("n: 4", "top_p: 0.9") + ", allow_truncated_sampling: true}")
    recipe = load_recipe(path)
    assert recipe.train is not None and recipe.train.allow_truncated_sampling
