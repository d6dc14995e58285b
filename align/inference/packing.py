"""Token rows laid out for one forward: a line is a prompt once, then completions of it, and perhaps
further prompts with theirs.

Every completion continues the prompt's positions and sees the prompt and itself only
(`align/inference/visibility.py`), so its log-probs are those of a row of its own, at the price of
one prompt instead of n. The last token of a completion predicts nothing and is not laid out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from align.errors import DataError

Line = Sequence[Sequence[int]]
"""The groups of a line; a group lists rows of one prompt."""


@dataclass(frozen=True, slots=True)
class TokenRow:
    """A prompt and one completion of it, as tokens."""

    prompt_ids: Sequence[int]
    completion_ids: Sequence[int]
    temperature: float = 1.0
    """Logits are divided by it."""

    def __len__(self) -> int:
        return len(self.prompt_ids) + len(self.completion_ids)


@dataclass(frozen=True)
class PackedRows:
    """Axes: B lines, L places of a line, N rows, T completion tokens of the longest row, K
    completion tokens of all rows.
    """

    input_ids: Int[Tensor, "B L"]
    positions: Int[Tensor, "B L"]
    group: Int[Tensor, "B L"]
    """Number of the prompt in its line; -1 on padding."""
    branch: Int[Tensor, "B L"]
    """0 on a prompt and on padding, else the number of the completion in its group."""
    predictor: Int[Tensor, " K"]
    """Places, counted over all lines, whose logits score each completion token."""
    targets: Int[Tensor, " K"]
    slots: Int[Tensor, " K"]
    """Where each completion token belongs in (N, T), counted over all rows."""
    row: Int[Tensor, " K"]
    """Which row each completion token is of."""
    last: Int[Tensor, " N"]
    """Place, counted over all lines, of the last token of each row that is laid out."""
    temperature: Float[Tensor, " N"]
    is_token: Bool[Tensor, "N T"]
    """True on completion tokens, false on their padding."""
    shares_prompts: bool
    """Whether any line holds more than one completion."""
    needed_tokens: int
    """Places that are no padding."""

    @property
    def computed_tokens(self) -> int:
        """Places that a forward computes, padding included."""
        return self.input_ids.numel()

    def to(self, device: torch.device) -> PackedRows:
        """A copy on `device`."""
        tensors = {
            item.name: value.to(device)
            for item in fields(self)
            if isinstance(value := getattr(self, item.name), Tensor)
        }
        return replace(self, **tensors)

    def spread(self, values: Float[Tensor, " K"]) -> Float[Tensor, "N T"]:
        """One value a completion token as a padded matrix, 0 on padding."""
        flat = values.new_zeros(self.is_token.numel()).scatter(0, self.slots, values)
        return flat.view(self.is_token.shape)


def pack_rows(
    rows: Sequence[TokenRow], lines: Sequence[Line], pad_id: int, *, whole: bool = False
) -> PackedRows:
    """The rows as the lines say, padded on the right; every row stands in one group of one line.

    `whole` lays the last tokens of completions out too, for models that read something there.

    Raises `DataError` where a prompt is empty: its first completion token would have no position
    that predicts it. Raises `ValueError` where a group's rows have different prompts.

    >>> packed = pack_rows([TokenRow([1, 5], [6, 2]), TokenRow([1, 5], [7, 8, 2])], [[[0, 1]]], 0)
    >>> packed.input_ids.tolist(), packed.positions.tolist(), packed.branch.tolist()
    ([[1, 5, 6, 7, 8]], [[0, 1, 2, 2, 3]], [[0, 0, 1, 2, 2]])
    """
    if any(len(row.prompt_ids) == 0 for row in rows):
        raise DataError(
            "a prompt has no tokens, so nothing predicts its completion; use a tokenizer with a "
            "BOS token"
        )
    cut = 0 if whole else 1
    length = max(line_length(rows, line, cut) for line in lines)
    width = max(1, max(len(row.completion_ids) for row in rows))
    ids, positions, group, branch = _Column(pad_id), _Column(0), _Column(-1), _Column(0)
    predictor: list[int] = []
    targets: list[int] = []
    slots: list[int] = []
    owner: list[int] = []
    ends = [0] * len(rows)
    needed = 0
    for number, line in enumerate(lines):
        for place, members in enumerate(line):
            prompt = tuple(rows[members[0]].prompt_ids)
            if any(tuple(rows[member].prompt_ids) != prompt for member in members):
                raise ValueError(f"rows {list(members)} do not share a prompt")
            last = number * length + ids.filled + len(prompt) - 1
            for column, values in (
                (ids, prompt),
                (positions, range(len(prompt))),
                (group, [place] * len(prompt)),
                (branch, [0] * len(prompt)),
            ):
                column.extend(values)
            for count, member in enumerate(members, 1):
                completion = rows[member].completion_ids
                inner = max(0, len(completion) - cut)
                begin = number * length + ids.filled
                ids.extend(completion[:inner])
                positions.extend(range(len(prompt), len(prompt) + inner))
                group.extend([place] * inner)
                branch.extend([count] * inner)
                ends[member] = begin + inner - 1 if inner else last
                predictor += [last, *range(begin, begin + inner)][: len(completion)]
                targets += completion
                slots += range(member * width, member * width + len(completion))
                owner += [member] * len(completion)
        needed += ids.filled
        for column in (ids, positions, group, branch):
            column.end_line(length)
    sizes = torch.tensor([len(row.completion_ids) for row in rows])
    return PackedRows(
        input_ids=ids.tensor(length),
        positions=positions.tensor(length),
        group=group.tensor(length),
        branch=branch.tensor(length),
        predictor=torch.tensor(predictor, dtype=torch.long),
        targets=torch.tensor(targets, dtype=torch.long),
        slots=torch.tensor(slots, dtype=torch.long),
        row=torch.tensor(owner, dtype=torch.long),
        last=torch.tensor(ends, dtype=torch.long),
        temperature=torch.tensor([row.temperature for row in rows], dtype=torch.float32),
        is_token=torch.arange(width) < sizes[:, None],
        shares_prompts=any(count_completions(line) > 1 for line in lines),
        needed_tokens=needed,
    )


class _Column:
    """One integer a place, line after line."""

    def __init__(self, padding: int) -> None:
        self._padding = padding
        self._values: list[int] = []
        self.filled = 0
        """Places of the open line."""

    def extend(self, values: Iterable[int]) -> None:
        before = len(self._values)
        self._values.extend(values)
        self.filled += len(self._values) - before

    def end_line(self, length: int) -> None:
        self._values.extend([self._padding] * (length - self.filled))
        self.filled = 0

    def tensor(self, length: int) -> Tensor:
        return torch.tensor(self._values, dtype=torch.long).view(-1, length)


def line_length(rows: Sequence[TokenRow], line: Line, cut: int = 1) -> int:
    """Places that a line takes, without the last `cut` tokens of its completions."""
    return sum(
        len(rows[members[0]].prompt_ids)
        + sum(max(0, len(rows[member].completion_ids) - cut) for member in members)
        for members in line
    )


def count_completions(line: Line) -> int:
    """Rows that stand in a line."""
    return sum(len(members) for members in line)


def single_lines(count: int) -> list[Line]:
    """Each row a line of its own: the padded layout."""
    return [[[index]] for index in range(count)]


def renumbered(lines: Sequence[Line]) -> list[Line]:
    """The lines with their rows numbered in the order in which they stand there."""
    number = iter(range(sum(count_completions(line) for line in lines)))
    return [[[next(number) for _ in group] for group in line] for line in lines]


def by_prompt(rows: Sequence[TokenRow]) -> list[list[int]]:
    """Rows of one prompt together, prompts in the order of their first row."""
    places: dict[tuple[int, ...], list[int]] = {}
    for index, row in enumerate(rows):
        places.setdefault(tuple(row.prompt_ids), []).append(index)
    return list(places.values())
