"""What an engine is asked and what it answers: token ids in, token ids with their log-probs out."""

from __future__ import annotations

from dataclasses import dataclass

from align.records import Finish


@dataclass(frozen=True, slots=True)
class Decoding:
    """How tokens are drawn; the same for all requests of a call."""

    temperature: float = 1.0
    """0 takes the most likely token."""
    top_p: float = 1.0
    top_k: int = 0
    """0 means no cut."""
    max_new_tokens: int = 256
    stop_ids: tuple[int, ...] = ()
    """A completion ends with the first of these ids, which it includes."""
    stop: tuple[str, ...] = ()
    """A completion ends with the token that completes the first of these strings in the decoded
    text."""
    seeded: bool = True
    """False: draws come from the engine's own generator, whatever a request's seed."""


@dataclass(frozen=True, slots=True)
class Request:
    """One completion to draw; its tokens depend on nothing but these fields, the weights and the
    decoding.
    """

    prompt_ids: tuple[int, ...]
    seed: int
    """63 bits."""


@dataclass(frozen=True, slots=True)
class Completion:
    """Tokens as they were drawn, with their natural log-probs under the distribution they were
    drawn from.
    """

    ids: tuple[int, ...]
    logps: tuple[float, ...]
    finish: Finish
