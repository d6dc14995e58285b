"""Mathematical equality with the prompt's answer, by math-verify in processes that can be
killed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Gt

from align.errors import SetupError
from align.records import Json, Sample, Score
from align.rewards.exact_match import accepted_answers
from align.rewards.per_sample import failure
from align.rewards.process import Outcome, WorkerPool
from align.rewards.protocol import Group

GOLDEN: tuple[tuple[str, str, bool, bool], ...] = (
    ("240", "She earns 190 + 50 = 240.\n#### 240", True, True),
    ("240", "#### 241", True, False),
    ("1000", "The answer is 1,000", True, True),
    ("1/2", r"so the probability is $\frac{1}{2}$", True, True),
    (r"\frac{3}{4}", r"\boxed{0.75}", True, True),
    ("x^2+2x+1", r"$(x+1)^2$", True, True),
    ("7", "I do not know.", False, False),
)
"""Answer, completion, is it parsed, is it right: checked through the real workers each time the
reward opens (I6)."""


@dataclass(frozen=True)
class MathVerify:
    """`right` where the completion's last mathematical expression equals `Prompt.answer`, else
    `wrong`.
    """

    right: float = 1.0
    wrong: float = -1.0
    """Also for a completion without any mathematics; `parts["parsed"]` is 0 there."""
    timeout: Annotated[float, Gt(0)] = 5.0
    """Processor seconds for one comparison; beyond it the sample fails and is counted, it is not
    wrong."""
    workers: Annotated[int, Ge(1)] = 2

    def open(self) -> MathScorer:
        """Starts the workers and runs the golden cases; `SetupError` where one gives another
        verdict.
        """
        pool = WorkerPool(
            "align.rewards.math_worker:judge", workers=self.workers, seconds=self.timeout
        )
        try:
            check_golden(pool)
        except BaseException:
            pool.close()
            raise
        return MathScorer(self, pool)


def check_golden(pool: WorkerPool) -> None:
    """Raises `SetupError` unless the workers judge `GOLDEN` as written there."""
    outcomes = pool.map([{"answer": answer, "text": text} for answer, text, _, _ in GOLDEN])
    for (answer, text, parsed, right), outcome in zip(GOLDEN, outcomes, strict=True):
        expected = {"parsed": parsed, "right": right}
        if outcome.value != expected:
            raise SetupError(
                f"math_verify fails its golden case (answer {answer!r}, completion {text!r}): "
                f"expected {expected}, "
                f"got {outcome.error or outcome.value}; check the installed math-verify and sympy"
            )


class MathScorer:
    """Judges through the pool; equal (answer, text) items are judged once."""

    def __init__(self, config: MathVerify, pool: WorkerPool) -> None:
        self._config, self.pool = config, pool

    def score(self, groups: Sequence[Group]) -> list[list[Score]]:
        """One verdict a sample; a timeout, a dead worker or an unusable answer is a failed
        score.
        """
        items = dict[tuple[str, str], Outcome | None]()
        for group in groups:
            for answer in accepted_answers(group.prompt.answer):
                items |= {(answer, sample.text): None for sample in group.samples}
        requests: list[Json] = [{"answer": answer, "text": text} for answer, text in items]
        judged = dict(zip(items, self.pool.map(requests), strict=True))
        return [
            [self._verdict(group, sample, judged) for sample in group.samples] for group in groups
        ]

    def close(self) -> None:
        """Kills the workers."""
        self.pool.close()

    def _verdict(
        self, group: Group, sample: Sample, judged: dict[tuple[str, str], Outcome]
    ) -> Score:
        answers = accepted_answers(group.prompt.answer)
        if not answers:
            return failure(sample, f"prompt {group.prompt.prompt_id} has no reference answer")
        outcomes = [judged[answer, sample.text] for answer in answers]
        verdicts = [outcome.value for outcome in outcomes if isinstance(outcome.value, dict)]
        if any(verdict["right"] for verdict in verdicts):
            return Score(sample.sample_id, self._config.right, {"parsed": 1.0})
        errors = [outcome.error for outcome in outcomes if outcome.error]
        if errors:
            return failure(sample, f"math_verify: {errors[0]}")
        is_parsed = any(verdict["parsed"] for verdict in verdicts)
        return Score(sample.sample_id, self._config.wrong, {"parsed": float(is_parsed)})
