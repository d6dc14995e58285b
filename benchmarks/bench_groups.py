"""Policy gradient on prompt groups: a prompt once for all its completions against a row for each.

    python benchmarks/bench_groups.py
    python benchmarks/bench_groups.py --shapes 8/256/64 2/256/64 --repeats 9 --save groups

A shape is completions / prompt tokens / completion tokens. A Llama of 10 million parameters makes a
forward and a backward over so many groups at once in float32, in three ways that take turns:
`padded rows` is the model's own forward on right-padded rows, as one would write it with
transformers (logits of completions only); `rows` and `groups` are this project's two layouts. The
seconds are medians, of the process's own time on all cores (what other processes take does not
count); each ratio is against the padded rows of the same run. With `--save NAME` the table goes to
`benchmarks/results/NAME.md` too.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from recording import machine, record
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from align.inference.cost import Cost, cut_lines
from align.inference.head import forward_packed, install_head
from align.inference.packing import TokenRow, pack_rows

SHAPES = ("8/256/64", "8/512/64", "2/256/64", "8/32/32", "2/32/32")
AGREE = 1e-4
"""Relative difference of the gradients at which the comparison is void."""


@dataclass(frozen=True)
class Shape:
    """So many completions of a prompt, and their lengths in tokens."""

    completions: int
    prompt: int
    completion: int


def main() -> int:
    args = _parse()
    model = _make_model(args.vocabulary)
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    lines = [f"`{' '.join(['python', *sys.argv])}`", ""]
    columns = (
        "n / prompt / completion",
        "groups",
        "padded rows",
        "rows",
        "groups",
        "rows : padded",
        "groups : padded",
        "gradient",
    )
    lines += [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    for text in args.shapes:
        shape = Shape(*map(int, text.split("/")))
        groups = max(1, args.tokens // (shape.completions * (shape.prompt + shape.completion)))
        lines.append(_measure(model, shape, groups, args.repeats))
        print(lines[-1], flush=True)
    lines += [
        "",
        f"Llama of {millions:.1f} million parameters (vocabulary {args.vocabulary}), float32, "
        f"{torch.get_num_threads()} threads: forward and backward of so many groups, CPU seconds, "
        f"median of {args.repeats} turns.",
        machine(),
    ]
    record(lines, args.save)
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shapes", nargs="+", default=SHAPES)
    parser.add_argument("--tokens", type=int, default=5_120, help="tokens of the padded rows")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--vocabulary", type=int, default=8_192)
    parser.add_argument("--save", help="name of the file under benchmarks/results")
    return parser.parse_args()


def _make_model(vocabulary: int) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=320,
        intermediate_size=864,
        num_hidden_layers=6,
        num_attention_heads=5,
        num_key_value_heads=5,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        pad_token_id=0,
    )
    model = LlamaForCausalLM(config).train()
    install_head(model)
    return model


def _measure(model: LlamaForCausalLM, shape: Shape, groups: int, repeats: int) -> str:
    rows = _rows(shape, groups, model.config.vocab_size)
    advantages = torch.randn(len(rows), generator=torch.Generator().manual_seed(1))
    cost = Cost.of(model.config)
    ways: dict[str, Callable[[], Tensor]] = {
        "padded rows": partial(_padded, model, rows, advantages),
        "rows": partial(_packed, model, rows, advantages, None),
        "groups": partial(_packed, model, rows, advantages, cost),
    }
    gradients = {name: _gradient(model, loss) for name, loss in ways.items()}
    expected = gradients["padded rows"]
    gap = max(float((found - expected).norm() / expected.norm()) for found in gradients.values())
    if gap > AGREE:
        raise SystemExit(f"the gradients of {shape} differ by {gap:.1e}: nothing to compare")
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, loss in ways.items():
            begin = time.process_time()
            loss().backward()
            seconds[name].append(time.process_time() - begin)
            model.zero_grad()
    middle = {name: statistics.median(values) for name, values in seconds.items()}
    cells = [f"{shape.completions} / {shape.prompt} / {shape.completion}", str(groups)]
    cells += [f"{middle[name]:.2f}" for name in ways]
    cells += [f"{middle['padded rows'] / middle[name]:.2f}" for name in ("rows", "groups")]
    return f"| {' | '.join([*cells, f'{gap:.0e}'])} |"


def _rows(shape: Shape, groups: int, vocabulary: int) -> list[TokenRow]:
    """Prompts and completions of up to a fifth less than the shape's lengths."""
    generator = torch.Generator().manual_seed(0)

    def draw(longest: int) -> list[int]:
        length = int(torch.randint(longest - longest // 5, longest + 1, (), generator=generator))
        return torch.randint(3, vocabulary, (length,), generator=generator).tolist()

    rows: list[TokenRow] = []
    for _ in range(groups):
        prompt = draw(shape.prompt)
        rows += [TokenRow(prompt, draw(shape.completion)) for _ in range(shape.completions)]
    return rows


def _packed(
    model: LlamaForCausalLM, rows: list[TokenRow], advantages: Tensor, cost: Cost | None
) -> Tensor:
    outputs = forward_packed(model, pack_rows(rows, cut_lines(rows, cost), 0))
    return -(advantages * outputs.logps.sum(-1)).mean()


def _padded(model: LlamaForCausalLM, rows: list[TokenRow], advantages: Tensor) -> Tensor:
    length = max(len(row) for row in rows)
    ids = torch.zeros((len(rows), length), dtype=torch.long)
    mask = torch.zeros((len(rows), length), dtype=torch.long)
    is_completion = torch.zeros((len(rows), length), dtype=torch.bool)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = torch.tensor([*row.prompt_ids, *row.completion_ids])
        mask[index, : len(row)] = 1
        is_completion[index, len(row.prompt_ids) : len(row)] = True
    first = min(len(row.prompt_ids) for row in rows) - 1
    outputs = model(
        input_ids=ids, attention_mask=mask, use_cache=False, logits_to_keep=length - first
    )
    logps = outputs.logits[:, :-1].float().log_softmax(-1)
    taken = logps.gather(-1, ids[:, first + 1 :, None]).squeeze(-1)
    sums = torch.where(is_completion[:, first + 1 :], taken, 0.0).sum(-1)
    return -(advantages * sums).mean()


def _gradient(model: LlamaForCausalLM, loss: Callable[[], Tensor]) -> Tensor:
    loss().backward()
    found = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    model.zero_grad()
    return found


if __name__ == "__main__":
    raise SystemExit(main())
