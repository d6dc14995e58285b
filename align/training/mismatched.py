"""Completions after the prompts of others: KTO estimates its KL to the reference on them
(ALGORITHMS 3.2).
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from align.errors import DataError
from align.records import Sample, derive_seed


def pick_partners(samples: Sequence[Sample], seed: int) -> list[int]:
    """For each sample the place of one whose completion follows its prompt, of another prompt.

    Prompts are put into an order drawn from `seed`, their samples side by side, and the whole is
    rotated by the size of the largest group: so each completion is used once, unless a prompt has
    more than half of all. Which partner a sample has does not depend on batches or ranks. Raises
    `DataError` where there is one prompt only.
    """
    sizes = Counter(sample.prompt_id for sample in samples)
    if len(sizes) < 2:
        raise DataError(
            "train.objective compares completions with the prompts of others, and the data have "
            "one prompt only; add prompts, or choose an objective without this baseline"
        )
    names = sorted(sizes)
    random.Random(derive_seed(seed, "mismatched")).shuffle(names)
    rank = {name: place for place, name in enumerate(names)}
    order = sorted(range(len(samples)), key=lambda place: (rank[samples[place].prompt_id], place))
    shift = max(sizes.values())
    partners = [0] * len(samples)
    for begin, place in enumerate(order):
        step = shift
        while samples[order[(begin + step) % len(order)]].prompt_id == samples[place].prompt_id:
            step += 1
        partners[place] = order[(begin + step) % len(order)]
    return partners


def mismatched_samples(samples: Sequence[Sample], seed: int) -> list[Sample]:
    """Each sample, by its own name, with its partner's completion after its own prompt.

    A completion is cut where the row would be longer than any row that is trained on, so that no
    model is asked for more positions than the data have.
    """
    longest = max(len(sample.prompt_ids) + len(sample.completion_ids) for sample in samples)
    made: list[Sample] = []
    for sample, partner in zip(samples, pick_partners(samples, seed), strict=True):
        room, other = longest - len(sample.prompt_ids), samples[partner]
        completion, mask = other.completion_ids[:room], other.loss_mask[:room]
        made.append(replace(sample, completion_ids=completion, loss_mask=mask, logps=None))
    return made
