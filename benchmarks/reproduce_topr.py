"""TOPR's published claims in small: every arm with several seeds, a table and a plot a part.

    python benchmarks/reproduce_topr.py --parts collapse --budget 60
    python benchmarks/reproduce_topr.py --only-table

collapse  naive REINFORCE against TOPR over epochs on the same fixed samples
methods   TOPR, positives only, TIS, PPO's clip and DPO, at the best of three learning rates each
share     the effective share of positives
anna      three rounds, one right answer a problem against uniform sampling
levels    the three ratio levels

The task is 3-digit addition by a model that is right in a third of its answers (`--base rare` 12 %,
`--base frequent` 70 %); rewards are +-1. How it works: `reproduction.py`.
"""

from __future__ import annotations

import sys
from argparse import Namespace

from comparing import Arm, Claim, Setting, Study
from drawing import draw_arms, draw_curves
from reproduction import main

STOPS = {"third": 0.36, "rare": 0.12, "frequent": 0.7}
"""Where SFT of each base stops."""
RATES: tuple[Setting, ...] = tuple(
    (f"train.args.learning_rate={rate}",) for rate in ("3e-5", "1e-4", "3e-4")
)
BASE: Setting = ("policy.path={base}",)
EPOCHS = (1, 2, 4, 8)
SHARES = (0.05, 0.15, 0.35, 0.6, 0.85)


def _study(part: str, base: str, arms: list[Arm], claims: list[Claim]) -> Study:
    bases = {"base": ("topr/tiny_sft.yaml", (f"sft.stop.at={STOPS[base]}",))}
    return Study(f"reproduce_topr_{part}_{base}", bases, arms, claims)


def collapse(base: str) -> Study:
    """The rate is constant, so that fewer epochs are the beginning of more."""
    arms = [
        Arm(
            f"{name}@{epochs}",
            f"topr/tiny_{name}.yaml",
            (*BASE, f"train.args.num_train_epochs={epochs}"),
        )
        for epochs in EPOCHS
        for name in ("topr", "naive")
    ]
    last = EPOCHS[-1]
    claims = [
        Claim("naive falls below its base", "start", f"naive@{last}"),
        Claim("TOPR stays above its base", f"topr@{last}", "start"),
        Claim("TOPR beats naive after one epoch", "topr@1", "naive@1"),
        Claim("TOPR beats naive at the end", f"topr@{last}", f"naive@{last}"),
    ]
    return _study("collapse", base, arms, claims)


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
    return _study("methods", base, arms, claims)


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
    return _study("share", base, arms, claims)


def anna(base: str) -> Study:
    """Three rounds on fresh problems."""
    uniform = (*BASE, "select.max_pos_per_prompt=null")
    arms = [
        Arm("anna-karenina", "topr/tiny_iterated.yaml", BASE),
        Arm("uniform", "topr/tiny_iterated.yaml", uniform),
    ]
    claims = [Claim("one right answer a problem is better", "anna-karenina", "uniform")]
    return _study("anna", base, arms, claims)


def levels(base: str) -> Study:
    """Answers of five tokens: the levels differ more on longer ones."""
    names = ("sequence", "token", "geometric")
    arms = [
        Arm(level, "topr/tiny_topr.yaml", (*BASE, f"train.objective.ratio_level={level}"))
        for level in names
    ]
    claims = [
        Claim("the product against the token's ratio", "sequence", "token"),
        Claim("the product against the geometric mean", "sequence", "geometric"),
    ]
    return _study("levels", base, arms, claims)


def draw(study: Study, options: Namespace) -> None:
    """Curves where the arms are points of one, else bars."""
    label = "pass@1 on held-out sums"
    if "collapse" in study.name:
        draw_curves(study, options, label, "epochs on the same samples")
    elif "share" in study.name:
        draw_curves(study, options, label, "effective share of positives (0: the base)")
    else:
        draw_arms(study, options, label)


PARTS = {
    "collapse": collapse,
    "methods": methods,
    "share": share,
    "anna": anna,
    "levels": levels,
}

if __name__ == "__main__":
    sys.exit(main(__doc__, PARTS, draw))
