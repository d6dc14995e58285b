"""Scores of a reward model for prompt groups against transformers' text-classification pipeline.

    python benchmarks/bench_score.py
    python benchmarks/bench_score.py --shapes 8/256/64 2/256/64 --repeats 9 --save score

A shape is completions / prompt tokens / completion tokens. A Llama classifier in float32 scores the
same texts in two ways that take turns: `pipeline` is `pipeline("text-classification")` at each of
the batch sizes given, the best of which counts; `reward_model` is this project's reward at its
default batch size, from texts too (it renders and tokenises them). The seconds are the least of all
turns, of the process's own time on all cores and by the clock: what other processes take can only
add to them. Scores must agree within 1e-5 with the pipeline's, and with themselves at other batch
sizes and in another order, else there is nothing to compare. With `--save NAME` the table goes to
`benchmarks/results/NAME.md` too.
"""

from __future__ import annotations

import argparse
import random
import string
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from recording import machine, record
from transformers import (
    LlamaConfig,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
    pipeline,
)
from transformers.utils.logging import disable_progress_bar, set_verbosity_error

from align.data.characters import make_character_tokenizer
from align.records import Prompt
from align.rewards.labelled import Writer
from align.rewards.protocol import Group
from align.rewards.reward_model import RewardModel

SHAPES = ("8/256/64", "2/256/64", "8/512/64", "8/32/32")
AGREE = 1e-5
LETTERS = string.ascii_letters + string.digits + " .,:;!?"


@dataclass(frozen=True)
class Shape:
    """So many completions of a prompt, and their lengths in tokens, end token included."""

    completions: int
    prompt: int
    completion: int


@dataclass
class Least:
    """The least seconds of all turns."""

    cpu: float = float("inf")
    wall: float = float("inf")

    def take(self, score: Callable[[], list[float]]) -> list[float]:
        """Runs `score` once and returns what it gave."""
        cpu, wall = time.process_time(), time.perf_counter()
        scores = score()
        self.wall = min(self.wall, time.perf_counter() - wall)
        self.cpu = min(self.cpu, time.process_time() - cpu)
        return scores


def main() -> int:
    args = _parse()
    torch.set_num_threads(args.threads)
    disable_progress_bar()
    set_verbosity_error()  # the pipeline advises to use a data set on GPUs
    with tempfile.TemporaryDirectory() as folder:
        tokenizer, millions = _make_model(Path(folder))
        lines = [f"`{' '.join(['python', *sys.argv])}`", ""]
        columns = (
            "n / prompt / completion",
            "groups",
            "pipeline, CPU s",
            "reward_model, CPU s",
            "ratio, CPU",
            "ratio, clock",
            "largest difference",
            "batch and order",
        )
        lines += [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
        for text in args.shapes:
            shape = Shape(*map(int, text.split("/")))
            lines.append(_measure(Path(folder), tokenizer, shape, args))
            print(lines[-1], flush=True)
    lines += [
        "",
        f"Llama classifier of {millions:.1f} million parameters, float32, "
        f"{torch.get_num_threads()} threads: seconds to score so many groups, the least of "
        f"{args.repeats} turns; the pipeline at the best of the batch sizes "
        f"{', '.join(map(str, args.batch_sizes))}, whose own is in brackets. Differences are of "
        "scores: to the pipeline's, and between batch sizes 1, 16, 64 and the reverse order.",
        machine(),
    ]
    record(lines, args.save)
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shapes", nargs="+", default=SHAPES)
    parser.add_argument("--tokens", type=int, default=5_120, help="tokens of all texts")
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[8, 32])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2, help="1 where the machine is busy")
    parser.add_argument("--save", help="name of the file under benchmarks/results")
    return parser.parse_args()


