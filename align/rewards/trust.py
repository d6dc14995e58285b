"""What an opened reward does: on labelled pairs, in other batches, and on changed copies of the
samples. Numbers only; `align doctor --reward` judges them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from align.records import Prompt, Score
from align.rewards.labelled import Writer, rewrite
from align.rewards.overdue import is_late
from align.rewards.protocol import Group, Scorer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from align.inference.packing import TokenRow

Values = list[float | None]
"""One a sample, group by group; None where it could not be scored."""

CUT_SIZES = (200, 1_000, 4_000, 16_000)
"""Lengths, in characters, at which it is asked whether both ends of a completion still count."""
LONG = 4
"""A neighbour this many times as long as the longest sample makes every other row padded."""


@dataclass(frozen=True, slots=True)
class Change:
    """How values moved between two scorings of the same samples."""

    largest: float
    """|difference| in units of the values' standard deviation."""
    mean: float
    compared: int
    failures: int
    """Samples that have a value in one scoring only."""


@dataclass(frozen=True, slots=True)
class Ends:
    """Whether a long completion is read whole."""

    longest: int | None
    """Characters of the longest completion that was scored; None where none was."""
    error: str | None
    """Why the next longer one was not."""
    blind_to_end: int | None
    """Length from which on the last words no longer count; None where they always did."""
    blind_to_start: int | None


@dataclass(frozen=True, slots=True)
class TokenFaults:
    """What is odd about rows as the model reads them."""

    rows: int
    repeated_bos: int
    """Rows with more than one beginning-of-sequence token."""
    unknown: float
    """Share of tokens that are the tokenizer's unknown token."""
    longest: int
    pads_with_end: bool


def score(scorer: Scorer, groups: Sequence[Group]) -> list[Score]:
    """The scores of all samples in one list, in order."""
    return [one for group in scorer.score(groups) for one in group]


def values_of(scores: Sequence[Score]) -> Values:
    """Their values, None where one is not finite."""
    return [
        one.value if one.value is not None and math.isfinite(one.value) else None for one in scores
    ]


def gaps_of(values: Values) -> list[float]:
    """Chosen minus rejected of groups of two, where both have a value."""
    sides = zip(values[::2], values[1::2], strict=True)
    return [a - b for a, b in sides if a is not None and b is not None]


def errors_of(scores: Sequence[Score]) -> Counter[str]:
    """How often each error occurs."""
    return Counter(one.error or "no reason given" for one in scores if one.value is None)


def count_time_outs(errors: Mapping[str, int]) -> int:
    """Failures that are a missed deadline; they depend on the machine, not on the sample."""
    return sum(n for error, n in errors.items() if is_late(error))


def spread_of(values: Values) -> float:
    """Standard deviation of the values there are; 0 without any."""
    kept = [value for value in values if value is not None]
    if not kept:
        return 0.0
    mean = math.fsum(kept) / len(kept)
    return math.sqrt(math.fsum((value - mean) ** 2 for value in kept) / len(kept))


def compare(before: Values, after: Values) -> Change:
    """The change from one scoring to another; where the first has no spread, in plain units."""
    scale = spread_of(before) or 1.0
    both = [(a, b) for a, b in zip(before, after, strict=True) if a is not None and b is not None]
    moved = [abs(b - a) / scale for a, b in both]
    failures = sum((a is None) != (b is None) for a, b in zip(before, after, strict=True))
    mean = math.fsum(moved) / len(moved) if moved else 0.0
    return Change(max(moved, default=0.0), mean, len(moved), failures)


def one_by_one(scorer: Scorer, groups: Sequence[Group]) -> Values:
    """Each group in a call of its own."""
    return [value for group in groups for value in values_of(score(scorer, [group]))]


def in_reverse(scorer: Scorer, groups: Sequence[Group]) -> Values:
    """Groups and samples given in reverse order; values in the original order."""
    turned = [Group(group.prompt, group.samples[::-1]) for group in reversed(groups)]
    return values_of(score(scorer, turned))[::-1]


def beside_a_long_one(scorer: Scorer, groups: Sequence[Group], writer: Writer) -> Values:
    """Each group in a call with a much longer one, so that its rows may be padded."""
    text = max((s.text for group in groups for s in group.samples), key=len)
    long = writer.write(groups[0].prompt, [" ".join([text] * LONG), text])
    kept = list[float | None]()
    for group in groups:
        found = scorer.score([group, long])[0]
        kept += values_of(found)
    return kept


def with_trailing_space(scorer: Scorer, groups: Sequence[Group], writer: Writer) -> Values:
    """A space behind every completion."""
    return values_of(score(scorer, rewrite(groups, writer, tail=" ")))


def without_end_token(scorer: Scorer, groups: Sequence[Group], writer: Writer) -> Values:
    """Every completion as one that was cut at the length limit."""
    return values_of(score(scorer, rewrite(groups, writer, finished=False)))


def read_ends(scorer: Scorer, prompt: Prompt, texts: tuple[str, str], writer: Writer) -> Ends:
    """Scores completions that differ in their first or last words alone, at growing lengths.

    Where a difference counted at a shorter length and makes exactly none at a longer one, the input
    is cut.
    """
    longest, error = None, None
    blind: dict[str, int | None] = {"end": None, "start": None}
    seen = {"end": False, "start": False}
    for size in CUT_SIZES:
        filler = " ".join([texts[0]] * (size // (len(texts[0]) + 1) + 1))
        written = [f"{filler} {text}" for text in texts] + [f"{text} {filler}" for text in texts]
        scores = score(scorer, [writer.write(prompt, written)])
        values = values_of(scores)
        if None in values:
            error = next(one.error for one in scores if one.error)
            break
        longest = max(map(len, written))
        for side, pair in (("end", values[:2]), ("start", values[2:])):
            if pair[0] != pair[1]:
                seen[side], blind[side] = True, None
            elif seen[side] and blind[side] is None:
                blind[side] = size
    return Ends(longest, error, blind["end"], blind["start"])


def read_tokens(tokenizer: PreTrainedTokenizerBase, read: Sequence[TokenRow]) -> TokenFaults:
    """Looks at rows as the model with this tokenizer reads them."""
    rows = [(*row.prompt_ids, *row.completion_ids) for row in read]
    bos, eos, unknown = tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id
    # Where one token is both, it may well stand at the end and between turns.
    repeated = sum(row.count(bos) > 1 for row in rows) if bos is not None and bos != eos else 0
    total = sum(map(len, rows))
    share = sum(row.count(unknown) for row in rows) / max(1, total) if unknown is not None else 0.0
    pads_with_end = tokenizer.pad_token_id is not None and tokenizer.pad_token_id == eos
    return TokenFaults(len(rows), repeated, share, max(map(len, rows), default=0), pads_with_end)
