"""TOPR's published claims in small: every arm with several seeds, a table and a plot a part.

    python benchmarks/reproduce_topr.py --parts collapse --budget 60
    python benchmarks/reproduce_topr.py --task stories
    python benchmarks/reproduce_topr.py --only-table

collapse  naive REINFORCE against TOPR over epochs on the same fixed samples
methods   TOPR, positives only, TIS, PPO's clip and DPO, at the best of three learning rates
malformed samples at temperature 1.5, of which some are no four digits and an end
share     the effective share of positives
anna      three rounds, one right answer a problem against uniform sampling
levels    the three ratio levels

addition: three digits, by a model that is right in a third of its answers (`--base rare` 12 %,
`--base frequent` 70 %); rewards are +-1, answers have five tokens.
stories (collapse and levels): a TinyStories checkpoint; the reward is the summed valence of the
words less the mean of the prompt's stories, answers have 60 tokens. How it works:
`reproduction.py`.
"""

from __future__ import annotations

import sys
from argparse import Namespace

from comparing import START, Arm, Base, Claim, Setting, Study
from drawing import draw_arms, draw_curves
from reproduction import main
from tasks import ADDITION, RATES, STOPS, STORIES

# The gradient norms that the recipes log take a fifth of the time and change nothing.
BASE: Setting = ("policy.path={base}", "train.gradient_norms=null")
TOLD: Setting = (
    "policy.path={stories}",
    "prompts.path={prompts}",
    "score.path={lexicon}",
    "evaluate.prompts.path={prompts}",
)
EPOCHS = (0.125, 0.25, 0.5, 1, 2, 4, 8)
"""Of 64 steps each."""
STORY_EPOCHS = (1, 2, 4)
SHARES = (0.05, 0.15, 0.35, 0.6, 0.85)
LEVELS = ("sequence", "token", "geometric")


def _sums(part: str, base: str, arms: list[Arm], claims: list[Claim]) -> Study:
    bases = {"base": Base("topr/tiny_sft.yaml", (f"sft.stop.at={STOPS[base]}",), "sft")}
    return Study(
        f"reproduce_topr_{part}_{base}", f"reproduce_topr_{base}", ADDITION, bases, arms, claims
    )


def _stories(part: str, arms: list[Arm], claims: list[Claim]) -> Study:
    name = f"reproduce_topr_{part}_stories"
    return Study(name, "reproduce_topr_stories", STORIES, {}, arms, claims)


def _over_epochs(family: str, settings: Setting, epochs: tuple[float, ...]) -> list[Arm]:
    """The rate is constant, so that fewer epochs are the beginning of more."""
    return [
        Arm(
            f"{name}@{count}",
            f"topr/{family}_{name}.yaml",
            (*settings, f"train.args.num_train_epochs={count}"),
        )
        for count in epochs
        for name in ("topr", "naive")
    ]


def collapse(base: str) -> Study:
    """Naive REINFORCE is pushed on by negatives that nobody draws any more."""
    last = EPOCHS[-1]
    claims = [
        Claim("naive rises at first", f"naive@{EPOCHS[0]}", START),
        Claim("naive falls below its base", START, f"naive@{last}"),
        Claim("TOPR stays above its base", f"topr@{last}", START),
        Claim("TOPR beats naive after one epoch", "topr@1", "naive@1"),
        Claim("TOPR beats naive at the end", f"topr@{last}", f"naive@{last}"),
    ]
    return _sums("collapse", base, _over_epochs("tiny", BASE, EPOCHS), claims)


def methods(base: str) -> Study:
    """The same samples, equal tuning."""
    names = ("topr", "positives_only", "tis", "ppo_clip", "dpo")
    arms = [Arm(name, f"topr/tiny_{name}.yaml", BASE, RATES) for name in names]
    claims = [
        Claim("negatives help", "topr", "positives_only"),
        Claim("positives at full strength help", "topr", "tis"),
        Claim("TOPR beats PPO's clip", "topr", "ppo_clip"),
        Claim("TOPR beats DPO", "topr", "dpo"),
    ]
    return _sums("methods", base, arms, claims)


