"""`addition`: sums of two zero-padded numbers, `123+045=` -> `0168`; serves SFT, prompts and
evaluation alike.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field

from align.data.builtin.partition import SHARES, share_of, unshuffle_pair
from align.errors import DataError
from align.records import derive_seed


@dataclass(frozen=True)
class Addition:
    """All pairs of operands, cut into splits once for all; `seed` draws which of a split's come,
    and their order.

    `train` 40%, `prompts` 40%, `validation` 10%, `test` 10% of the pairs (3 digits: a million
    pairs).
    """

    splits: ClassVar[tuple[str, ...]] = tuple(SHARES)

    digits: Annotated[int, Field(ge=1, le=9)] = 3
    """Of each operand; the sum has one more."""
    count: Annotated[int, Field(ge=1)] | None = None
    """Rows of the split; default: all of it (`limit` does the same)."""

    def rows(self, split: str, seed: int) -> Iterator[dict[str, str]]:
        """Rows with `prompt`, `completion` and the equal `answer`, no two the same.

        Raises `DataError` for an unknown split, or where the split has fewer than `count` rows.
        """
        count = self.size(split)
        rng = random.Random(derive_seed(seed, "addition", self.digits, split))
        places = rng.sample(self._places(split), count)
        return (self._row(place, 10**self.digits) for place in places)

    def size(self, split: str) -> int:
        """How many rows `rows` yields, without making them; raises `DataError` as it does."""
        available = len(self._places(split))
        if self.count is not None and self.count > available:
            raise DataError(
                f"addition of {self.digits} digits has {available} rows in the split {split!r}, "
                f"fewer than count {self.count}; lower count or raise digits"
            )
        return available if self.count is None else self.count

    def _places(self, split: str) -> range:
        size = 10**self.digits
        begin, end = (round(bound * size * size) for bound in share_of(split))
        return range(begin, end)

    def _row(self, place: int, size: int) -> dict[str, str]:
        a, b = unshuffle_pair(place, size)
        total = f"{a + b:0{self.digits + 1}d}"
        prompt = f"{a:0{self.digits}d}+{b:0{self.digits}d}="
        return {"prompt": prompt, "completion": total, "answer": total}
