"""Token rows through a model in batches of similar length; the result does not depend on how rows
were given.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

from align.inference.packing import (
    Line,
    TokenRow,
    by_prompt,
    count_completions,
    line_length,
    renumbered,
)

Row = tuple[int, ...]


def run_batches(
    rows: Sequence[Row], size: int, forward: Callable[[Sequence[Row]], Sequence[float]]
) -> list[float]:
    """`forward` of each row, in order. Equal rows run once; batches are cut from the rows sorted by
    length, so that little is padded and the same rows meet whatever order they came in.
    """
    unique = sorted(set(rows), key=lambda row: (len(row), row))
    values = dict[Row, float]()
    for start in range(0, len(unique), size):
        batch = unique[start : start + size]
        values |= zip(batch, forward(batch), strict=True)
    return [values[row] for row in rows]


def run_lines(
    rows: Sequence[TokenRow],
    size: int,
    cut: Callable[[Sequence[TokenRow]], list[Line]],
    forward: Callable[[Sequence[TokenRow], Sequence[Line]], Sequence[float]],
) -> list[float]:
    """`forward` of each row, in order, rows of one prompt together as `cut` says: at most `size`
    rows at once, in lines of similar length.

    Equal rows run once, and the same rows meet whatever order they came in.
    """
    unique = sorted(set(rows), key=lambda row: (row.prompt_ids, len(row), row.completion_ids))
    lines: list[Line] = []
    for members in by_prompt(unique):
        for begin in range(0, len(members), size):
            part = members[begin : begin + size]
            own = cut([unique[member] for member in part])
            lines += [[[part[place] for place in group] for group in line] for line in own]
    lines.sort(key=lambda line: (count_completions(line) > 1, line_length(unique, line, 0), line))
    values = dict[TokenRow, float]()
    batch: list[Line] = []
    for line in lines:
        if batch and _is_full(batch, line, size):
            values |= _forwarded(unique, batch, forward)
            batch = []
        batch.append(line)
    if batch:
        values |= _forwarded(unique, batch, forward)
    return [values[row] for row in rows]


def _is_full(batch: Sequence[Line], line: Line, size: int) -> bool:
    """Whether the line has no room, or needs a mask where the others need none."""
    held = sum(count_completions(other) for other in batch)
    is_shared = count_completions(line) > 1
    return held + count_completions(line) > size or is_shared != (count_completions(batch[0]) > 1)


def _forwarded(
    rows: Sequence[TokenRow],
    batch: Sequence[Line],
    forward: Callable[[Sequence[TokenRow], Sequence[Line]], Sequence[float]],
) -> dict[TokenRow, float]:
    own = [rows[member] for line in batch for group in line for member in group]
    return dict(zip(own, forward(own, renumbered(batch)), strict=True))


def pad_rows(
    rows: Sequence[Row], pad_id: int, side: Literal["left", "right"]
) -> tuple[Tensor, Tensor]:
    """Ids and attention mask, both (N, T) of int64."""
    width = max(map(len, rows))
    ids = torch.full((len(rows), width), pad_id)
    mask = torch.zeros((len(rows), width), dtype=torch.long)
    for number, row in enumerate(rows):
        place = slice(width - len(row), width) if side == "left" else slice(0, len(row))
        ids[number, place] = torch.tensor(row)
        mask[number, place] = 1
    return ids, mask


def pick_device() -> torch.device:
    """The accelerator where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
