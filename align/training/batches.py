"""From samples, pairs and a plan to the micro-batches that a rank forwards, each with the step's
global counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import torch
from torch import Tensor
from torch.utils.data import Dataset

from align.inference.packing import (
    Line,
    PackedRows,
    TokenRow,
    count_completions,
    line_length,
    pack_rows,
    single_lines,
)
from align.ops.batch import PolicyBatch
from align.ops.reduce import Counts
from align.records import Pair, Sample
from align.training.forwards import Extent, Schedule

Value = TypeVar("Value")
Cutter = Callable[[Sequence[TokenRow]], list[Line]]
"""Lays rows out in lines (`inference/cost.py`)."""


@dataclass(frozen=True)
class TrainingData:
    """Samples in a fixed order and what is known about each; `pairs` name two of them by place."""

    samples: Sequence[Sample]
    tempered: bool
    """Whether logits are divided by each sample's temperature (objectives that read
    `sampling_logps`).
    """
    pairs: Sequence[tuple[int, int, float]] | None = None
    """(chosen, rejected, margin); None where the items are completions."""
    ref_logps: Sequence[Tensor] | None = None
    sampling_logps: Sequence[Tensor] | None = None
    correction: Sequence[Tensor] | None = None
    """Weights a token for the sampler's mismatch."""
    advantages: Sequence[float] | None = None
    scores: Sequence[float] | None = None
    from_reference: Sequence[bool] | None = None

    def row(self, index: int) -> TokenRow:
        """A sample as the trainer forwards it."""
        sample = self.samples[index]
        temperature = sample.temperature if self.tempered else 1.0
        return TokenRow(sample.prompt_ids, sample.completion_ids, temperature)

    def rows_of(self, items: Sequence[int]) -> list[int]:
        """The samples that these items (pairs or completions) forward; of pairs all chosen, then
        all rejected.
        """
        if self.pairs is None:
            return list(items)
        return [self.pairs[item][0] for item in items] + [self.pairs[item][1] for item in items]

    def prompts(self) -> list[str]:
        """The prompt's id of each item."""
        if self.pairs is None:
            return [sample.prompt_id for sample in self.samples]
        return [self.samples[chosen].prompt_id for chosen, _, _ in self.pairs]

    def groups(self) -> list[list[int]]:
        """Items of one prompt together, prompts in the order of their first item."""
        places: dict[str, list[int]] = {}
        for index, prompt in enumerate(self.prompts()):
            places.setdefault(prompt, []).append(index)
        return list(places.values())

    def measure(self, items: Sequence[int], cut: Cutter) -> Extent:
        """What these items take in a forward, each sample once."""
        rows = [self.row(place) for place in dict.fromkeys(self.rows_of(items))]
        lines = cut(rows)
        return Extent(
            len(lines),
            max(line_length(rows, line) for line in lines),
            any(count_completions(line) > 1 for line in lines),
        )

    def count(self, items: Sequence[int]) -> Counts:
        """What `ops.reduce.count_items` would say of a batch of these items."""
        tokens = [sum(self.samples[row].loss_mask) for row in self.rows_of(items)]
        half = len(items)
        whole: list[int] = []
        if self.pairs is not None:
            sides = zip(tokens[:half], tokens[half:], strict=True)
            whole = [chosen for chosen, rejected in sides if chosen and rejected]
        return Counts(sum(tokens), sum(1 for number in tokens if number), len(whole), sum(whole))


@dataclass(frozen=True)
class MicroBatch:
    """What one forward of one rank needs. Not a mapping or a tensor on purpose.

    transformers and accelerate cast float tensors inside mappings to DeepSpeed's dtype, and
    log-probs in bfloat16 would be wrong by 0.03 a token; an object of a class of ours passes
    through untouched.
    """

    rows: PackedRows
    """What is forwarded: every sample once."""
    places: Tensor
    """(N,): which of these rows each row of the batch is; a sample of several pairs is several."""
    batch: PolicyBatch
    counts: Counts
    """Of the whole optimizer step, over all ranks and accumulated forwards."""
    items: Sequence[int] = ()
    """The items of the plan that it holds; those of a filler count elsewhere."""
    ids: list[str] = field(default_factory=list)
    """`sample_id` of each row of the batch; empty for filler, which has no trained token."""
    widest: int = 0
    """Completion tokens of the rank that has most of them in this forward."""

    @property
    def is_filler(self) -> bool:
        """True where a smaller last step left nothing for this forward."""
        return not self.ids

    @property
    def computed_tokens(self) -> int:
        """Places that are forwarded, padding included."""
        return self.rows.computed_tokens

    @property
    def needed_tokens(self) -> int:
        """Those of them that are no padding; 0 for filler."""
        return 0 if self.is_filler else self.rows.needed_tokens


