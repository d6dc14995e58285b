"""Tokens mean the same to everyone: to the samples, the policy and the reference."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import AutoConfig

from align.data.fingerprint import local_folder
from align.errors import DataError
from align.models import load_tokenizer
from align.records import Sample
from align.training.job import Job


def check_vocabulary(job: Job, samples: Sequence[Sample]) -> None:
    """Raises `DataError` where the reference has another tokenizer than the policy, or a sample a
    token that one of the two models does not know. Loads no weights.
    """
    trust = job.policy_section.trust_remote_code
    policy, reference = job.policy.base, job.reference.base if job.reference else job.policy.base
    if reference != policy:
        own = load_tokenizer(policy, trust_remote_code=trust).get_vocab()
        other = load_tokenizer(reference, trust_remote_code=trust).get_vocab()
        if own != other:
            differing = sorted(dict(own.items() ^ other.items()), key=str)
            raise DataError(
                f"the policy {policy} and the reference {reference} have different tokenizers "
                f"({len(differing)} tokens differ, e.g. {differing[0]!r}), so their log-probs "
                "are of different texts; name a reference with the policy's tokenizer"
            )
    for weights in dict.fromkeys((policy, reference)):
        _check_ids(weights, samples, trust_remote_code=trust)


def _check_ids(base: str, samples: Sequence[Sample], *, trust_remote_code: bool) -> None:
    config = AutoConfig.from_pretrained(local_folder(base), trust_remote_code=trust_remote_code)
    size = config.get_text_config().vocab_size
    for sample in samples:
        highest = max((*sample.prompt_ids, *sample.completion_ids), default=0)
        if highest >= size:
            raise DataError(
                f"sample {sample.sample_id} has the token {highest}, but {base} knows {size}; "
                "it was made with another tokenizer: sample again, or import its text"
            )
