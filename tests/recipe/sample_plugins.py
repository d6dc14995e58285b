"""Plug-ins from outside the tree, as a user would write them; named by dotted name in the tests."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal


@dataclass(frozen=True)
class Threshold:
    """Keeps what scores above a threshold."""

    above: float
    """Scores at or below are dropped."""
    keep: int = 4
    mode: Literal["hard", "soft"] = "hard"
    words: tuple[str, ...] = ("a",)
    weights: dict[str, float] = field(default_factory=dict)
    extra: float | None = 0.5

    def __post_init__(self) -> None:
        if self.keep < 1:
            raise ValueError(f"keep must be at least 1, not {self.keep}")


@dataclass(frozen=True)
class Listwise:
    """An objective that reads advantages and the sampler's probabilities."""

    needs: ClassVar[frozenset[str]] = frozenset({"advantages", "sampling_logps"})
    scope: ClassVar[str] = "local"
    cut: float = 1.0


@dataclass(frozen=True)
class NoNeeds:
    """Forgets to say what it reads."""


class NotADataclass:
    """Has no fields to validate."""
