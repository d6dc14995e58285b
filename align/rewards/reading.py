"""How a pairwise preference model is asked."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Reading:
    """How the model is asked; the options of the rewards that compare."""

    path: str
    max_length: int | None
    batch_size: int
    dtype: str
    chat_template: str | None
    add_generation_prompt: bool
    temperature: float
    slot: str
