"""LoRA adapters as vLLM takes them: most as they are, the kinds that it cannot apply merged into a
full checkpoint.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from align.data.fingerprint import local_folder
from align.errors import DataError
from align.models import load_causal, load_tokenizer
from align.records import WeightsRef

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""The values that vLLM 0.31 takes for `max_lora_rank`."""


def read_adapter(adapter: str) -> dict[str, object]:
    """The `adapter_config.json` of an adapter; raises `DataError` where there is none."""
    path = local_folder(adapter) / "adapter_config.json"
    if not path.is_file():
        raise DataError(f"{adapter} holds no adapter_config.json, so it is not a LoRA adapter")
    return json.loads(path.read_text())


def must_merge(config: dict[str, object]) -> str | None:
    """Why vLLM 0.31 cannot apply this adapter on the fly (DoRA, whole modules, too high a rank), or
    None.
    """
    if config.get("peft_type", "LORA") != "LORA":
        return f"peft_type {config['peft_type']}"
    if config.get("use_dora"):
        return "use_dora"
    if config.get("modules_to_save"):
        return "modules_to_save"
    if config.get("target_parameters"):
        return "target_parameters"
    if config.get("bias", "none") != "none":
        return "bias"
    return f"a rank above {RANKS[-1]}" if _highest_rank(config) > RANKS[-1] else None


def engine_rank(config: dict[str, object]) -> int:
    """The smallest `max_lora_rank` of vLLM that holds the adapter."""
    return next(rank for rank in RANKS if rank >= _highest_rank(config))


def merge_adapter(weights: WeightsRef, folder: Path, *, trust_remote_code: bool = False) -> None:
    """Writes base and adapter as one float32 checkpoint with its tokenizer and generation config
    into `folder`.
    """
    from peft import PeftModel

    model = load_causal(weights, trust_remote_code=trust_remote_code)
    if not isinstance(model, PeftModel):
        raise DataError(f"{weights.base} has no adapter to merge")
    folder.mkdir(parents=True, exist_ok=True)
    model.merge_and_unload().save_pretrained(folder)
    load_tokenizer(weights.base, trust_remote_code=trust_remote_code).save_pretrained(folder)
    generation = local_folder(weights.base) / "generation_config.json"
    if generation.is_file():
        shutil.copy(generation, folder / generation.name)


def _highest_rank(config: dict[str, object]) -> int:
    pattern = config.get("rank_pattern")
    ranks = [config.get("r"), *(pattern.values() if isinstance(pattern, dict) else ())]
    return max(rank for rank in ranks if isinstance(rank, int))
