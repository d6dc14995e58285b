"""A run's scored samples as questions whether they are right."""

from __future__ import annotations

from pathlib import Path

import pytest

from align.data.builtin.partition import SHARES
from align.data.builtin.verdicts import Scored, Verdicts, ask
from align.data.shards import write_part
from align.errors import DataError
from align.records import Prompt, Sample, Score


def store(folder: Path, prompts: list[Prompt]) -> str:
    """Three samples a prompt: right, wrong, and one that failed to be scored."""
    samples, scores = [], []
    for prompt in prompts:
        for index, value in enumerate((1.0, -1.0, None)):
            name = f"{prompt.prompt_id}-{index}"
            samples.append(
                Sample(
                    sample_id=name,
                    prompt_id=prompt.prompt_id,
                    index=index,
                    policy="",
                    prompt_ids=(1,),
                    completion_ids=(2,),
                    loss_mask=(1,),
                    logps=None,
                    text=f"solution {index}",
                    finish="stop",
                )
            )
            scores.append(Score(name, value))
    write_part(folder / "prompts", 0, prompts, Prompt)
    write_part(folder / "samples", 0, samples, Sample)
    write_part(folder / "scores", 0, scores, Score)
    return str(folder)


def test_splits_hold_every_prompt_once_and_verdicts_are_those_of_the_scores(
    tmp_path: Path,
) -> None:
    path = store(tmp_path, [Prompt.of(f"1+{number}=") for number in range(40)])
    data = Verdicts(Scored(path), question="{prompt}{completion}?", labels=("y", "n"))
    rows = {split: list(data.rows(split, 0)) for split in SHARES}
    assert sum(map(len, rows.values())) == 80
    asked = [
        {str(row["prompt"]).partition("solution")[0] for row in found} for found in rows.values()
    ]
    assert len(set().union(*asked)) == sum(map(len, asked)) == 40
    for found in rows.values():
        for row in found:
            wanted = "y" if row["prompt"] == f"{str(row['prompt'])[:-2]}0?" else "n"
            assert row["completion"] == row["answer"] == wanted


def test_chat_prompts_stay_chat(tmp_path: Path) -> None:
    prompt = Prompt.of([{"role": "user", "content": "What is 1+1?"}])
    path = store(tmp_path, [prompt])
    rows = [row for split in SHARES for row in _rows(path, split)]
    right = next(row for row in rows if row["answer"] == "Yes")
    assert right["completion"] == [{"role": "assistant", "content": "Yes"}]
    (turn,) = ask(prompt.messages, "solution 0", Verdicts(Scored(path)).question)
    assert right["prompt"] == [turn] and turn["role"] == "user"
    assert str(turn["content"]).startswith("What is 1+1?\n\nProposed solution:\nsolution 0\n")


def test_an_empty_split_and_a_question_without_solution_are_refused(tmp_path: Path) -> None:
    path = store(tmp_path, [Prompt.of("1+1=")])
    empty = [split for split in SHARES if not _rows(path, split)]
    assert len(empty) == 3
    with pytest.raises(ValueError, match=r"must hold \{completion\}"):
        Verdicts(Scored(path), question="Is {prompt} right?")
    with pytest.raises(ValueError, match="two labels"):
        Verdicts(Scored(path), labels=("a", "a"))


def _rows(path: str, split: str) -> list[dict[str, object]]:
    try:
        return list(Verdicts(Scored(path)).rows(split, 0))
    except DataError as error:
        assert "no scored sample in the split" in str(error)
        return []
