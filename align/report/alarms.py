"""What a finished step's own numbers say is odd: a run may go on with it and learn nothing, or the
wrong thing.
"""

from __future__ import annotations

from align.stages.manifest import Manifest
from align.stages.step import Step


def alarms(step: Step, manifest: Manifest) -> list[str]:
    """One line each; none for a step that looks sound. Pure."""
    counts, metrics = manifest.counts, manifest.metrics
    found: list[str] = []
    if step.kind == "generate":
        samples, cut = counts.get("samples", 0), counts.get("truncated", 0)
        if 2 * cut > samples:
            found.append(
                f"{cut:,} of {samples:,} completions were cut at the length limit: raise "
                "max_new_tokens, or see whether the policy ever ends a turn"
            )
    if step.kind == "score":
        scores, failed = counts.get("scores", 0), counts.get("failed", 0)
        groups, equal = counts.get("groups", 0), counts.get("all_equal_groups", 0)
        if 2 * failed > scores:
            found.append(f"{failed:,} of {scores:,} samples could not be scored")
        elif equal == groups > 0 and "/eval/" not in step.name:
            found.append(
                f"the samples of each of {groups:,} prompts all score the same: nothing tells good "
                "from bad"
            )
    if step.kind == "policy" and metrics.get("advantage/positive_share") == 0:
        found.append(
            "no sample has a positive advantage: the policy is pushed away from what it samples, "
            "and towards nothing"
        )
    return found
