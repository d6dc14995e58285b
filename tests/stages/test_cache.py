"""`run.cache` prompt by prompt: what steps that differ in prompts alone take from each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from align.data.shards import read_records, write_part
from align.records import Json, Prompt, Sample, Score
from align.rewards.protocol import Group
from align.stages.cache import fetch, known_samples, known_scores, offer, store
from align.stages.manifest import Manifest, content_of

PROMPTS = [Prompt.of(text) for text in "abc"]


def _sample(prompt: Prompt, index: int = 0) -> Sample:
    name = f"{prompt.prompt_id}-{index}"
    return Sample(name, prompt.prompt_id, index, "w", (1,), (2,), (1,), None, "x", "stop")


def _key(prompts: str, **section: Json) -> dict[str, Json]:
    return {"section": section, "inputs": {"prompts": prompts, "policy": "w"}, "versions": {}}


def _store(cache: Path, kind: str, key: dict[str, Json], rows: Sequence[Any], **more: Any) -> None:
    folder = cache.parent / f"{kind}-{len(list(cache.parent.iterdir()))}"
    write_part(folder, 0, rows, type(rows[0]))
    manifest = Manifest(folder.name, kind, key, content_of(folder), {}, {}, 1.0, "2026")
    store(cache, kind, manifest, folder, **more)


def test_appended_prompts_leave_the_samples_of_the_others_known(tmp_path: Path) -> None:
    cache, step = tmp_path / "cache", tmp_path / "step"
    samples = [_sample(prompt) for prompt in PROMPTS[:2]]
    _store(cache, "generate", _key("two"), samples)
    assert fetch(cache, "generate", _key("three"), step) is None
    offer(cache, "generate", _key("three"), step)
    assert known_samples(step) == {s.prompt_id: [s] for s in samples}


@pytest.mark.parametrize(
    "other", [_key("three", temperature=0.5), _key("three") | {"tokenizer": 1}]
)
def test_another_sampler_shares_nothing(tmp_path: Path, other: dict[str, Json]) -> None:
    cache, step = tmp_path / "cache", tmp_path / "step"
    _store(cache, "generate", _key("two"), [_sample(PROMPTS[0])])
    offer(cache, "generate", other, step)
    assert known_samples(step) == {}


def test_scores_are_known_of_the_same_prompt_with_the_same_samples(tmp_path: Path) -> None:
    """Of four prompts one is new, one has a sample more, and one's checker was changed."""
    cache, step = tmp_path / "cache", tmp_path / "step"
    groups = [Group(prompt, (_sample(prompt),)) for prompt in PROMPTS]
    scores = [Score(group.samples[0].sample_id, float(i)) for i, group in enumerate(groups)]
    _store(cache, "score", _key("three"), scores, groups=groups)
    offer(cache, "score", _key("four"), step)
    now = [
        groups[0],
        Group(PROMPTS[1], (_sample(PROMPTS[1]), _sample(PROMPTS[1], 1))),
        Group(replace(PROMPTS[2], meta={"tests": ["2"]}), groups[2].samples),
        Group(Prompt.of("d"), (_sample(Prompt.of("d")),)),
    ]
    assert known_scores(step, now) == {PROMPTS[0].prompt_id: [scores[0]]}


def test_scores_that_depend_on_their_shard_are_never_taken_apart(tmp_path: Path) -> None:
    cache, step = tmp_path / "cache", tmp_path / "step"
    sources: Json = [{"name": "whiten", "of": {"name": "length"}, "over": "shard"}]
    group = Group(PROMPTS[0], (_sample(PROMPTS[0]),))
    score = Score(group.samples[0].sample_id, 1.0)
    _store(cache, "score", _key("one", sources=sources), [score], groups=[group])
    offer(cache, "score", _key("two", sources=sources), step)
    assert known_scores(step, [group]) == {}
    assert fetch(cache, "score", _key("one", sources=sources), step) is not None
    assert read_records(step, Score) == [score]


def test_a_missed_deadline_is_tried_again_and_a_failure_of_the_sample_is_not(
    tmp_path: Path,
) -> None:
    cache, step = tmp_path / "cache", tmp_path / "step"
    groups = [Group(prompt, (_sample(prompt),)) for prompt in PROMPTS[:2]]
    ids = [group.samples[0].sample_id for group in groups]
    late = Score(ids[0], None, error="math_verify: no answer within 50 s")
    failed = Score(ids[1], None, error="regex: no number")
    _store(cache, "score", _key("two"), [late, failed], groups=groups)
    offer(cache, "score", _key("three"), step)
    assert known_scores(step, groups) == {PROMPTS[1].prompt_id: [failed]}
