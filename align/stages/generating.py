"""Body of the generate stage: samplers fill `part-*.parquet`, one part a sampler and shard of
prompts.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from align.data.shards import read_records, write_part
from align.generation.protocol import Generator, Sampler, Setting
from align.generation.stored import Stored
from align.progress import Progress, counted_as_work
from align.records import Json, Prompt, Sample, Score, WeightsRef, derive_seed
from align.registry import build
from align.stages.cache import known_samples
from align.stages.engine import Engine, write_restarts
from align.stages.folder import RunFolder
from align.stages.leases import Claims, Lease, LeaseLost, Shard
from align.stages.manifest import Result, write_result
from align.stages.sampling import shards
from align.stages.shares import drawn_for
from align.stages.steps import Step


@dataclass(frozen=True)
class _Source:
    """One sampler of a step."""

    generator: Generator
    setting: Setting
    weights: WeightsRef | None
    """None where stored samples need none."""
    stored: Sampler | None = None
    """Open already where the samples exist."""


@dataclass(frozen=True)
class _Work:
    """A step and what fills it; part i is of source i // len(cut) and shard i % len(cut)."""

    folder: Path
    cut: list[Sequence[Prompt]]
    sources: list[_Source]
    known: dict[str, list[Sample]]
    """By prompt, samples of other runs that are these."""
    shares: Callable[[Sequence[Prompt], int], Sequence[Prompt]]
    """Those of the prompts that a sampler draws for."""

    def shards(self) -> list[Shard]:
        """All parts of the step."""
        return [Shard(self.folder, i) for i in range(len(self.cut) * len(self.sources))]

    def prompts(self, shard: Shard) -> Sequence[Prompt]:
        """Those of one part."""
        number, place = divmod(shard.index, len(self.cut))
        return self.shares(self.cut[place], number)

    def source(self, shard: Shard) -> _Source:
        """The sampler of one part."""
        return self.sources[shard.index // len(self.cut)]


def generate(run: RunFolder, steps: Sequence[Step], engine: Engine, worker: int = 0) -> None:
    """Runs one or more generate steps; workers with other numbers may share them, here or on other
    machines. Returns when all parts are there.

    Stored samples of other prompts than the step's are left out, and counted by every worker alike.
    """
    works = {run.folder(step.name): _prepare(run, step) for step in steps}
    wanted = [shard for work in works.values() for shard in work.shards()]
    bars: dict[Path, Progress] = {}
    with ExitStack() as open_bars:
        for lease in Claims().over(wanted):
            work = works[lease.shard.folder]
            if work.folder not in bars:
                left = [shard for shard in work.shards() if not shard.is_made]
                total = sum(len(work.prompts(shard)) for shard in left)
                bar = Progress(work.folder, "sampling", total=total, unit="prompts", worker=worker)
                bars[work.folder] = open_bars.enter_context(bar)
            try:
                _write_shard(lease, work, engine, bars[work.folder])
            except LeaseLost:
                continue


def _prepare(run: RunFolder, step: Step) -> _Work:
    """Opens what is stored, so that all samplers' samples can be counted on, and writes the scores
    that came with it.
    """
    prompts = read_records(run.input_folder(step, "prompts"), Prompt)
    sections = cast("list[dict[str, Json]]", step.section["samplers"])
    sources: list[_Source] = []
    counts: Counter[str] = Counter()
    first_index = 0
    for number, section in enumerate(sections):
        generator = cast(Generator, build("generator", _options(section)))
        setting = setting_of(run, step.section["seed"], number, first_index)
        if section["name"] == "stored":
            weights = run.weights(step.inputs["policy"]) if "policy" in step.inputs else None
            sampler = cast(Stored, generator).open(weights, setting)
            found = list(sampler.generate(prompts))
            known = {sample.sample_id for sample in found}
            scores = [score for score in sampler.scores() if score.sample_id in known]
            if scores:
                write_part(run.folder(step.name) / "scores", number, scores, Score)
            sources.append(_Source(generator, setting, weights, sampler))
            first_index += max(Counter(sample.prompt_id for sample in found).values(), default=0)
            counts["stored_of_other_prompts"] += sampler.count - len(found)
        else:
            sources.append(_Source(generator, setting, run.weights(step.inputs[_role(section)])))
            first_index += generator.n
    known = known_samples(run.folder(step.name))
    if known:
        counts["prompts_from_cache"] = sum(prompt.prompt_id in known for prompt in prompts)
    if counts:
        write_result(run.folder(step.name), Result(dict(counts)))

    def share(prompts: Sequence[Prompt], number: int) -> Sequence[Prompt]:
        return drawn_for(prompts, sections, number, step.section["seed"])

    return _Work(run.folder(step.name), shards(prompts), sources, known, share)


def _write_shard(lease: Lease, work: _Work, engine: Engine, bar: Progress) -> None:
    source, prompts = work.source(lease.shard), work.prompts(lease.shard)
    number = lease.shard.index // len(work.cut)
    drawn: dict[str, list[Sample]] = {}
    if source.stored is None:
        first = source.setting.first_index
        own = range(first, first + source.generator.n)
        for prompt in prompts:
            known = work.known.get(prompt.prompt_id, [])
            drawn[prompt.prompt_id] = [sample for sample in known if sample.index in own]
    wanted = [prompt for prompt in prompts if not drawn.get(prompt.prompt_id)]
    bar.advance(len(prompts) - len(wanted))
    if wanted:
        sampler = source.stored
        if sampler is None:
            assert source.weights is not None
            sampler = engine.serve(source.generator, source.weights, source.setting)
            write_restarts(lease.shard.folder, engine.take_restarts())
        began, tokens = time.monotonic(), 0
        with counted_as_work(lease.shard.folder):
            for sample in sampler.generate(wanted):
                lease.advance()
                tokens += len(sample.completion_ids)
                group = drawn.setdefault(sample.prompt_id, [])
                if not group:
                    rate = tokens / max(time.monotonic() - began, 1e-9)
                    bar.advance(1, tokens_per_second=rate)
                # Two samplers may have the same weights and temperature, so each signs.
                group.append(sample if len(work.sources) == 1 else _signed(sample, number))
    samples = [sample for prompt in prompts for sample in drawn.get(prompt.prompt_id, [])]
    write_part(lease.shard.folder, lease.shard.index, samples, Sample)


def _signed(sample: Sample, sampler: int) -> Sample:
    known = sample.meta if isinstance(sample.meta, Mapping) else {}
    return replace(sample, meta={**known, "sampler": sampler})


def expected_parts(run: RunFolder, step: Step) -> int:
    """How many parts the finished step holds."""
    prompts = read_records(run.input_folder(step, "prompts"), Prompt)
    samplers = step.section["samplers"] if step.kind == "generate" else [None]
    return len(shards(prompts)) * len(cast("list[object]", samplers))


def setting_of(run: RunFolder, seed: Json, number: int = 0, first_index: int = 0) -> Setting:
    """What sampler `number` of a stage is told beyond its options."""
    policy = run.recipe.policy
    return Setting(
        seed=derive_seed(seed, number),
        first_index=first_index,
        chat_template=policy.chat_template if policy else None,
        dtype=policy.dtype if policy else "float32",
        trust_remote_code=policy.trust_remote_code if policy else False,
    )


def _options(section: Mapping[str, Json]) -> dict[str, object]:
    return {k: v for k, v in section.items() if k not in ("policy", "share")}


def _role(section: Mapping[str, Json]) -> str:
    policy = section.get("policy", "current")
    return "policy" if policy == "current" else f"policy:{policy}"
