"""RSO's published claims in small: every arm with several seeds, a table and a plot a part.

    python benchmarks/reproduce_rso.py --parts ladder --budget 60
    python benchmarks/reproduce_rso.py --task stories
    python benchmarks/reproduce_rso.py --only-table

ladder     direct, sft-sample-rank, rso (on stories RAFT too), at the best of three learning rates
losses     sigmoid-norm, hinge-norm and the un-normalised hinge on the same pairs
beta       the sampler's temperature, on the same samples and scores
baselines  RAFT and ReST beside rso (addition)

addition: three digits, by a model that is right in a third of its answers (`--base rare` 12 %,
`--base frequent` 70 %); reward and label are exact match, and 64 candidates hold few distinct ones.
stories: a TinyStories checkpoint; reward and label are a learned reward model's, the truth is the
summed valence of the words. How it works: `reproduction.py`.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from dataclasses import replace

from comparing import START, Arm, Base, Claim, Setting, Study
from drawing import draw_arms
from reproduction import main
from tasks import ADDITION, RATES, STOPS, STORIES, rates

JUDGED_STORIES = replace(STORIES, proxy="proxy")
IMITATION = rates("1.0e-4", "3.0e-4", "1.0e-3")
"""Likelihood needs larger steps than pairs; as many candidates."""
STORY_RATES = rates("1.0e-4", "2.0e-4", "4.0e-4")
STORY_IMITATION = rates("3.0e-4", "1.0e-3", "3.0e-3")
BASE: Setting = ("policy.path={base}",)
JUDGED: Setting = (
    "policy.path={stories}",
    "evaluate.prompts.path={prompts}",
    "evaluate.score.0.path={lexicon}",
    "evaluate.score.1.path={reward}",
)
SAMPLED: Setting = (*JUDGED, "prompts.path={prompts}", "score.path={reward}")
GIVEN: Setting = (*JUDGED, "prompts.path={prompts}", "generate.path={pairs}")
BETAS = ("0", "0.05", "0.5", "5", ".inf")
HINGE: Setting = ("train.objective.loss=hinge",)


def _sums(part: str, base: str, arms: list[Arm], claims: list[Claim]) -> Study:
    at = STOPS[base]  # the stale policy of `direct` stops at a third of it
    bases = {
        "base": Base("rso/tiny_sft.yaml", (f"sft.stop.at={at}",), "sft"),
        "stale": Base("rso/tiny_sft.yaml", (f"sft.stop.at={at / 3:.2f}",), "sft"),
    }
    used = {name for name in bases if any(f"{{{name}}}" in " ".join(a.settings) for a in arms)}
    kept = {name: bases[name] for name in bases if name in used}
    return Study(
        f"reproduce_rso_{part}_{base}", f"reproduce_rso_{base}", ADDITION, kept, arms, claims
    )


def _stories(part: str, arms: list[Arm], claims: list[Claim]) -> Study:
    settings = (
        "policy.path={stories}",
        "reward.data.prompts.path={prompts}",
        "reward.data.score.path={lexicon}",
    )
    bases = {
        "reward": Base("rso/stories_reward.yaml", settings, "reward"),
        "pairs": Base("rso/stories_reward.yaml", settings, "reward-data"),
    }
    name = f"reproduce_rso_{part}_stories"
    return Study(name, "reproduce_rso_stories", JUDGED_STORIES, bases, arms, claims)


def ladder(base: str) -> Study:
    """direct < sft-sample-rank < rso."""
    stale = (*BASE, "generate.policy={stale}")
    arms = [
        Arm("direct", "rso/tiny_direct.yaml", stale, RATES),
        Arm("sft-sample-rank", "rso/tiny_sft_sample_rank.yaml", BASE, RATES),
        Arm("rso", "rso/tiny_rso.yaml", BASE, RATES),
    ]
    return _sums("ladder", base, arms, LADDER)


LADDER = [
    Claim("sampling from the policy beats given pairs", "sft-sample-rank", "direct"),
    Claim("rejection beats plain sampling", "rso", "sft-sample-rank"),
    Claim("RSO improves its base", "rso", START),
]


def losses(base: str) -> Study:
    """The same pairs under three losses."""
    arms = [
        Arm("sigmoid-norm", "rso/tiny_rso.yaml", BASE, RATES),
        Arm("hinge-norm", "rso/tiny_rso.yaml", (*BASE, *HINGE), RATES),
        Arm("hinge", "rso/tiny_hinge.yaml", BASE, RATES),
    ]
    claims = [
        Claim("the reference helps the hinge", "hinge-norm", "hinge"),
        Claim("sigmoid against hinge", "sigmoid-norm", "hinge-norm"),
    ]
    return _sums("losses", base, arms, claims)


def beta(base: str) -> Study:
    """One run's samples and scores under five betas."""
    arms = [Arm(f"beta {b}", "rso/tiny_rso.yaml", (*BASE, f"select.beta={b}")) for b in BETAS]
    return _sums("beta", base, arms, TILT)


