"""Reading an objective's metrics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from torch import Tensor

from align.ops.batch import Ratio


def per_item(metrics: Mapping[str, Tensor | Ratio], name: str) -> list[float]:
    """A metric that has one number a sequence or a pair, as opposed to a `Ratio`."""
    return cast(Tensor, metrics[name]).tolist()
