import copy
import math

import pytest
import torch

from align.errors import LaunchMismatch, NumericsError
from align.training.guards import (
    check_all_finite,
    check_finite,
    check_processes,
    join_launch,
    parameter_hash,
)


def test_check_processes_notices_a_lone_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two were launched, this one runs alone: STACK.md's silent lone ranks."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(
        LaunchMismatch, match="2 processes were launched but this one trains with 1"
    ):
        check_processes(1)


def test_check_processes_notices_another_number_than_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with pytest.raises(LaunchMismatch, match="4 processes were asked for but 1 run"):
        check_processes(1, 4)
    check_processes(1, 1)


@pytest.mark.skipif(torch.cuda.is_available(), reason="FSDP2 is applied on a GPU")
def test_join_launch_refuses_fsdp_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(LaunchMismatch, match="FSDP2 is never applied on the CPU"):
        join_launch()


def test_parameter_hash_sees_one_bit_and_one_swap() -> None:
    model = torch.nn.Linear(4, 3)
    other = copy.deepcopy(model)
    assert parameter_hash(model, sharded=False) == parameter_hash(other, sharded=False)
    with torch.no_grad():
        other.weight[0, 0] = torch.nextafter(other.weight[0, 0], torch.tensor(9.0))
    assert parameter_hash(model, sharded=False) != parameter_hash(other, sharded=False)
    swapped = copy.deepcopy(model)
    with torch.no_grad():
        swapped.weight[[0, 1]] = swapped.weight[[1, 0]]
    assert parameter_hash(model, sharded=False) != parameter_hash(swapped, sharded=False)


def test_check_finite_names_the_rows() -> None:
    check_finite(torch.tensor(1.0), "the loss", ["a"])
    with pytest.raises(NumericsError, match="the loss is nan on the rows a, b"):
        check_finite(torch.tensor(float("nan")), "the loss", ["a", "b"])


def test_log_probs_that_are_not_finite_name_their_rows() -> None:
    values = [torch.tensor([-1.0]), torch.tensor([-1.0, math.nan]), torch.tensor([-math.inf])]
    check_all_finite(values[:1], "reference log-probs", ["a"])
    with pytest.raises(NumericsError, match=r"reference log-probs of 2 of 3 rows .* \(b, c\)"):
        check_all_finite(values, "reference log-probs", ["a", "b", "c"])
