"""What the plug-ins of floor 1 are called with; rewards and generators have theirs beside them
(`rewards/protocol.py`, `generation/protocol.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from align.ops.batch import LossOutput, PolicyBatch, PolicyOutputs
    from align.records import Pair, Sample, Score


class Random(Protocol):
    """What a rule draws from; `random.Random` is one."""

    def random(self) -> float:
        """U[0, 1)."""
        ...


class Objective(Protocol):
    """A frozen dataclass. Where its options decide what it reads, `needs` and `scope` are
    properties, else class variables.
    """

    @property
    def needs(self) -> frozenset[str]:
        """The columns that it reads: `pairs`, `ref_logps`, `sampling_logps`, `advantages`,
        `scores`, `entropy`, `sum_p_squared`, `mismatched`, `from_reference`.
        """
        ...

    @property
    def scope(self) -> str:
        """`local`, or `global_batch` where its constants depend on the whole step
        (`PolicyBatch.step`).
        """
        ...

    def __call__(self, outputs: PolicyOutputs, batch: PolicyBatch) -> LossOutput:
        """Terms, not reduced."""
        ...


class SelectionRule(Protocol):
    """A frozen dataclass; sees one prompt's samples at a time."""

    def __call__(
        self, samples: Sequence[Sample], scores: Sequence[Score], rng: Random
    ) -> list[int]:
        """The indices kept, in order."""
        ...


class PairingRule(Protocol):
    """A frozen dataclass; sees one prompt's samples at a time."""

    def __call__(
        self,
        samples: Sequence[Sample],
        scores: Sequence[Score],
        preferences: Sequence[Sequence[float]] | None,
        rng: Random,
    ) -> list[Pair]:
        """The pairs; `preferences[i][j]` is the probability that sample i beats sample j."""
        ...
