"""What runs inside vLLM's workers, added to them by `worker_extension_cls` and called by
`collective_rpc`.
"""

from __future__ import annotations

from typing import Protocol, cast

from torch import nn


class _Runner(Protocol):
    def get_model(self) -> nn.Module: ...


class _Worker(Protocol):
    model_runner: _Runner


class WeightSync:
    """Methods of every worker of our engines."""

    def refresh_embeddings(self) -> int:
        """Packs embeddings and heads anew from their present weights; returns how many.

        vLLM's CPU linear layer multiplies by a packed copy made when the model was first loaded. A
        tied `lm_head` loads no weight of its own, so `reload_weights` leaves its copy stale: new
        layers under old logits (vLLM 0.31).
        """
        from vllm.model_executor.layers.vocab_parallel_embedding import VocabParallelEmbedding

        model = cast(_Worker, self).model_runner.get_model()
        layers = [layer for layer in model.modules() if isinstance(layer, VocabParallelEmbedding)]
        for layer in layers:
            layer.quant_method.process_weights_after_loading(layer)
        return len(layers)
