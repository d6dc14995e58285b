"""`align doctor --reward RECIPE`: how far a reward can be trusted, through the real worker."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping

from rich.console import Console
from transformers.utils.logging import disable_progress_bar

from align.commands.findings import Finding
from align.commands.reward_findings import (
    judge_batches,
    judge_calibration,
    judge_end_token,
    judge_ends,
    judge_failures,
    judge_golden,
    judge_length,
    judge_pairs,
    judge_space,
    judge_template,
    judge_tokens,
    judge_values,
)
from align.commands.reward_source import (
    RewardSource,
    as_chat,
    labelled_source,
    read_pairs,
    read_source,
)
from align.data.convert import to_demonstrations
from align.data.sources import read_rows
from align.errors import InputError
from align.recipe.sections import Source
from align.recipe.values import is_number
from align.records import Json, Score
from align.rewards import trust
from align.rewards.labelled import said, write_pairs
from align.rewards.protocol import Group, Scorer

FEW = 16
"""Pairs for the checks that score every sample again in other company."""


def examine_reward(args: argparse.Namespace, console: Console) -> list[Finding]:
    """All findings, in the table's order; raises `InputError` where there is nothing to look at."""
    source = read_source(args.reward, args.overrides, args.out)
    cleaned = read_pairs(
        labelled_source(args, source.recipe), seed=source.recipe.run.seed, chat=args.chat
    )
    disable_progress_bar()  # of loading weights: the table is the output
    with console.status("opening the reward"):
        try:
            scorer = source.reward.open()
        except InputError as error:
            return [Finding("opens", "FAIL", str(error), "repair this first; nothing was scored")]
    try:
        with console.status(f"scoring {len(cleaned.rows)} pairs"):
            names = ", ".join(str(section["name"]) for section in source.sections)
            groups = write_pairs(cleaned.rows, source.writer())
            opened = Finding("opens", "ok", f"{names}; its own golden cases hold where it has any")
            golden = [] if args.golden is None else [_golden(args, source, scorer)]
            return [opened, *golden, *_findings(source, scorer, groups)]
    finally:
        scorer.close()


def _findings(source: RewardSource, scorer: Scorer, groups: list[Group]) -> Iterator[Finding]:
    writer, models = source.writer(), source.models()
    scores = trust.score(scorer, groups)
    values, samples = trust.values_of(scores), [s for group in groups for s in group.samples]
    yield from judge_failures(scores)
    for model in models:
        reader = model.reader()
        read = [reader.encode(group.prompt, s) for group in groups for s in group.samples]
        wrong = next((row for row in read if isinstance(row, str)), None)
        if wrong is not None:
            yield Finding(f"tokens of {model.label}", "FAIL", wrong, "set its chat_template")
            continue
        rows = [row for row in read if not isinstance(row, str)]
        yield judge_tokens(model.label, trust.read_tokens(reader.tokenizer, rows))
    if all(value is None for value in values):
        return
    yield judge_values(values)
    yield judge_pairs(values)
    lengths = [sum(sample.loss_mask) for sample in samples]
    yield judge_length(values, lengths)
    yield judge_calibration(values)
    # Only those that have scores: a hanging verifier would hang once more in every check.
    whole = [None not in pair for pair in zip(values[::2], values[1::2], strict=True)]
    few = [group for group, is_whole in zip(groups, whole, strict=True) if is_whole][:FEW]
    if not few:
        return
    before = trust.values_of(trust.score(scorer, few))
    yield judge_batches("batch size", trust.compare(before, trust.one_by_one(scorer, few)))
    yield judge_batches("order", trust.compare(before, trust.in_reverse(scorer, few)))
    beside = trust.beside_a_long_one(scorer, few, writer)
    yield judge_batches("padding", trust.compare(before, beside))
    yield judge_space(trust.compare(before, trust.with_trailing_space(scorer, few, writer)))
    cut = trust.compare(before, trust.without_end_token(scorer, few, writer))
    yield judge_end_token(cut, reads_tokens=not all(model.is_encoder for model in models))
    if models:
        texts = few[0].samples[0].text, few[0].samples[1].text
        yield from judge_ends(trust.read_ends(scorer, few[0].prompt, texts, writer))
        yield from _template(source, few, before)


def _template(source: RewardSource, groups: list[Group], before: trust.Values) -> Iterator[Finding]:
    """Scores again with every model's chat template replaced by another."""
    if not any(map(_takes_template, source.sections)):
        return
    if any(turn.get("role") == "text" for group in groups for turn in group.prompt.messages):
        yield Finding("chat template", "ok", "not used: the prompts are plain text")
        return
    changed = tuple(
        {**section, "chat_template": "plain" if section["chat_template"] != "plain" else "chatml"}
        if _takes_template(section)
        else section
        for section in source.sections
    )
    other = RewardSource(source.recipe, changed, source.own, source.policy).reward.open()
    try:
        after = trust.values_of(trust.score(other, groups))
    finally:
        other.close()
    yield judge_template(before, after)


def _takes_template(section: Mapping[str, Json]) -> bool:
    """Whether it can be opened a second time with another one: of a model that vLLM serves there is
    room for one.
    """
    is_served = section["name"] == "served_reward_model" and section.get("path") is not None
    return "chat_template" in section and not is_served


def _golden(args: argparse.Namespace, source: RewardSource, scorer: Scorer) -> Finding:
    """Rows of prompt, completion, score (and answer) through the opened reward."""
    writer, expected, got = source.writer(), list[float](), list[Score]()
    for row in read_rows(Source(path=args.golden, shuffle=False), seed=0):
        value = row.values.get("score")
        if not is_number(value):
            raise row.fault("a golden case has a prompt, a completion and its score, a number")
        cleaned = to_demonstrations([as_chat(row) if args.chat else row])
        if not cleaned.rows:
            raise row.fault("a golden case has a prompt and a completion that say something")
        case = cleaned.rows[0]
        got += trust.score(scorer, [writer.write(case.prompt, [said(case.completion)])])
        expected.append(float(value))
    return judge_golden(expected, got)