class MicroBatches(Dataset[MicroBatch]):
    """All forwards of a job in order: step by step, in a step forward by forward, in a forward rank
    by rank.
    """

    def __init__(self, data: TrainingData, schedule: Schedule, cut: Cutter, pad_id: int) -> None:
        self.data, self._schedule, self._cut, self._pad_id = data, schedule, cut, pad_id

    @property
    def is_undivided(self) -> bool:
        """Whether one forward of one rank is a whole step."""
        return self._schedule.accumulation * self._schedule.world == 1

    def items(self, step: int) -> Sequence[int]:
        """The items of an optimizer step, in an order that no cut changes."""
        return sorted(item for forward in self._schedule.steps[step] for item in forward)

    def of_rank(self, step: int, rank: int) -> Iterator[MicroBatch]:
        """The forwards of one rank in an optimizer step, fillers included."""
        count, world = self._schedule.accumulation, self._schedule.world
        for accumulation in range(count):
            yield self[(step * count + accumulation) * world + rank]

    def __len__(self) -> int:
        return len(self._schedule.steps) * self._schedule.accumulation * self._schedule.world

    def __getitem__(self, index: int) -> MicroBatch:
        world = self._schedule.world
        step, place = divmod(index, self._schedule.accumulation * world)
        forwards = self._schedule.steps[step]
        begin = place // world * world
        widest = max(self._completion_tokens(items) for items in forwards[begin : begin + world])
        items = [item for forward in forwards for item in forward]
        own = forwards[place]
        counts = self.data.count(items)
        if own:
            return collate(self.data, own, counts, self._pad_id, self._cut, widest=widest)
        return filler(self.data, items[0], counts, self._pad_id, widest=widest)

    def _completion_tokens(self, items: Sequence[int]) -> int:
        places = set(self.data.rows_of(items))
        return sum(len(self.data.samples[place].completion_ids) for place in places)


def collate(
    data: TrainingData,
    items: Sequence[int],
    counts: Counts,
    pad_id: int,
    cut: Cutter,
    *,
    widest: int = 0,
) -> MicroBatch:
    """The items as one batch, their samples laid out as `cut` says, each once."""
    places = data.rows_of(items)
    samples = [data.samples[place] for place in places]
    numbers = {place: number for number, place in enumerate(dict.fromkeys(places))}
    rows = [data.row(place) for place in numbers]
    packed = pack_rows(rows, cut(rows), pad_id)
    width = packed.is_token.shape[1]
    mask = torch.zeros((len(places), width), dtype=torch.bool)
    for index, sample in enumerate(samples):
        mask[index, : len(sample.loss_mask)] = torch.tensor(sample.loss_mask, dtype=torch.bool)
    order = torch.tensor([numbers[place] for place in places])
    prompts: dict[str, int] = {}
    groups = [prompts.setdefault(sample.prompt_id, len(prompts)) for sample in samples]
    half = len(items)
    batch = PolicyBatch(
        mask=mask,
        sampling_logps=_padded(data.sampling_logps, places, width),
        ref_logps=_padded(data.ref_logps, places, width),
        correction=_padded(data.correction, places, width),
        temperature=packed.temperature[order],
        advantages=None
        if data.advantages is None
        else torch.tensor([data.advantages[place] for place in places]),
        scores=None
        if data.scores is None
        else torch.tensor([data.scores[place] for place in places]),
        group=torch.tensor(groups),
        from_reference=None
        if data.from_reference is None
        else torch.tensor([data.from_reference[place] for place in places]),
        chosen=None if data.pairs is None else torch.arange(half),
        rejected=None if data.pairs is None else torch.arange(half, 2 * half),
        margin=None
        if data.pairs is None
        else torch.tensor([data.pairs[item][2] for item in items]),
    )
    ids = [sample.sample_id for sample in samples]
    return MicroBatch(packed, order, batch, counts, items, ids, widest)


def filler(
    data: TrainingData, item: int, counts: Counts, pad_id: int, *, widest: int = 0
) -> MicroBatch:
    """A forward that trains nothing: the first tokens of one item's samples, masks of zeros."""
    places = data.rows_of([item])
    samples = [data.samples[place] for place in places]

    def first(values: Sequence[Tensor] | None) -> list[Tensor] | None:
        return None if values is None else [values[place][:1] for place in places]

    def own(values: Sequence[Value] | None) -> list[Value] | None:
        return None if values is None else [values[place] for place in places]

    short = replace(
        data,
        samples=[
            replace(
                sample,
                prompt_ids=sample.prompt_ids[:1],
                completion_ids=sample.completion_ids[:1],
                loss_mask=(0,),
            )
            for sample in samples
        ],
        pairs=None if data.pairs is None else [(0, 1, data.pairs[item][2])],
        ref_logps=first(data.ref_logps),
        sampling_logps=first(data.sampling_logps),
        correction=first(data.correction),
        advantages=own(data.advantages),
        scores=own(data.scores),
        from_reference=own(data.from_reference),
    )
    made = collate(short, [0], counts, pad_id, _one_a_line, widest=widest)
    return replace(made, items=[item], ids=[])


def _one_a_line(rows: Sequence[TokenRow]) -> list[Line]:
    return single_lines(len(rows))


def _padded(values: Sequence[Tensor] | None, places: Sequence[int], width: int) -> Tensor | None:
    if values is None:
        return None
    result = torch.zeros((len(places), width))
    for index, place in enumerate(places):
        result[index, : len(values[place])] = values[place]
    return result


def pair_places(samples: Sequence[Sample], pairs: Sequence[Pair]) -> list[tuple[int, int, float]]:
    """Pairs by the places of their samples. Raises `KeyError` for an unknown sample."""
    places: Mapping[str, int] = {sample.sample_id: place for place, sample in enumerate(samples)}
    return [(places[pair.chosen], places[pair.rejected], pair.margin) for pair in pairs]
