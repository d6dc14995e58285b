"""How a policy job lays its rows out, and how it cuts its steps into forwards."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from transformers import PreTrainedConfig

from align.inference.agreement import Layout, find_layout, probe_rows
from align.inference.cost import Cost, cut_lines
from align.inference.head import core
from align.inference.packing import Line, TokenRow, by_prompt
from align.recipe.sections import Train
from align.training.arguments import batch_shape
from align.training.batches import Cutter, TrainingData
from align.training.checkpoints import load_policy
from align.training.forwards import Schedule, cut_by_size, cut_by_tokens
from align.training.job import Job

MICRO_BATCH_TOKENS = 16_384
"""Tokens of a forward where the recipe does not say: with gradient checkpointing about 5 GB of
activations for a 7B model, and what two CPU cores gain nothing beyond.
"""


def choose_layout(
    job: Job, section: Train, state: PartialState, data: TrainingData, pad_id: int
) -> tuple[Layout, Cutter]:
    """The layout in which the policy's log-probs are right, and what lays rows out by it; every
    rank calls it and all choose alike.

    The weights are loaded whole for it, before any wrapper divides them.
    """
    device = torch.device(state.device or "cpu")
    model = load_policy(job.policy, job.policy_section, device=device)
    rows = [data.row(index) for index in range(len(data.samples))]
    own = find_layout(model, probe_rows(rows), pad_id, shares_prompts=section.layout != "rows")
    votes: list[Layout] = gather_object([own])
    order: tuple[Layout, ...] = ("plain", "rows", "groups")
    layout = min(votes, key=order.index)
    if layout != "groups":
        return layout, partial(cut_lines, cost=None)
    return layout, group_cutter(core(model).config, section)


def group_cutter(config: PreTrainedConfig, section: Train) -> Cutter:
    """Lays groups out: by cost, or where the recipe asks for groups always together."""
    if config._attn_implementation == "flex_attention":
        # blocks that no completion shares are skipped, so one line holds all groups of a forward
        return _one_line
    cost = Cost.of(config) if section.layout == "auto" else Cost(0.0, 0.0)
    return partial(cut_lines, cost=cost)


def _one_line(rows: Sequence[TokenRow]) -> list[Line]:
    return [by_prompt(rows)]


def cut_steps(
    job: Job,
    section: Train,
    world: int,
    data: TrainingData,
    steps: Sequence[Sequence[int]],
    cut: Cutter,
) -> Schedule:
    """The steps in forwards: by `micro_batch_size` where the recipe gives it, else by tokens."""
    if section.micro_batch_size is not None:
        return cut_by_size(steps, batch_shape(job, world))
    budget = section.micro_batch_tokens or MICRO_BATCH_TOKENS
    return cut_by_tokens(
        steps, data.prompts(), lambda items: data.measure(items, cut), budget, world
    )
