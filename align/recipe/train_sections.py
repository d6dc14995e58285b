"""Sections inside `train`: history, reference, advantages, corrections and limits."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from align.recipe.section import Count, Section


class Window(Section):
    """Training data of the last iterations."""

    window: Count
    """How many iterations, the current one included."""
    share: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Share of earlier iterations in all rows (pairs, or samples where there are none), drawn at
    random by whole prompts; default: whatever they hold.
    """


class Ema(Section):
    """Reference as an exponential moving average of the iterates, from the first policy on."""

    ema: Annotated[float, Field(gt=0, lt=1)]
    """What is kept of it: after each iteration it becomes ema * reference + (1 - ema) * policy."""


class Advantage(Section):
    """How scores become advantages."""

    baseline: float | Literal["none", "group_mean", "leave_one_out", "batch_mean"] = "none"
    normalise: Literal["none", "group", "batch", "whiten"] = "none"
    """Divide by the standard deviation of the prompt's scores, of all scores, or of the advantages
    themselves (whose mean `whiten` takes away too).
    """
    deviation: Literal["sample", "population"] = "sample"
    """Standard deviations divide by n - 1 (TRL, verl) or by n."""
    target_positive_share: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Effective share of positives; the constant baseline c follows from the data (ALGORITHMS 7.3).
    """
    truncated: Literal["keep", "negative", "drop"] = "keep"
    """Samples cut at the length limit: trained on by their score, with the lowest score of the data
    (TOPR: malformed, which also teaches to end sooner), or not at all.
    """


class Vote(Section):
    """Self-consistency in evaluation: the answer that most of a prompt's samples give."""

    extract: str | None = None
    """Regular expression: the last match (its first group) is the answer; default: all of the
    text. Samples without a match do not vote."""
    weight: str | None = None
    """Label of a source whose value weighs each vote too, e.g. that of a `generative_verifier` with
    `weight: 0`."""


class Correction(Section):
    """Weights for samples whose engine's log-probs are not the trainer's (ALGORITHMS 10).

    From q = log-prob in the trainer's numerics - log-prob that the sampler stored; dropped samples
    are counted.
    """

    kind: Literal[
        "token_tis",
        "sequence_tis",
        "token_mask",
        "sequence_mask",
        "geometric_mask",
        "geometric_mask_tis",
    ]
    """`*_tis` clip the ratio e^q into [low, high]; masks drop what lies outside: tokens, or whole
    sequences by the product (`sequence`) or the geometric mean of their ratios.
    """
    low: Annotated[float, Field(ge=0)] = 0.0
    """0.5 is usual for token_mask (IcePop), 0.999 for geometric masks."""
    high: Annotated[float, Field(gt=0)]
    """2 is usual for token_tis, 2 to 10 for sequence_tis, 5 for token_mask, 3 for sequence_mask,
    1.001 for geometric masks.
    """


class Limits(Section):
    """Bounds that end policy training early; the step and what was measured are reported."""

    kl: Annotated[float, Field(gt=0)] | None = None
    """Of |mean log-ratio of the step's completions to the reference| (`log_ratio/reference` in the
    log), nats a completion: the KL to it where they are the policy's own, the KL from it where they
    are the reference's, and of pairs, whose sides move apart, neither.
    """
    chosen_logps_drop: Annotated[float, Field(gt=0)] | None = None
    """Of how far the mean log-prob of chosen completions has fallen since the first step, nats."""
