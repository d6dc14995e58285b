from __future__ import annotations

import math
from pathlib import Path

import pytest

from align.errors import NumericsError
from align.inference.probe import check_probe, read_probe, verify_probe, write_probe

ROWS = [((1, 2), (3, 4, 5)), ((1,), (6,))]
LOGPS = [[-1.0, -2.0, -3.0], [-0.5]]


def _shifted(by: float) -> list[list[float]]:
    return [[value + by for value in row] for row in LOGPS]


def test_a_probe_reads_back_as_it_was_written(tmp_path: Path) -> None:
    assert read_probe(tmp_path) is None
    write_probe(tmp_path, ROWS, LOGPS)
    probe = read_probe(tmp_path)
    assert probe is not None
    assert probe.rows == (((1, 2), (3, 4, 5)), ((1,), (6,)))
    assert probe.logps == ((-1.0, -2.0, -3.0), (-0.5,))


def test_rows_are_cut_to_the_context_with_their_logps(tmp_path: Path) -> None:
    write_probe(tmp_path, ROWS, LOGPS)
    probe = read_probe(tmp_path)
    assert probe is not None
    assert probe.fit(4).rows == (((1, 2), (3, 4)), ((1,), (6,)))
    assert probe.fit(4).logps == ((-1.0, -2.0), (-0.5,))
    assert probe.fit(2).rows == (((1,), (6,)),)


@pytest.mark.parametrize("logps", [[[-1.0, math.nan, -3.0], [-0.5]], [[-1.0], [-0.5]]])
def test_a_probe_that_cannot_be_right_is_refused(tmp_path: Path, logps: list[list[float]]) -> None:
    with pytest.raises(NumericsError, match="probe row 0 has 3 tokens"):
        write_probe(tmp_path, ROWS, logps)


@pytest.mark.parametrize(
    ("gap", "dtype", "cold", "is_miss"),
    [
        (0.9e-4, "float32", None, False),
        (1.1e-4, "float32", None, True),
        (1.1e-4, "float32", 0.5, True),  # float32 knows one bound only
        (0.04, "bfloat16", None, False),
        (1.1, "bfloat16", None, True),
        (0.039, "bfloat16", 0.02, False),  # at most twice the first start's
        (0.041, "bfloat16", 0.02, True),
        (0.0019, "bfloat16", 0.0, False),  # a first start that agreed exactly
        (math.nan, "float32", None, True),
        (math.nan, "bfloat16", 0.1, True),
    ],
)
def test_bounds_of_the_mismatch(gap: float, dtype: str, cold: float | None, is_miss: bool) -> None:
    found = check_probe(_shifted(gap), LOGPS, dtype, cold)
    assert found.is_miss == is_miss
    assert found.tokens == 4
    if not math.isnan(gap):
        assert found.largest == pytest.approx(gap) and found.mean == pytest.approx(gap)


def test_a_miss_restarts_once_and_then_fails(tmp_path: Path) -> None:
    write_probe(tmp_path, ROWS, LOGPS)
    restarts: list[float] = []

    def verify(answers: list[list[list[float]]]) -> object:
        return verify_probe(
            tmp_path,
            lambda rows: answers.pop(0),
            lambda miss: restarts.append(miss.largest),
            dtype="float32",
            max_tokens=10,
        )

    assert verify([LOGPS]) is not None and restarts == []
    assert verify([_shifted(1), LOGPS]) is not None and restarts == [pytest.approx(1.0)]
    with pytest.raises(NumericsError, match=r"differ from the trainer's by 1 nats"):
        verify([_shifted(2), _shifted(1)])
    assert restarts == [pytest.approx(1.0), pytest.approx(2.0)]


def test_a_checkpoint_without_a_probe_is_not_verified(tmp_path: Path) -> None:
    assert (
        verify_probe(tmp_path, lambda rows: [], lambda miss: None, dtype="float32", max_tokens=10)
        is None
    )
