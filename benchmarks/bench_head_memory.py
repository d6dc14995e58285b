"""Peak memory of the loss's last part: from hidden states to log-probs of completion tokens, and
back.

    python benchmarks/bench_head_memory.py
    python benchmarks/bench_head_memory.py --naive --save head_memory     # needs about 8 GB

In processes of their own, the growth of resident memory over what hidden states, weights and their
gradients take: `chunks` is `align.inference.head.token_values` as a trainer calls it, `naive` the
same with all logits at once. Both are compared with the bytes of the logits in float32.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import sys
import time
from pathlib import Path

import torch
from recording import machine, record

from align.inference.head import CHUNK_LOGITS, LogitRule, token_values

PAGE = resource.getpagesize()


def main() -> int:
    args = _parse()
    logits = args.tokens * args.vocabulary * 4
    ways = ["chunks", *(["naive"] if args.naive else [])]
    lines = [f"`{' '.join(['python', *sys.argv])}`", ""]
    lines += [
        "| way | calls of the head | peak | of the float32 logits | CPU seconds |",
        "|---|---|---|---|---|",
    ]
    for way in ways:
        chunks = 1 if way == "naive" else -(-args.tokens // (CHUNK_LOGITS // args.vocabulary))
        grown, seconds = _in_own_process(args.vocabulary, args.tokens, args.width, chunks)
        lines.append(
            f"| {way} | {chunks} | {grown / 1e6:.0f} MB | {grown / logits:.3f} | {seconds:.1f} |"
        )
    lines += [
        "",
        f"{args.tokens} completion tokens, vocabulary {args.vocabulary}, width {args.width}: "
        f"the logits alone are {logits / 1e6:.0f} MB in float32.",
        machine(),
    ]
    record(lines, args.save)
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--vocabulary", type=int, default=150_000)
    parser.add_argument("--tokens", type=int, default=4_096)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--naive", action="store_true", help="measure the naive way too")
    parser.add_argument("--save", help="name of the file under benchmarks/results")
    return parser.parse_args()


def _in_own_process(vocabulary: int, tokens: int, width: int, chunks: int) -> tuple[int, float]:
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(_grow, (vocabulary, tokens, width, chunks))


def _grow(vocabulary: int, tokens: int, width: int, chunks: int) -> tuple[int, float]:
    """Bytes by which resident memory grows at most, and seconds."""
    torch.manual_seed(0)
    head = torch.nn.Linear(width, vocabulary, bias=False)
    head.weight.grad = torch.zeros_like(head.weight)
    hidden = torch.randn(tokens, width, requires_grad=True)
    hidden.grad = torch.zeros_like(hidden)
    targets = torch.randint(vocabulary, (tokens,))
    # kernels and the allocator are loaded before the count begins
    token_values(head, hidden[:4], targets[:4], None, LogitRule())["logps"].sum().backward()
    before = int(Path("/proc/self/statm").read_text().split()[1]) * PAGE
    begin = time.process_time()
    found = token_values(head, hidden, targets, None, LogitRule(), chunks=chunks)
    found["logps"].sum().backward()
    seconds = time.process_time() - begin
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before, seconds


if __name__ == "__main__":
    raise SystemExit(main())
