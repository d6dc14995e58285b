"""RSO's published claims in small: every arm with several seeds, a table and a plot a part.

    python benchmarks/reproduce_rso.py --parts ladder --budget 60
    python benchmarks/reproduce_rso.py --only-table

ladder     direct, sft-sample-rank, rso, at the best of three learning rates each
beta       the sampler's temperature, on the same samples and scores
losses     sigmoid-norm, hinge-norm and the un-normalised hinge on the same pairs
baselines  RAFT and ReST beside rso

The task is 3-digit addition by a model that is right in a third of its answers (`--base rare` 12 %,
`--base frequent` 70 %); true reward and label are exact match. How it works: `reproduction.py`.
"""

from __future__ import annotations

import sys
from argparse import Namespace

from comparing import Arm, Claim, Setting, Study
from drawing import draw_arms
from reproduction import main

STOPS = {"third": 0.36, "rare": 0.12, "frequent": 0.7}
"""Where SFT of each base stops. The stale policy of `direct` stops at a third of that."""
RATES: tuple[Setting, ...] = tuple(
    (f"train.args.learning_rate={rate}",) for rate in ("3e-5", "1e-4", "3e-4")
)
BASE: Setting = ("policy.path={base}",)
BETAS = ("0", "0.05", "0.5", "5", ".inf")


def _study(part: str, base: str, arms: list[Arm], claims: list[Claim]) -> Study:
    at = STOPS[base]
    bases = {
        "base": ("rso/tiny_sft.yaml", (f"sft.stop.at={at}",)),
        "stale": ("rso/tiny_sft.yaml", (f"sft.stop.at={at / 3:.2f}",)),
    }
    used = {name for name in bases if any(f"{{{name}}}" in " ".join(a.settings) for a in arms)}
    kept = {name: bases[name] for name in used}
    return Study(f"reproduce_rso_{part}_{base}", kept, arms, claims)


def ladder(base: str) -> Study:
    """direct < sft-sample-rank < rso."""
    stale = (*BASE, "generate.policy={stale}")
    arms = [
        Arm("direct", "rso/tiny_direct.yaml", stale, RATES),
        Arm("sft-sample-rank", "rso/tiny_sft_sample_rank.yaml", BASE, RATES),
        Arm("rso", "rso/tiny_rso.yaml", BASE, RATES),
    ]
    claims = [
        Claim("sampling from the policy beats given pairs", "sft-sample-rank", "direct"),
        Claim("rejection beats plain sampling", "rso", "sft-sample-rank"),
        Claim("RSO improves its base", "rso", "start"),
    ]
    return _study("ladder", base, arms, claims)


def beta(base: str) -> Study:
    """One run's samples and scores under five betas."""
    arms = [Arm(f"rso@{b}", "rso/tiny_rso.yaml", (*BASE, f"select.beta={b}")) for b in BETAS]
    claims = [
        Claim("the tilted law beats plain sampling", "rso@0.5", "rso@.inf"),
        Claim("the tilted law beats the top", "rso@0.5", "rso@0"),
    ]
    return _study("beta", base, arms, claims)


def losses(base: str) -> Study:
    """The same pairs under three losses."""
    arms = [
        Arm("sigmoid-norm", "rso/tiny_rso.yaml", BASE, RATES),
        Arm("hinge-norm", "rso/tiny_rso.yaml", (*BASE, "train.objective.loss=hinge"), RATES),
        Arm("hinge", "rso/tiny_hinge.yaml", BASE, RATES),
    ]
    claims = [
        Claim("the reference helps the hinge", "hinge-norm", "hinge"),
        Claim("sigmoid against hinge", "sigmoid-norm", "hinge-norm"),
    ]
    return _study("losses", base, arms, claims)


def baselines(base: str) -> Study:
    """Imitation of the best against pairs."""
    arms = [
        Arm("rso", "rso/tiny_rso.yaml", BASE, RATES),
        Arm("raft", "rso/tiny_raft.yaml", BASE, RATES),
        Arm("rest", "rso/tiny_rest.yaml", BASE, RATES),
    ]
    claims = [
        Claim("RSO beats RAFT", "rso", "raft"),
        Claim("RSO beats ReST", "rso", "rest"),
    ]
    return _study("baselines", base, arms, claims)


def draw(study: Study, options: Namespace) -> None:
    """Bars with intervals."""
    draw_arms(study, options, "pass@1 on held-out sums")


PARTS = {"ladder": ladder, "beta": beta, "losses": losses, "baselines": baselines}

if __name__ == "__main__":
    sys.exit(main(__doc__, PARTS, draw))
