"""Sections of the online loop: when it samples further prompts, and when it ends."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from align.recipe.section import Count, Section


class Refill(Section):
    """Rounds of further prompts until enough are informative: their samples differ in score.

    Each iteration sets aside `per_iteration` prompts for each round, and samples a round only where
    those before it left too few. Only informative prompts are trained on.
    """

    informative: Count
    """Prompts that an iteration trains on; those beyond are dropped and counted, in the prompts'
    order.
    """
    rounds: Count
    """At most this many rounds after the first; what is short then is counted."""


class LoopStop(Section):
    """Bounds that end the loop after an iteration whose policy passes one of them.

    The run then results in the last policy before.
    """

    kl: Annotated[float, Field(gt=0)] | None = None
    """Of the KL to the first policy on the evaluation's samples, nats a completion."""
    length_growth: Annotated[float, Field(gt=1)] | None = None
    """Of the mean tokens of the evaluation's completions, relative to the first policy's."""
    held_out_falls: Count | None = None
    """Iterations in a row in which the mean held-out score fell although the mean score of the
    iteration's samples rose; the run results in the policy before the first of them.
    """
