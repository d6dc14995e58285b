"""Whether a checkpoint is a reward model: its saved weights hold a head, and the head has one
label.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from safetensors import safe_open

from align.data.fingerprint import local_folder
from align.errors import SetupError
from align.inference.encoders import head_of, read_config
from align.records import WeightsRef


def require_head(weights: WeightsRef) -> None:
    """Raises `SetupError` unless the weights, the adapter's or its base's, hold a head of one
    label: loading would draw a random one.
    """
    base = local_folder(weights.base)
    folders = [base] if weights.adapter is None else [local_folder(weights.adapter), base]
    saved = _saved_shapes(folders)
    config = read_config(base)
    wanted = {"score.weight": (1,)} if config is None else head_of(config)
    for name, shape in wanted.items():
        found = next((s for key, s in saved.items() if f".{key}".endswith(f".{name}")), None)
        if found is None:
            raise SetupError(
                f"{folders[0]} is not a reward model: its weights have no head ({name}); "
                "train one with a `reward` section, or name a sequence classifier with one label"
            )
        if shape[0] == 1 != found[0]:
            raise SetupError(
                f"{folders[0]} is not a reward model: its head has {found[0]} labels, and a reward "
                "model's has one"
            )


def _saved_shapes(folders: Sequence[Path]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of all weights in the folders; the first one's where two have a name."""
    found: dict[str, tuple[int, ...]] = {}
    for folder in folders:
        for file in sorted(folder.glob("*.safetensors")):
            with safe_open(file, framework="numpy") as tensors:
                for name in tensors.keys():  # noqa: SIM118 (not a dict)
                    found.setdefault(name, tuple(tensors.get_slice(name).get_shape()))
    return found
