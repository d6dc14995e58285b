"""Prompts, samples and groups for reward tests, made by hand."""

from __future__ import annotations

from collections.abc import Sequence

from align.records import Json, Prompt, Sample, Score
from align.records import sample_id as make_sample_id
from align.rewards.protocol import Group


def sample_of(prompt: Prompt, index: int, text: str, ids: Sequence[int] | None = None) -> Sample:
    """A finished sample whose tokens are its characters' code points unless given."""
    completion = tuple(ids) if ids is not None else tuple(map(ord, text))
    return Sample(
        sample_id=make_sample_id(prompt.prompt_id, index, "", completion),
        prompt_id=prompt.prompt_id,
        index=index,
        policy="",
        prompt_ids=(),
        completion_ids=completion,
        loss_mask=(1,) * len(completion),
        logps=None,
        text=text,
        finish="stop",
    )


def group_of(question: str, answer: Json, *texts: str) -> Group:
    """One prompt and one sample a text."""
    prompt = Prompt.of(question, answer=answer)
    return Group(prompt, tuple(sample_of(prompt, i, text) for i, text in enumerate(texts)))


def values_of(scores: Sequence[Sequence[Score]]) -> list[list[float | None]]:
    """Only the values."""
    return [[score.value for score in group] for group in scores]
