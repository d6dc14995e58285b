"""docs/policy_gradients.md: every named method builds, and its constants are the page's."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from align.objectives.ppo_clip import PpoClip
from align.objectives.regularisers import KlPenalty
from align.recipe.sections import Advantage
from align.registry import build

PAGE = Path(__file__).resolve().parents[2] / "docs" / "policy_gradients.md"
METHODS = yaml.safe_load(PAGE.read_text(encoding="utf-8").split("```yaml")[1].split("```")[0])


@pytest.mark.parametrize("name", METHODS)
def test_every_named_method_builds(name: str) -> None:
    method = METHODS[name]
    assert set(method) == {"objective", "advantage"}
    assert "advantages" in build("objective", method["objective"]).needs
    Advantage.model_validate(method["advantage"])


def test_grpo_is_the_clip_with_a_sequence_mean_and_k3() -> None:
    """ALGORITHMS 9: clip .2, beta .04 in DeepSeekMath, k3 as a loss."""
    assert len(METHODS) >= 15
    assert build("objective", METHODS["GRPO"]["objective"]) == PpoClip(
        clip_low=0.2, clip_high=0.2, aggregation="sequence_mean", kl=KlPenalty(0.04, "k3")
    )
    assert build("objective", METHODS["DAPO"]["objective"]) == PpoClip(
        clip_low=0.2, clip_high=0.28, dual_clip=10.0, aggregation="token_mean"
    )
