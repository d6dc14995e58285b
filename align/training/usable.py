"""Which of the given records are trained on. What cannot be is refused, or dropped and counted: by
rule, never by accident.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from align.errors import DataError
from align.recipe.sections import Train
from align.records import Pair, Sample, Score

logger = logging.getLogger(__name__)

SHOWN = 3
"""Names that a message shows."""


@dataclass(frozen=True)
class Usable:
    """What is trained on, in the order given."""

    samples: list[Sample]
    pairs: list[Pair]
    """Empty for objectives that do not compare."""
    scores: Mapping[str, float]
    """By `sample_id`; empty for objectives that read none."""


def pick_usable(
    section: Train,
    needs: frozenset[str],
    samples: Sequence[Sample],
    scores: Sequence[Score],
    pairs: Sequence[Pair],
    counts: dict[str, int],
) -> Usable:
    """Samples, pairs and scores that the objective can learn from; what is dropped is in `counts`.

    Dropped: samples repeated under one id, without a token or a trained token, longer than
    `train.max_length`, with an infinite stored log-prob where those are read, without a finite
    score where one is needed, truncated where `advantage.truncated` says so, alone with their
    prompt where the advantage compares; pairs that lose a side so, or whose sides are the same
    tokens. Raises `DataError` where a record contradicts itself, where two share an id and nothing
    else, and where nothing is left.
    """
    name = section.objective.name
    if "pairs" in needs and not pairs:
        raise DataError(f"{name} trains on pairs and there is none; look at the pair step's counts")
    found = Counter[str]()
    usable = _trainable(section, needs, _distinct(samples, found), found)
    kept: list[Pair] = []
    values: dict[str, float] = {}
    if "pairs" in needs:
        kept = [pair for pair in pairs if pair.chosen in usable and pair.rejected in usable]
        kept = _different(kept, usable, found)
        used = {one for pair in kept for one in (pair.chosen, pair.rejected)}
        usable = {one: sample for one, sample in usable.items() if one in used}
        counts |= {"pairs": len(kept), "pairs_dropped": len(pairs) - len(kept)}
    elif not needs.isdisjoint({"advantages", "scores"}):
        values = {
            score.sample_id: score.value
            for score in scores
            if score.value is not None and math.isfinite(score.value)
        }
        counts["unscored"] = sum(1 for one in usable if one not in values)
        usable = {one: sample for one, sample in usable.items() if one in values}
        if "advantages" in needs:
            usable = _judge_truncated(section, usable, values, found)
        if "advantages" in needs and _compares(section):
            usable = _not_alone(section, usable, found)
    counts |= {what: number for what, number in found.items() if number}
    counts["samples"] = len(usable)
    if not usable:
        raise DataError(_nothing_left(section, samples, counts))
    return Usable(list(usable.values()), kept, values)


def _distinct(samples: Sequence[Sample], found: Counter[str]) -> dict[str, Sample]:
    """Samples by id. The same one given twice counts once; two of one id are an error."""
    distinct: dict[str, Sample] = {}
    for sample in samples:
        known = distinct.get(sample.sample_id)
        if known is None:
            distinct[sample.sample_id] = sample
            continue
        if (known.prompt_ids, known.completion_ids) != (sample.prompt_ids, sample.completion_ids):
            raise DataError(
                f"two samples are called {sample.sample_id} and have different tokens, so scores "
                "and pairs cannot be told apart; give each sample an id of its own"
            )
        found["repeated"] += 1
    return distinct


def _trainable(
    section: Train, needs: frozenset[str], samples: Mapping[str, Sample], found: Counter[str]
) -> dict[str, Sample]:
    limit = section.max_length or math.inf
    reads_stored = section.correction is not None or (
        "sampling_logps" in needs and section.sampling_logps == "sampler"
    )
    usable: dict[str, Sample] = {}
    for name, sample in samples.items():
        size, stored = len(sample.completion_ids), sample.logps
        if len(sample.loss_mask) != size or (stored is not None and len(stored) != size):
            raise DataError(
                f"sample {name} has {size} completion tokens, {len(sample.loss_mask)} entries in "
                f"its loss mask and {'no' if stored is None else len(stored)} log-probs; write "
                "one a token"
            )
        if not size:
            found["without_tokens"] += 1
        elif not any(sample.loss_mask):
            found["without_trained_tokens"] += 1
        elif len(sample.prompt_ids) + size > limit:
            found["too_long"] += 1
        elif reads_stored and stored is not None and any(math.isinf(value) for value in stored):
            # a token of probability 0 cannot have been drawn; NaN only says that none was stored
            found["infinite_logps"] += 1
        else:
            if reads_stored and stored is not None:
                found["tokens_without_logps"] += sum(math.isnan(value) for value in stored)
            usable[name] = sample
    return usable


def _different(
    pairs: Sequence[Pair], samples: Mapping[str, Sample], found: Counter[str]
) -> list[Pair]:
    """Without pairs of equal tokens: their gradient cancels, they only thin the batch."""
    kept = [
        pair
        for pair in pairs
        if samples[pair.chosen].completion_ids != samples[pair.rejected].completion_ids
        or samples[pair.chosen].prompt_ids != samples[pair.rejected].prompt_ids
    ]
    found["identical"] += len(pairs) - len(kept)
    return kept


def _judge_truncated(
    section: Train,
    samples: Mapping[str, Sample],
    values: dict[str, float],
    found: Counter[str],
) -> dict[str, Sample]:
    """The samples by the rule `advantage.truncated`; changes `values` where it says so."""
    rule = section.advantage.truncated
    cut = [one for one, sample in samples.items() if sample.finish == "length"]
    if rule == "keep" or not cut:
        return dict(samples)
    if rule == "drop":
        found["truncated"] += len(cut)
        return {one: sample for one, sample in samples.items() if sample.finish != "length"}
    lowest = min(values[one] for one in samples)
    better = [one for one in cut if values[one] > lowest]
    found["truncated_made_negative"] += len(better)
    values.update(dict.fromkeys(better, lowest))
    return dict(samples)


def _compares(section: Train) -> bool:
    """Whether an advantage is made from at least two samples of a prompt."""
    option = section.advantage
    return option.baseline == "leave_one_out" or option.normalise == "group"


def _not_alone(
    section: Train, samples: Mapping[str, Sample], found: Counter[str]
) -> dict[str, Sample]:
    """Without samples that are their prompt's only one, which have nothing to be compared with.

    Raises `DataError` where that is every prompt: then the recipe is wrong, not a sample.
    """
    sizes = Counter(sample.prompt_id for sample in samples.values())
    alone = [prompt for prompt, size in sizes.items() if size == 1]
    if not alone:
        return dict(samples)
    option = section.advantage
    key, value = (
        ("normalise", option.normalise)
        if option.normalise == "group"
        else ("baseline", option.baseline)
    )
    said = (
        f"train.advantage.{key}: {value} needs at least two samples of a prompt, and {len(alone)} "
        f"of {len(sizes)} prompts have one ({shown(alone)})"
    )
    if len(alone) == len(sizes):
        raise DataError(f"{said}; sample more with generate.n, or leave train.advantage.{key} out")
    logger.warning("%s: these are left out", said)
    found["alone"] += len(alone)
    return {name: sample for name, sample in samples.items() if sizes[sample.prompt_id] > 1}


def _nothing_left(section: Train, samples: Sequence[Sample], counts: Mapping[str, int]) -> str:
    said = f"nothing is left to train on ({dict(counts)})"
    if counts.get("too_long"):
        shortest = min(len(one.prompt_ids) + len(one.completion_ids) for one in samples)
        return (
            f"{said}; train.max_length is {section.max_length} and the shortest row has {shortest} "
            "tokens: set it higher"
        )
    return f"{said}; look at the counts of the steps before"


def shown(names: Sequence[str]) -> str:
    """The first of them, for a message."""
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
