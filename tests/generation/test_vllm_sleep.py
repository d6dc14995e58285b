"""A vLLM engine that sleeps between stages, which only CUDA engines can."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from align.generation.vllm import Vllm
from align.records import WeightsRef
from align.stages.engine import Engine
from tests.generation.conftest import PROMPTS, SETTING

pytestmark = [pytest.mark.vllm, pytest.mark.gpu]


def test_a_sleeping_engine_frees_the_device_and_draws_the_same_when_it_wakes(
    stories: WeightsRef, tmp_path: Path
) -> None:
    """Asleep it leaves at least the cache's share of the device; awake it draws what it drew."""
    options = Vllm(n=2, max_new_tokens=20, engine={"gpu_memory_utilization": 0.3})
    engine = Engine(tmp_path / "engine.log", stays=True)
    first = list(engine.serve(options, stories, SETTING).generate(PROMPTS))
    awake, total = torch.cuda.mem_get_info()
    assert engine.rest()
    asleep, _ = torch.cuda.mem_get_info()
    assert asleep - awake > 0.2 * total
    again = list(engine.serve(options, stories, SETTING).generate(PROMPTS))
    notes = [note.rpartition(" in ")[0] for note in engine.take_notes()]
    engine.close()
    assert notes == ["engine started", "weights synced"]
    assert [sample.completion_ids for sample in again] == [s.completion_ids for s in first]