def _make_model(folder: Path) -> tuple[PreTrainedTokenizerFast, float]:
    """Writes model and tokenizer; a character is a token, so that lengths are known."""
    tokenizer = make_character_tokenizer(LETTERS, max_length=4096)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=320,
        intermediate_size=864,
        num_hidden_layers=6,
        num_attention_heads=5,
        num_key_value_heads=5,
        max_position_embeddings=4096,
        pad_token_id=tokenizer.pad_token_id,
        num_labels=1,
    )
    model = LlamaForSequenceClassification(config)
    model.save_pretrained(folder)
    return tokenizer, sum(p.numel() for p in model.parameters()) / 1e6


def _measure(
    folder: Path, tokenizer: PreTrainedTokenizerFast, shape: Shape, args: argparse.Namespace
) -> str:
    count = max(1, args.tokens // (shape.completions * (shape.prompt + shape.completion)))
    groups = _make_groups(shape, count)
    texts = [_text(tokenizer, group, place) for group in groups for place in range(len(group[1]))]
    written = [Writer(tokenizer).write(*group) for group in groups]
    classify = pipeline(
        "text-classification",
        model=LlamaForSequenceClassification.from_pretrained(folder),
        tokenizer=tokenizer,
        function_to_apply="none",
    )
    config = RewardModel(path=str(folder))
    scorer = config.open()

    def peer(size: int) -> list[float]:
        return [float(found["score"]) for found in classify(texts, batch_size=size)]

    ours, theirs = Least(), {size: Least() for size in args.batch_sizes}
    expected, scores = peer(args.batch_sizes[0]), _values(scorer.score(written))  # warm
    for _ in range(args.repeats):
        scores = ours.take(lambda: _values(scorer.score(written)))
        for size, least in theirs.items():
            expected = least.take(lambda size=size: peer(size))
    gap = _gap(scores, expected, "the pipeline's")
    spread = max(_gap(scores, other, "their own") for other in _others(config, written))
    size = min(theirs, key=lambda size: theirs[size].cpu)
    best = theirs[size]
    wall = min(least.wall for least in theirs.values())
    cells = [f"{shape.completions} / {shape.prompt} / {shape.completion}", str(count)]
    cells += [f"{best.cpu:.2f} ({size})", f"{ours.cpu:.2f}"]
    cells += [f"{best.cpu / ours.cpu:.2f}", f"{wall / ours.wall:.2f}"]
    return f"| {' | '.join([*cells, f'{gap:.0e}', f'{spread:.0e}'])} |"


def _make_groups(shape: Shape, count: int) -> list[tuple[Prompt, list[str]]]:
    """Prompts and completions of up to a fifth less than the shape's lengths."""
    rng = random.Random(0)

    def draw(longest: int) -> str:
        return "".join(rng.choices(LETTERS, k=rng.randint(longest - longest // 5, longest)))

    return [
        (
            Prompt.of(draw(shape.prompt)),
            [draw(shape.completion - 1) for _ in range(shape.completions)],
        )
        for _ in range(count)
    ]


def _text(tokenizer: PreTrainedTokenizerFast, group: tuple[Prompt, list[str]], place: int) -> str:
    """What the reward model reads, as one text."""
    return f"{group[0].messages[0]['content']}{group[1][place]}{tokenizer.eos_token}"


def _values(scores: Sequence[Sequence[object]]) -> list[float]:
    return [float(one.value) for group in scores for one in group]


def _others(config: RewardModel, groups: list[Group]) -> list[list[float]]:
    """The scores in other batches, and with groups and samples in reverse order."""
    found = [_values(replace(config, batch_size=size).open().score(groups)) for size in (1, 16, 64)]
    turned = [Group(group.prompt, group.samples[::-1]) for group in reversed(groups)]
    return [*found, _values(config.open().score(turned))[::-1]]


def _gap(scores: Sequence[float], others: Sequence[float], whose: str) -> float:
    gap = max(abs(one - other) for one, other in zip(scores, others, strict=True))
    if gap > AGREE:
        raise SystemExit(f"scores differ from {whose} by {gap:.1e}: nothing to compare")
    return gap


if __name__ == "__main__":
    raise SystemExit(main())
