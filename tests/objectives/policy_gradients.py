"""The policy gradients that tests of all of them go through."""

from __future__ import annotations

from align.objectives.ppo_clip import Gspo, PpoClip
from align.objectives.regularisers import KlPenalty
from align.objectives.reinforce import Reinforce
from align.objectives.topr import Topr
from align.objectives.windowed import Cispo, Naive, PositivesOnly, Tis
from align.protocols import Objective

POLICY_GRADIENTS: list[Objective] = [
    Reinforce(),
    Topr(),
    Naive(),
    PositivesOnly(),
    Tis(),
    Tis(max_weight=2.0, ratio_level="token", aggregation="token_mean"),
    Cispo(),
    Cispo(min_weight=0.5, max_weight=2.0, aggregation="constant", constant=6),
    PpoClip(),
    PpoClip(clip_high=0.28, dual_clip=3.0, off_policy_threshold=0.5, aggregation="sequence_mean"),
    PpoClip(ratio_level="sequence", aggregation="sequence_mean"),
    Gspo(),
]
PENALISED: list[Objective] = [
    Topr(kl=KlPenalty(0.1, "k2"), entropy=0.01),
    Reinforce(kl=KlPenalty(0.1, "k3+", off_policy=True), entropy=0.01),
    PpoClip(kl=KlPenalty(0.04, "k3"), entropy=0.01),
    Gspo(kl=KlPenalty(0.04, "k3", off_policy=True)),
]
