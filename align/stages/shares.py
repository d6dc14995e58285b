"""Which prompts each sampler of a mixture draws for (`generate[].share`). Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from align.records import Json, Prompt, derive_seed

WHOLE = 1 - 1e-9
"""Shares like 0.7 and 0.3 add up to a little less than 1 in floating point."""


def drawn_for(
    prompts: Sequence[Prompt], samplers: Sequence[Mapping[str, Json]], number: int, seed: Json
) -> list[Prompt]:
    """The prompts of sampler `number`: all, or where it has a share those whose place on the unit
    interval falls into it.

    Samplers with a share lie one after another on that interval, and a prompt's place is drawn from
    the stage's seed and its id alone; so each prompt has one of them, whatever the shards.
    """
    shares = [float(str(one["share"])) if "share" in one else 0.0 for one in samplers]
    if not shares[number]:
        return list(prompts)
    low = sum(shares[:number])
    high = low + shares[number]
    high = 2.0 if high > WHOLE else high
    places = [derive_seed(seed, "share", prompt.prompt_id) / 2**63 for prompt in prompts]
    return [prompt for prompt, place in zip(prompts, places, strict=True) if low <= place < high]