def malformed(base: str) -> Study:
    """Samples and answers at a temperature at which some are no answer at all."""
    hot = (*BASE, "generate.temperature=1.5", "evaluate.generate.temperature=1.5")
    names = ("topr", "positives_only", "naive")
    arms = [Arm(name, f"topr/tiny_{name}.yaml", hot) for name in names]
    claims = [
        Claim("malformed answers become fewer", START, "topr", "malformed"),
        Claim("negatives take more of them away", "positives_only", "topr", "malformed"),
        Claim("TOPR improves its base", "topr", START),
        Claim("negatives help", "topr", "positives_only"),
    ]
    return _sums("malformed", base, arms, claims)


def share(base: str) -> Study:
    """The baseline makes the share."""
    arms = [
        Arm(
            f"topr@{value}",
            "topr/tiny_topr.yaml",
            (*BASE, f"train.advantage.target_positive_share={value}"),
        )
        for value in SHARES
    ]
    claims = [
        Claim("few positives beat many", "topr@0.15", "topr@0.85"),
        Claim("a balance beats very few", "topr@0.35", "topr@0.05"),
    ]
    return _sums("share", base, arms, claims)


def anna(base: str) -> Study:
    """Three rounds on fresh problems."""
    uniform = (*BASE, "select.max_pos_per_prompt=null")
    arms = [
        Arm("anna-karenina", "topr/tiny_iterated.yaml", BASE),
        Arm("uniform", "topr/tiny_iterated.yaml", uniform),
    ]
    claims = [Claim("one right answer a problem is better", "anna-karenina", "uniform")]
    return _sums("anna", base, arms, claims)


LEVEL_CLAIMS = [
    Claim("the product against the token's ratio", "sequence", "token"),
    Claim("the product against the geometric mean", "sequence", "geometric"),
]


def levels(base: str) -> Study:
    """Answers of five tokens."""
    arms = [
        Arm(level, "topr/tiny_topr.yaml", (*BASE, f"train.objective.ratio_level={level}"))
        for level in LEVELS
    ]
    return _sums("levels", base, arms, LEVEL_CLAIMS)


def story_collapse(base: str) -> Study:
    """A reward that repetition can raise: naive rises far, and falls later."""
    last = STORY_EPOCHS[-1]
    claims = [
        Claim("naive rises further at first", "naive@1", "topr@1"),
        Claim("naive falls below its base", START, f"naive@{last}"),
        Claim("naive drifts further", f"naive@{last}", f"topr@{last}", "kl"),
        Claim("naive repeats itself", f"topr@{last}", f"naive@{last}", "distinct_2"),
        Claim("TOPR stays above its base", f"topr@{last}", START),
        Claim("TOPR beats naive at the end", f"topr@{last}", f"naive@{last}"),
    ]
    return _stories("collapse", _over_epochs("stories", TOLD, STORY_EPOCHS), claims)


def story_levels(base: str) -> Study:
    """Answers of 60 tokens."""
    arms = [
        Arm(level, "topr/stories_topr.yaml", (*TOLD, f"train.objective.ratio_level={level}"))
        for level in LEVELS
    ]
    drift = [
        Claim("the token's ratio drifts further", "token", "sequence", "kl"),
        Claim("the geometric mean drifts further", "geometric", "sequence", "kl"),
    ]
    return _stories("levels", arms, [*LEVEL_CLAIMS, *drift])


def draw(study: Study, options: Namespace) -> None:
    """Curves where the arms are points of one, else points; the drift beside the score."""
    panels = {"score": study.task.label, "kl": "KL to the base, nats"}
    if study.task is STORIES:
        panels["distinct_2"] = "distinct bigrams"
    if "malformed" in study.name:
        panels["malformed"] = "share of malformed answers"
    if "collapse" in study.name:
        draw_curves(study, options, panels, "epochs on the same samples")
    elif "share" in study.name:
        draw_curves(study, options, panels, "effective share of positives")
    else:
        draw_arms(study, options, panels)


TASKS = {
    "addition": {
        "collapse": collapse,
        "methods": methods,
        "malformed": malformed,
        "share": share,
        "anna": anna,
        "levels": levels,
    },
    "stories": {"collapse": story_collapse, "levels": story_levels},
}

if __name__ == "__main__":
    sys.exit(main(__doc__, TASKS, draw))
