"""Which rows of earlier iterations are trained on again."""

from __future__ import annotations

import pytest

from align.records import Pair, Sample, Score
from align.stages.history import Rows, thin


def _rows(name: str, prompts: int, each: int, *, paired: bool = True) -> Rows:
    """`each` pairs a prompt, or 2 * `each` samples without pairs."""
    rows = Rows()
    for number in range(prompts):
        samples = [
            Sample(
                sample_id=f"{name}{number}-{index}",
                prompt_id=f"{name}{number}",
                index=index,
                policy="",
                prompt_ids=(1,),
                completion_ids=(index,),
                loss_mask=(1,),
                logps=None,
                text="",
                finish="stop",
            )
            for index in range(2 * each)
        ]
        ids = [sample.sample_id for sample in samples]
        rows.samples += samples
        rows.scores += [Score(one, 1.0) for one in ids]
        if paired:
            rows.pairs += [Pair(one, other) for one, other in zip(ids[::2], ids[1::2], strict=True)]
    return rows


@pytest.mark.parametrize(
    ("share", "kept"),
    [(0.5, 12), (0.25, 4), (0.2, 3), (0.9, 20), (0.6, 18), (0.3, 5), (0.1, 1), (0.05, 0)],
    # 12 new pairs: share s allows 12 s / (1 - s) old ones, of which there are 20; 5.14, 1.33, 0.63
)
def test_share_of_single_pairs_is_met(share: float, kept: int) -> None:
    past = [_rows("a", 10, 1), _rows("b", 10, 1)]
    found = thin(past, 12, share, seed=1)
    assert sum(rows.items() for rows in found) == kept
    for rows in found:
        paired = {one for pair in rows.pairs for one in (pair.chosen, pair.rejected)}
        assert {sample.sample_id for sample in rows.samples} == paired
        assert {score.sample_id for score in rows.scores} == paired


def test_prompts_stay_whole_and_the_share_is_not_passed() -> None:
    """Groups of 3 pairs, 4 wanted: one group. Of groups of 4 samples, 9 wanted: two groups."""
    (pairs,) = thin([_rows("a", 5, 3)], 12, 0.25, seed=0)
    assert pairs.items() == 3 and len({sample.prompt_id for sample in pairs.samples}) == 1
    (samples,) = thin([_rows("a", 5, 2, paired=False)], 9, 0.5, seed=0)
    assert samples.items() == 8 and len({sample.prompt_id for sample in samples.samples}) == 2


def test_iterations_are_drawn_from_alike() -> None:
    """Of 20 and 60 prompts, 8 are drawn: 2 and 6 on average (400 seeds: error 0.06)."""
    past = [_rows("a", 20, 1), _rows("b", 60, 1)]
    counts = [[rows.items() for rows in thin(past, 8, 0.5, seed)] for seed in range(400)]
    assert {sum(both) for both in counts} == {8}
    assert sum(both[0] for both in counts) / 400 == pytest.approx(2.0, abs=0.25)
    assert counts[0] != counts[1] and counts[0] == [r.items() for r in thin(past, 8, 0.5, 0)]