TILT = [
    Claim("the tilted law beats plain sampling", "beta 0.5", "beta .inf"),
    Claim("the tilted law beats the top", "beta 0.5", "beta 0"),
]


def baselines(base: str) -> Study:
    """Imitation of the best against pairs."""
    arms = [
        Arm("rso", "rso/tiny_rso.yaml", BASE, RATES),
        Arm("raft", "rso/tiny_raft.yaml", BASE, IMITATION),
        Arm("rest", "rso/tiny_rest.yaml", BASE, IMITATION),
    ]
    claims = [
        Claim("RSO beats RAFT", "rso", "raft"),
        Claim("RSO beats ReST", "rso", "rest"),
    ]
    return _sums("baselines", base, arms, claims)


def story_ladder(base: str) -> Study:
    """The same where 64 candidates are 64 different ones, with RAFT."""
    arms = [
        Arm("direct", "rso/stories_direct.yaml", GIVEN, STORY_RATES),
        Arm("sft-sample-rank", "rso/stories_sft_sample_rank.yaml", SAMPLED, STORY_RATES),
        Arm("rso", "rso/stories_rso.yaml", SAMPLED, STORY_RATES),
        Arm("raft", "rso/stories_raft.yaml", SAMPLED, STORY_IMITATION),
    ]
    return _stories("ladder", arms, [*LADDER, Claim("RSO beats RAFT", "rso", "raft")])


def story_losses(base: str) -> Study:
    """Does the un-normalised hinge raise the learned reward and hurt the truth?"""
    arms = [
        Arm("sigmoid-norm", "rso/stories_rso.yaml", SAMPLED, STORY_RATES),
        Arm("hinge-norm", "rso/stories_rso.yaml", (*SAMPLED, *HINGE), STORY_RATES),
        Arm("hinge", "rso/stories_hinge.yaml", SAMPLED, STORY_RATES),
    ]
    claims = [
        Claim("un-normalised, the hinge raises the learned reward", "hinge", "hinge-norm", "proxy"),
        Claim("and hurts the truth", "hinge-norm", "hinge"),
        Claim("sigmoid against hinge", "sigmoid-norm", "hinge-norm"),
    ]
    return _stories("losses", arms, claims)


def story_beta(base: str) -> Study:
    """Beta in units of the reward model's logit."""
    arms = [Arm(f"beta {b}", "rso/stories_rso.yaml", (*SAMPLED, f"select.beta={b}")) for b in BETAS]
    return _stories("beta", arms, TILT)


def draw(study: Study, options: Namespace) -> None:
    """Points with intervals; on stories the learned reward and the drift beside the truth."""
    panels = {"score": study.task.label}
    if study.task.proxy is not None:
        panels |= {"proxy": "gain in learned reward", "kl": "KL to the base, nats"}
    draw_arms(study, options, panels)


TASKS = {
    "addition": {"ladder": ladder, "losses": losses, "beta": beta, "baselines": baselines},
    "stories": {"ladder": story_ladder, "losses": story_losses, "beta": story_beta},
}

if __name__ == "__main__":
    sys.exit(main(__doc__, TASKS, draw))
