import pytest
import torch
from accelerate import Accelerator

from align.inference.packing import single_lines
from align.ops.batch import LossOutput, PolicyOutputs, Ratio, Term
from align.training.batches import MicroBatch, TrainingData, collate, filler
from align.training.metrics import (
    TOKENS,
    Metrics,
    constants_for_first_log,
    describe,
    measures_entropy,
)
from tests.training.material import make_samples


def micro_of(items: list[int], *, is_filler: bool = False) -> MicroBatch:
    """Of two samples, a prompt of 3 tokens before completions of 2 and 4."""
    samples = []
    for sample, width in zip(make_samples(1), (2, 4), strict=True):
        ids = tuple(range(4, 4 + width))
        values = {"completion_ids": ids, "loss_mask": (1,) * width, "prompt_ids": (1, 5, 6)}
        samples.append(type(sample)(**{**_fields(sample), **values}))
    refs = [torch.full((2,), -1.0), torch.full((4,), -1.0)]
    data = TrainingData(samples, tempered=False, ref_logps=refs)
    if is_filler:
        return filler(data, items[0], data.count([0, 1]), 0)
    return collate(data, items, data.count([0, 1]), 0, lambda rows: single_lines(len(rows)))


def _fields(sample: object) -> dict[str, object]:
    return {name: getattr(sample, name) for name in type(sample).__slots__}


def outputs_of(micro: MicroBatch, value: float) -> PolicyOutputs:
    assert micro.batch.mask is not None
    return PolicyOutputs(torch.where(micro.batch.mask, value, 0.0))


NOTHING = LossOutput((Term(torch.zeros(1), "sequence"),))


def test_averages_are_over_all_micro_batches_and_fillers_add_only_padding() -> None:
    """Log-ratios: rows of 2 and 4 tokens, .5 a token, in one batch (mean of 1 and 2), then the
    first row alone (1): (1 + 2 + 1) / 3. A completion's last token is not forwarded, it predicts
    nothing: 4 + 6 places of 12, then 4 of 4, then a filler of 1: 17 computed, 14 needed.
    """
    metrics = Metrics()
    metrics.begin()
    for items, is_filler in (([0, 1], False), ([0], False), ([1], True)):
        micro = micro_of(items, is_filler=is_filler)
        metrics.add(NOTHING, outputs_of(micro, -0.5), micro.batch, micro)
    found = metrics.take(Accelerator(cpu=True))
    assert found["log_ratio/reference"] == pytest.approx(4 / 3)
    assert found["padding_share"] == pytest.approx(3 / 17)
    assert found[TOKENS] > 14
    assert metrics.take(Accelerator(cpu=True)) == {}


def test_names_of_the_field_come_from_the_batch_and_never_overrule_the_objective() -> None:
    """Entropy a token: 2 over all six tokens."""
    micro = micro_of([0, 1])
    assert micro.batch.mask is not None
    outputs = PolicyOutputs(
        torch.where(micro.batch.mask, -0.5, 0.0), entropy=torch.where(micro.batch.mask, 2.0, 0.0)
    )
    own = Ratio(torch.tensor([3.0]), torch.tensor([1.0]))
    found = describe(LossOutput(NOTHING.terms, {"entropy": own}), outputs, micro.batch)
    assert found["entropy"] is own
    entropy = describe(NOTHING, outputs, micro.batch)["entropy"]
    assert isinstance(entropy, torch.Tensor)
    assert entropy[~entropy.isnan()].tolist() == [2.0] * 6
    assert "logps/chosen" not in found


def test_entropy_is_measured_at_every_tenth_step() -> None:
    assert [step for step in range(25) if measures_entropy(step)] == [0, 10, 20]


def test_constants_are_logged_once() -> None:
    assert constants_for_first_log([], {"a": 1.0}) == {"a": 1.0}
    assert constants_for_first_log([{"loss": 0.5}], {"a": 1.0}) == {}
