"""Samples that exist already: of an earlier run, or plain rows of prompt and completion, with or
without scores.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import Field

from align.data.shards import parts, read_records
from align.errors import DataError, StageError
from align.generation.protocol import Sampler, Setting
from align.inference.probe import Mismatch
from align.records import Prompt, Sample, Score, WeightsRef

Record = TypeVar("Record", Prompt, Sample, Score)


@dataclass(frozen=True, slots=True)
class Store:
    """What was found at a path."""

    prompts: Mapping[str, Prompt]
    samples: Mapping[str, tuple[Sample, ...]]
    """By prompt id, in the order in which they were stored."""
    scores: Mapping[str, Score]
    """By sample id; empty where there are none."""


@dataclass(frozen=True)
class Stored:
    """Stored samples as a generator. Samples of our runs keep ids, tokens and log-probs; plain rows
    are tokenised once.

    `path` is a run, one of its iterations or a folder of its samples (prompts and scores are found
    beside them), or rows `{prompt, completion | completions [, score | scores, answer, finish]}` in
    any format that `data` takes.
    """

    path: str
    """Folder, file or Hub id."""
    n: Annotated[int, Field(ge=0)] = 0
    """Samples a prompt, the first ones stored; 0: all."""
    columns: dict[str, str] = field(default_factory=dict)
    """Our column name: theirs, for plain rows."""
    split: str = "train"
    """Of plain rows."""

    def open(
        self, weights: WeightsRef | None, setting: Setting, log: Path | None = None
    ) -> StoredSampler:
        """Reads the samples. `weights` give the tokenizer: plain rows need it, stored tokens are
        checked against it.

        Raises `DataError` where there are no samples, or their tokens are another tokenizer's.
        """
        store = _read_runs(Path(self.path).expanduser())
        if store is None:
            from align.generation.stored_rows import read_plain

            store = read_plain(self.path, self.split, self.columns, weights, setting)
        elif weights is not None:
            _check_tokens(self.path, store, weights, setting)
        return StoredSampler(self, setting, store)

    def adopt(self, sampler: Sampler, setting: Setting) -> Sampler | None:
        """None: there is no engine to share."""
        return None


class StoredSampler:
    """Read samples. Weights do not matter to them."""

    def __init__(self, options: Stored, setting: Setting, store: Store) -> None:
        self.misses: list[Mismatch] = []
        """None: there are no weights to probe."""
        self._options, self._setting, self._store = options, setting, store

    def prompts(self) -> list[Prompt]:
        """The stored prompts, in order, for a recipe without `prompts`. Raises `DataError` where
        none are stored.
        """
        missing = [key for key in self._store.samples if key not in self._store.prompts]
        if missing:
            raise DataError(
                f"{self._options.path} holds samples without their prompts ({len(missing)}, e.g. "
                f"{missing[0]}); "
                "give the run's folder, or a `prompts` section"
            )
        return [self._store.prompts[key] for key in self._store.samples]

    @property
    def count(self) -> int:
        """How many samples `generate` yields for all prompts."""
        return sum(len(self._kept(key)) for key in self._store.samples)

    def scores(self) -> list[Score]:
        """Scores of the samples that `generate` yields for all prompts; empty where none are
        stored.
        """
        ids = [sample.sample_id for key in self._store.samples for sample in self._kept(key)]
        return [self._store.scores[key] for key in ids if key in self._store.scores]

    def generate(self, prompts: Sequence[Prompt]) -> Iterator[Sample]:
        """The stored samples of these prompts, counted on from `Setting.first_index`; none for an
        unknown prompt.
        """
        for prompt in prompts:
            for index, sample in enumerate(
                self._kept(prompt.prompt_id), start=self._setting.first_index
            ):
                yield replace(sample, index=index)

    def logps(self, rows: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[list[float]]:
        """Raises `StageError`: there is no model."""
        raise StageError("stored samples have no model that could score rows")

    def sync(self, weights: WeightsRef) -> None:
        """Nothing: what is stored stays."""

    def rest(self) -> bool:
        """There is nothing worth keeping."""
        return False

    def close(self) -> None:
        """Nothing is open."""

    def _kept(self, prompt_id: str) -> tuple[Sample, ...]:
        samples = self._store.samples.get(prompt_id, ())
        return samples[: self._options.n] if self._options.n else samples


def _read_runs(path: Path) -> Store | None:
    """Records at or below `path`; None where it is no folder of records."""
    folders = sample_folders(path)
    if not folders:
        return None
    prompts: dict[str, Prompt] = {}
    samples: dict[str, list[Sample]] = {}
    scores: dict[str, Score] = {}
    seen: set[str] = set()
    for folder in folders:
        for prompt in _beside(folder, "prompts", Prompt):
            prompts[prompt.prompt_id] = prompt
        for score in _beside(folder, "scores", Score):
            scores[score.sample_id] = score
        for sample in sorted(read_records(folder, Sample), key=lambda sample: sample.index):
            if sample.sample_id not in seen:
                seen.add(sample.sample_id)
                samples.setdefault(sample.prompt_id, []).append(sample)
    return Store(prompts, {key: tuple(group) for key, group in samples.items()}, scores)


def sample_folders(path: Path) -> list[Path]:
    """The folders of samples that `path` names: itself, its `samples`, or those of all iterations
    of a run.
    """
    if not path.is_dir():
        return []
    if parts(path):
        import pyarrow.parquet as pq

        from align.data.columns import SCHEMAS

        is_samples = pq.read_schema(parts(path)[0]).names == SCHEMAS[Sample].names
        return [path] if is_samples else []
    candidates = [path / "samples", *sorted(path.glob("iter-*/samples"))]
    return [folder for folder in candidates if parts(folder)]


def _beside(folder: Path, name: str, kind: type[Record]) -> list[Record]:
    """Records kept with the samples (stored once more) or in the step beside them."""
    for place in (folder / name, folder.parent / name):
        if parts(place):
            return read_records(place, kind)
    return []


def _check_tokens(path: str, store: Store, weights: WeightsRef, setting: Setting) -> None:
    """Raises `DataError` where the first sample's tokens do not spell its text with the policy's
    tokenizer (I1).
    """
    from align.inference.text import completion_text
    from align.models import load_tokenizer

    tokenizer = load_tokenizer(weights.base, trust_remote_code=setting.trust_remote_code)
    sample = next(iter(store.samples.values()))[0]
    ids = (*sample.prompt_ids, *sample.completion_ids)
    if ids and (
        max(ids) >= len(tokenizer)
        or not completion_text(tokenizer, sample.prompt_ids, sample.completion_ids).startswith(
            sample.text
        )
    ):
        raise DataError(
            f"{path}: the tokens of sample {sample.sample_id} do not spell its text with the "
            f"tokenizer of "
            f"{weights.base}; give the policy that wrote the samples, or rows of text"
        )
