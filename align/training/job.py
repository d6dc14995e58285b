"""What a training stage is given: the recipe's section, the weights to start from and where to
write.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypedDict

from align.recipe.sections import Policy, Recipe, Reward, Sft, Train
from align.records import WeightsRef


class Result(TypedDict):
    """What a training stage reports; the launch module writes it to `result.json`."""

    counts: dict[str, int]
    metrics: dict[str, float]


@dataclass(frozen=True)
class Job:
    """One training stage. The same on every rank."""

    recipe: Recipe
    section: Sft | Reward | Train
    policy: WeightsRef
    """The weights that are trained."""
    out: Path
    """The step's folder: model and tokenizer are written there, checkpoints under `.trainer` until
    it is done.
    """
    seed: int
    """Of (run seed, iteration, stage)."""
    reference: WeightsRef | None = None
    """Weights of the reference policy; needed by objectives that read `ref_logps`."""
    samplers: Mapping[str, WeightsRef] = field(default_factory=dict)
    """Fingerprint -> weights of other policies that wrote samples (history), for recomputing their
    log-probs.
    """
    processes: int | None = None
    """How many processes were asked for; None trusts the launcher's own variables."""

    @property
    def policy_section(self) -> Policy:
        """The recipe's `policy`, or its defaults."""
        return self.recipe.policy or Policy()

    @property
    def name(self) -> str:
        """The section's key in the recipe, for messages: `sft`, `reward` or `train`."""
        return type(self.section).__name__.lower()

    @property
    def scratch(self) -> Path:
        """Where the trainer keeps checkpoints until the stage is done."""
        return self.out / ".trainer"
