from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from align.data.shards import write_part
from align.errors import DataError, StageError
from align.generation.stored import Stored
from align.generation.transformers import Transformers
from align.models import load_tokenizer
from align.records import Prompt, Sample, Score, WeightsRef
from tests.generation.conftest import SETTING

SUMS = [Prompt.of(text, answer="3") for text in ("1+2=", "12-9=")]


@pytest.fixture(scope="module")
def run(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two iterations of samples of two prompts; only the first was scored."""
    folder = tmp_path_factory.mktemp("run")
    for iteration in range(2):
        sampler = Transformers(n=3, max_new_tokens=8).open(
            WeightsRef(str(tiny_llama)), replace(SETTING, seed=iteration)
        )
        samples = list(sampler.generate(SUMS))
        step = folder / f"iter-{iteration:03d}"
        write_part(step / "prompts", 0, SUMS, Prompt)
        write_part(step / "samples", 0, samples[3:], Sample)
        write_part(step / "samples", 1, samples[:3], Sample)
        if iteration == 0:
            scores = [Score(s.sample_id, float(i)) for i, s in enumerate(samples)]
            write_part(step / "scores", 0, scores, Score)
    return folder


def _rows(tmp_path: Path, *rows: dict[str, object]) -> str:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_an_iteration_is_read_with_its_prompts_and_scores(run: Path, tiny_llama: Path) -> None:
    sampler = Stored(str(run / "iter-000")).open(WeightsRef(str(tiny_llama)), SETTING)
    assert sorted(p.prompt_id for p in sampler.prompts()) == sorted(p.prompt_id for p in SUMS)
    first = list(sampler.generate(SUMS[:1]))
    assert [s.index for s in first] == [0, 1, 2]
    assert all(s.prompt_id == SUMS[0].prompt_id and s.logps and s.policy for s in first)
    scores = {score.sample_id: score.value for score in sampler.scores()}
    assert [scores[s.sample_id] for s in first] == [0.0, 1.0, 2.0]
    assert list(sampler.generate([Prompt.of("9=")])) == []


def test_a_samples_folder_finds_prompts_and_scores_beside_it(run: Path, tiny_llama: Path) -> None:
    whole = Stored(str(run / "iter-000")).open(None, SETTING)
    folder = Stored(str(run / "iter-000" / "samples")).open(None, SETTING)
    assert list(folder.generate(SUMS)) == list(whole.generate(SUMS))
    assert folder.scores() == whole.scores()


def test_a_run_gives_all_iterations_counted_on(run: Path) -> None:
    sampler = Stored(str(run)).open(None, replace(SETTING, first_index=10))
    samples = list(sampler.generate(SUMS[:1]))
    assert [s.index for s in samples] == [10, 11, 12, 13, 14, 15]
    assert len({s.sample_id for s in samples}) == 6
    assert len(sampler.scores()) == 6  # of the twelve samples, those of the first iteration
    two = Stored(str(run), n=2).open(None, SETTING)
    assert len(list(two.generate(SUMS))) == 4


def test_tokens_of_another_tokenizer_are_refused(run: Path, stories: WeightsRef) -> None:
    with pytest.raises(DataError, match="do not spell its text with the tokenizer of"):
        Stored(str(run)).open(stories, SETTING)


def test_rows_are_tokenised_with_their_prompt(tiny_llama: Path, tmp_path: Path) -> None:
    path = _rows(
        tmp_path,
        {"prompt": "1+2=", "completion": "3", "answer": "3", "score": 1},
        {"prompt": "1+2=", "completion": "4", "answer": "3", "score": 0.5, "finish": "length"},
        {"prompt": "2+2=", "completions": ["4", "5"], "scores": [1.0, None]},
    )
    sampler = Stored(path).open(WeightsRef(str(tiny_llama)), SETTING)
    tokenizer = load_tokenizer(tiny_llama)
    one, two = sampler.prompts()
    assert (one.answer, two.answer) == ("3", None)
    right, cut = list(sampler.generate([one]))
    spell = tokenizer.convert_tokens_to_ids
    assert right.completion_ids == (spell("3"), tokenizer.eos_token_id)
    assert cut.completion_ids == (spell("4"),)
    assert (right.finish, cut.finish) == ("stop", "length")
    assert (right.policy, right.logps, right.text) == ("", None, "3")
    assert [right.index, cut.index] == [0, 1]
    assert right.prompt_ids == cut.prompt_ids
    assert [score.value for score in sampler.scores()] == [1.0, 0.5, 1.0]
    assert [s.text for s in sampler.generate([two])] == ["4", "5"]


def test_equal_completions_stay_apart(tiny_llama: Path, tmp_path: Path) -> None:
    path = _rows(tmp_path, {"q": "1+2=", "a": ["3", "3"]})
    stored = Stored(path, columns={"prompt": "q", "completions": "a"})
    sampler = stored.open(WeightsRef(str(tiny_llama)), SETTING)
    first, second = sampler.generate(sampler.prompts())
    assert first.completion_ids == second.completion_ids
    assert first.sample_id != second.sample_id
    assert sampler.scores() == []


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "1="}, "neither `completion` nor `completions`"),
        ({"prompt": "1=", "completions": ["1"], "scores": [1, 2]}, "`scores` must be a list of 1"),
        ({"prompt": "1=", "completion": "1", "score": "good"}, "'good' is not a finite number"),
        ({"prompt": "1=", "completion": "1", "finish": "eos"}, "finish is 'eos'"),
    ],
)
def test_wrong_rows_are_named(
    tiny_llama: Path, tmp_path: Path, row: dict[str, object], message: str
) -> None:
    path = _rows(tmp_path, {"prompt": "2=", "completion": "2"}, row)
    with pytest.raises(DataError, match=message) as caught:
        Stored(path).open(WeightsRef(str(tiny_llama)), SETTING)
    assert "rows.jsonl:2" in str(caught.value)


def test_what_stored_samples_cannot_do_is_said(run: Path, tmp_path: Path) -> None:
    with pytest.raises(StageError, match="no model"):
        Stored(str(run)).open(None, SETTING).logps([((1,), (2,))])
    path = _rows(tmp_path, {"prompt": "2=", "completion": "2"})
    with pytest.raises(DataError, match="give the recipe a `policy`"):
        Stored(path).open(None, SETTING)
    with pytest.raises(DataError, match=r"neither a folder nor a Hub id|holds|no "):
        Stored(str(tmp_path / "missing")).open(None, SETTING)


def test_samples_without_prompts_need_a_prompts_section(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "alone" / "samples"
    folder.mkdir(parents=True)
    part = run / "iter-000" / "samples" / "part-00000.parquet"
    (folder / part.name).write_bytes(part.read_bytes())
    sampler = Stored(str(folder)).open(None, SETTING)
    with pytest.raises(DataError, match="samples without their prompts"):
        sampler.prompts()
    assert len(list(sampler.generate(SUMS))) == 3
