"""Preference alignment of language models: one recipe describes a run.

`align.build(kind, {"name": ..., **options})` makes a plug-in, `align.load_recipe(path)` gives a
validated recipe; `records`, `PolicyBatch`, `PolicyOutputs` and `LossOutput` are what plug-ins
speak. All are imported on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from align import records as records
    from align.ops.batch import LossOutput, PolicyBatch, PolicyOutputs
    from align.recipe.load import load_recipe
    from align.registry import build

__version__ = "0.1.0"

__all__ = [
    "LossOutput",
    "PolicyBatch",
    "PolicyOutputs",
    "__version__",
    "build",
    "load_recipe",
    "records",
]

_HOMES = {
    "build": "align.registry",
    "load_recipe": "align.recipe.load",
    "LossOutput": "align.ops.batch",
    "PolicyBatch": "align.ops.batch",
    "PolicyOutputs": "align.ops.batch",
}


def __getattr__(name: str) -> object:
    if name == "records":
        return importlib.import_module("align.records")
    if name not in _HOMES:
        raise AttributeError(f"module 'align' has no attribute {name!r}")
    return vars(importlib.import_module(_HOMES[name]))[name]


def __dir__() -> list[str]:
    return sorted(__all__)
