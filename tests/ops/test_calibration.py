"""Scores as log-odds: loss, calibration error and best scale of small sets of gaps."""

from __future__ import annotations

import math

import pytest

from align.ops.calibration import best_scale, calibration_error, log_loss


def test_log_loss_is_the_bradley_terry_loss() -> None:
    """ALGORITHMS 2.1: 1.2 and 0.5 -> 0.403186; no gap: ln 2; a large wrong gap: its size."""
    assert log_loss([1.2 - 0.5]) == pytest.approx(0.403186, abs=1e-6)
    assert log_loss([0.0, 0.0]) == pytest.approx(math.log(2))
    assert log_loss([-1e4]) == pytest.approx(1e4)
    assert log_loss([1.4], 0.5) == pytest.approx(0.403186, abs=1e-6)


def test_calibration_error_of_sure_and_wrong_pairs() -> None:
    """Gaps +-1 (confidence 0.731059), three right of four: |3 - 4 * 0.731059| / 4 = 0.018941.
    With one pair at 0 (0.5, half right) beside them: 4 / 5 of that.
    """
    assert calibration_error([1.0, 1.0, 1.0, -1.0]) == pytest.approx(0.018941, abs=1e-6)
    assert calibration_error([1.0, 1.0, 0.0, 1.0, -1.0]) == pytest.approx(0.0151528, abs=1e-6)
    assert calibration_error([1e4, -1e4]) == pytest.approx(0.5)


def test_best_scale_of_unit_gaps_is_the_log_odds_of_being_right() -> None:
    """Three of four right: ln 3, and half of it where the gaps are twice as large."""
    assert best_scale([1.0, 1.0, 1.0, -1.0]) == pytest.approx(math.log(3), abs=1e-9)
    assert best_scale([2.0, 2.0, 2.0, -2.0]) == pytest.approx(math.log(3) / 2, abs=1e-9)


def test_best_scale_of_useless_and_of_perfect_scores() -> None:
    assert best_scale([1.0, -1.0]) == 0.0 and best_scale([-1.0]) == 0.0
    assert best_scale([0.1, 2.0]) == math.inf
