"""Log-probs that are fixed for a whole job: of the reference, and of the policies that sampled
(mu).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import transformers
from accelerate import PartialState
from accelerate.utils import gather_object
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from align.data.shards import beside
from align.errors import DataError, InputError
from align.inference.agreement import find_layout, probe_rows
from align.inference.logps import TokenRow, completion_logps
from align.inference.packing import by_prompt
from align.models import load_tokenizer, pad_id
from align.progress import Progress, counted_as_work
from align.records import Sample, WeightsRef, content_id
from align.training.checkpoints import load_policy
from align.training.job import Job
from align.training.sampler_mismatch import as_tensors
from align.training.usable import shown


def cached_logps(
    job: Job,
    state: PartialState,
    weights: WeightsRef,
    rows: Sequence[TokenRow],
    identity: str,
    name: str,
    label: str,
) -> list[Tensor]:
    """Each row's completion log-probs (float32, CPU) under `weights`, whose fingerprint is
    `identity`: its share on every rank, then all on all.

    They are kept by content (weights, tokens, temperatures, and what their last bits depend on) in
    `run.cache`, or else in the job's scratch folder until it is done, so that a resumed job does
    not compute them again.
    """
    policy = job.policy_section
    kernels = [policy.dtype, policy.attention, policy.quantization is not None]
    launch = [state.num_processes, str(state.device), torch.__version__, transformers.__version__]
    key = content_id(
        [identity, kernels, launch],
        [(r.prompt_ids, r.completion_ids, r.temperature) for r in rows],
    )
    path = job.scratch / f"{name}.safetensors"
    if job.recipe.run.cache is not None:
        path = Path(job.recipe.run.cache) / "logps" / f"{key}.safetensors"
    found = _read(path, key, len(rows))
    # every rank must take the same branch: the gather below is collective
    if all(gather_object([found is not None])) and found is not None:
        return found
    device = torch.device(state.device or "cpu")
    model = load_policy(weights, job.policy_section, device=device)
    padding = pad_id(load_tokenizer(weights.base))
    layout = find_layout(model, probe_rows(rows), padding)
    # prompts are dealt to ranks, so that rows of one prompt are forwarded together
    own = [
        index
        for members in by_prompt(rows)[state.process_index :: state.num_processes]
        for index in members
    ]
    folder = job.out if state.is_main_process else None
    with (
        Progress(folder, label, total=len(own), unit="samples") as bar,
        counted_as_work(folder),
    ):
        values = completion_logps(
            model,
            [rows[i] for i in own],
            pad_id=padding,
            layout=layout,
            on_batch=bar.advance,
        )
    del model
    if device.type == "cuda":
        torch.cuda.empty_cache()
    result: list[Tensor] = [torch.empty(0)] * len(rows)
    for index, value in gather_object(
        list(zip(own, [value.numpy() for value in values], strict=True))
    ):
        result[index] = torch.from_numpy(value)
    if state.is_main_process:
        _write(path, key, result)
    state.wait_for_everyone()
    return result


def _write(path: Path, key: str, values: Sequence[Tensor]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = beside(path)
    sizes = torch.tensor([len(value) for value in values])
    flat = torch.cat([*values, torch.empty(0)])
    save_file({"logps": flat, "sizes": sizes}, temporary, metadata={"key": key})
    temporary.replace(path)


def _read(path: Path, key: str, count: int) -> list[Tensor] | None:
    if not path.is_file():
        return None
    with safe_open(path, framework="pt") as file:
        if (file.metadata() or {}).get("key") != key:
            return None
        sizes = file.get_tensor("sizes")
        values = list(file.get_tensor("logps").split(sizes.tolist()))
    return values[:count]


def check_scored_is_sampled(samples: Sequence[Sample]) -> None:
    """Raises `InputError` where top-p or top-k cut the support that a ratio needs (I7)."""
    cut = [sample for sample in samples if sample.top_p < 1 or sample.top_k > 0]
    if cut:
        first = cut[0]
        raise InputError(
            f"train.objective needs the samplers' own log-probs, but {len(cut)} of {len(samples)} "
            f"samples were drawn with top_p {first.top_p:g}, top_k {first.top_k} (sample "
            f"{first.sample_id}), which is not the distribution that the trainer scores; sample "
            "with top_p: 1 and top_k: 0, or set train.sampling_logps: sampler"
        )


def stored_logps(samples: Sequence[Sample], reader: str) -> list[Tensor]:
    """Mu as the sampler stored it; raises `DataError` where it stored none, naming who reads it."""
    missing = [sample.sample_id for sample in samples if sample.logps is None]
    if missing:
        raise DataError(
            f"{len(missing)} of {len(samples)} samples have no stored log-probs "
            f"({shown(missing)}), but {reader}; leave that out, or sample again"
        )
    return as_tensors([sample.logps or () for sample in samples], torch.float32)


def samplers_of(samples: Sequence[Sample], known: Mapping[str, WeightsRef]) -> dict[str, list[int]]:
    """Places of the samples by the fingerprint of the weights that wrote them.

    Raises `DataError` (I7) where the weights are not known: mu is recomputed with those that
    `Sample.policy` names.
    """
    places: dict[str, list[int]] = {}
    for index, sample in enumerate(samples):
        places.setdefault(sample.policy, []).append(index)
    for name, indices in places.items():
        if name not in known:
            named = f"by the policy {name}" if name else "by an unknown policy"
            raise DataError(
                f"{len(indices)} of {len(samples)} samples were written {named} "
                f"({shown([samples[i].sample_id for i in indices])}), whose weights are not at "
                "hand to recompute their log-probs; set train.sampling_logps: sampler if the "
                "samples carry them, or choose an objective that needs none"
            )
    return places


def is_drawn_from(sample: Sample, policy: str) -> bool:
    """Whether the sample came from this policy's own law at temperature 1, nothing cut off."""
    plain = sample.temperature == 1 and sample.top_p == 1 and sample.top_k == 0
    return sample.policy == policy and plain
