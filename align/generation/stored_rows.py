"""Plain rows of prompt and completion as samples: tokenised together, once, by the policy's
template (I1).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from align.data.chat import encode
from align.data.convert import to_demonstrations
from align.data.rows import Row
from align.data.sources import read_rows
from align.errors import DataError
from align.generation.protocol import Setting
from align.generation.stored import Store
from align.inference.text import completion_text
from align.models import load_tokenizer
from align.recipe.sections import Source
from align.records import Finish, Prompt, Sample, Score, Turn, WeightsRef, sample_id

_OWN = ("completion", "completions", "score", "scores", "finish", "truncated")
"""Columns that belong to a completion; the others belong to its prompt."""


@dataclass(frozen=True, slots=True)
class Written:
    """One completion of a row."""

    completion: object
    score: float | None
    finish: Finish


def read_plain(
    path: str,
    split: str,
    columns: Mapping[str, str],
    weights: WeightsRef | None,
    setting: Setting,
) -> Store:
    """The rows at `path` as samples of unknown weights (`policy` "", `logps` None).

    A completion that was cut (`finish: length`, or `truncated: true`) gets no end token. Raises
    `DataError`, with file and row, where a row has no completion, or fewer scores than completions;
    blank ones are left out.
    """
    if weights is None:
        raise DataError(f"{path} holds rows of text; give the recipe a `policy` to tokenise them")
    tokenizer = load_tokenizer(weights.base, trust_remote_code=setting.trust_remote_code)
    prompts: dict[str, Prompt] = {}
    samples: dict[str, list[Sample]] = {}
    scores: dict[str, Score] = {}
    source = Source(path=path, split=split, columns=dict(columns), shuffle=False)
    for prompt, completion, written in completions(read_rows(source, seed=0)):
        encoded = encode(
            tokenizer,
            prompt.messages,
            completion,
            setting.chat_template,
            finished=written.finish == "stop",
        )
        group = samples.setdefault(prompt.prompt_id, [])
        prompts.setdefault(prompt.prompt_id, prompt)
        index = len(group)
        name = sample_id(prompt.prompt_id, index, "", encoded.completion_ids)
        group.append(
            Sample(
                sample_id=name,
                prompt_id=prompt.prompt_id,
                index=index,
                policy="",
                prompt_ids=encoded.prompt_ids,
                completion_ids=encoded.completion_ids,
                loss_mask=encoded.loss_mask,
                logps=None,
                text=completion_text(tokenizer, encoded.prompt_ids, encoded.completion_ids),
                finish=written.finish,
            )
        )
        if written.score is not None:
            scores[name] = Score(name, written.score, {"stored": written.score})
    if not samples:
        raise DataError(f"{path} holds no completion that is not blank")
    return Store(prompts, {key: tuple(group) for key, group in samples.items()}, scores)


def completions(rows: Iterable[Row]) -> Iterator[tuple[Prompt, tuple[Turn, ...], Written]]:
    """What each completion of the rows answers, and its turns; blank ones are left out. Raises the
    fault of a row without any.
    """
    for row in rows:
        shared = {name: value for name, value in row.values.items() if name not in _OWN}
        for written in _written(row):
            values = {**shared, "completion": written.completion}
            for shown in to_demonstrations([Row(values, row.source, row.place)]).rows:
                yield shown.prompt, shown.completion, written


def _written(row: Row) -> Iterator[Written]:
    """The completions of a row with their scores: one, or a list of each."""
    values = row.values
    if values.get("completions") is None:
        if values.get("completion") is None:
            raise row.fault(
                f"there is neither `completion` nor `completions`; the row has {sorted(values)}; "
                "map them with `columns`"
            )
        finish = _finish(row, values.get("finish"), values.get("truncated"))
        yield Written(values["completion"], _score(row, values.get("score")), finish)
        return
    completions = _listed(row, "completions", None)
    scores = _listed(row, "scores", len(completions))
    finishes = _listed(row, "finish", len(completions))
    cuts = _listed(row, "truncated", len(completions))
    for completion, score, finish, cut in zip(completions, scores, finishes, cuts, strict=True):
        yield Written(completion, _score(row, score), _finish(row, finish, cut))


def _listed(row: Row, name: str, count: int | None) -> list[object]:
    value = row.values.get(name)
    if value is None and count is not None:
        return [None] * count
    if not isinstance(value, list) or (count is not None and len(value) != count):
        wanted = "a list" if count is None else f"a list of {count}, one a completion"
        raise row.fault(f"`{name}` must be {wanted}")
    return value


def _score(row: Row, value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise row.fault(f"the score {value!r} is not a finite number")
    return float(value)


def _finish(row: Row, finish: object, truncated: object) -> Literal["stop", "length"]:
    if finish not in (None, "stop", "length"):
        raise row.fault(f'finish is {finish!r}; expected "stop" or "length"')
    return "length" if finish == "length" or truncated is True else "stop"
