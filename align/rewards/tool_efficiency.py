"""Correctness times tool efficiency (OTC, arXiv:2504.14870; ALGORITHMS 12.17): of equally right
answers the one with fewer tool calls is worth more.

With m calls of a sample, constant c and, in the group's form, n the fewest calls of a right sample
of the prompt, f = 2nm / (m + n):

    single   r_tool = cos(m pi / (2m + c))
    group    r_tool = sin(f pi / (2n)) for n > 0; for n = 0: 1 if m = 0, else as `single`
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Gt

from align.records import Sample, Score
from align.rewards.nested import (
    Inner,
    build_inner,
    failed_within,
    label_of,
    pairs_of,
    parts_under,
)
from align.rewards.per_sample import failure
from align.rewards.protocol import Group, Scorer


@dataclass(frozen=True)
class ToolEfficiency:
    """value = alpha x r_tool x correctness for right samples; a wrong one keeps its value.

    The paper tracks n across epochs; a scorer sees one group, so n is this group's.
    """

    of: Inner
    """The reward that says whether a sample is right."""
    form: Literal["group", "single"] = "group"
    """OTC-GRPO's or OTC-PPO's."""
    constant: Annotated[float, Gt(0)] = 3.0
    """c: the larger, the less each call costs."""
    alpha: float = 1.0
    at: float = 0.5
    """Right is who gets at least this."""
    calls: str = "tool_calls"
    """Key of `Sample.meta` that holds the number of calls, or their list."""

    def __post_init__(self) -> None:
        build_inner(self.of, "of")

    def open(self) -> ToolEfficiencyScorer:
        """Opens the reward."""
        return ToolEfficiencyScorer(self, build_inner(self.of, "of").open())


@dataclass(frozen=True)
class ToolEfficiencyScorer:
    """Scores whole groups."""

    config: ToolEfficiency
    inner: Scorer

    def score(self, groups: Sequence[Group]) -> list[list[Score]]:
        """Parts: the correctness, `calls` and `efficiency`."""
        return [self._group(pairs) for pairs in pairs_of(groups, self.inner.score(groups))]

    def close(self) -> None:
        """Closes the reward."""
        self.inner.close()

    def _group(self, pairs: Sequence[tuple[Sample, Score]]) -> list[Score]:
        config = self.config
        counts = [count_calls(sample, config.calls) for sample, _ in pairs]
        right = [s.value is not None and s.value >= config.at for _, s in pairs]
        known = [m for m, is_right in zip(counts, right, strict=True) if is_right and m is not None]
        fewest = min(known) if config.form == "group" and known else None
        found: list[Score] = []
        for (sample, score), m, is_right in zip(pairs, counts, right, strict=True):
            if score.value is None:
                found.append(failed_within(sample, label_of(config.of), score))
            elif m is None:
                reason = f"tool_efficiency: Sample.meta has no count of calls as {config.calls!r}"
                found.append(failure(sample, reason))
            else:
                efficiency = efficiency_of(m, fewest, config.constant)
                parts = parts_under(label_of(config.of), score)
                parts |= {"calls": float(m), "efficiency": efficiency}
                value = config.alpha * efficiency * score.value if is_right else score.value
                found.append(Score(sample.sample_id, value, parts))
        return found


def efficiency_of(m: int, n: int | None, constant: float) -> float:
    """r_tool of m calls where n are enough (None: unknown): (2, 1) -> sin(2/3 pi) = .866."""
    if n is None or n == 0:
        return 1.0 if m == 0 else math.cos(m * math.pi / (2 * m + constant))
    return math.sin(2 * n * m / (m + n) * math.pi / (2 * n))


def count_calls(sample: Sample, key: str) -> int | None:
    """The number under `key`, or the length of the list there; None where there is neither."""
    meta = sample.meta if isinstance(sample.meta, Mapping) else {}
    calls = meta.get(key)
    if isinstance(calls, Sequence) and not isinstance(calls, str):
        return len(calls)
    return calls if isinstance(calls, int) and not isinstance(calls, bool) else None
