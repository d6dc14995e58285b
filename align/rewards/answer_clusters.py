"""Agreement as reward, without labels (EMPO, arXiv:2504.05812; ALGORITHMS 12.2): the K samples of a
prompt are clustered by their answers, r_i = |cluster of i| / K.

In the released code all unreadable answers share one cluster; here each is one of its own, so that
saying nothing cannot become the majority.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement
from typing import Annotated, Literal

from annotated_types import Ge, Gt

from align.data.builtin.random_calculation import parse_number
from align.records import Score
from align.rewards.overdue import Overdue, in_time
from align.rewards.patterns import check_patterns, compile_pattern, extract_last
from align.rewards.process import WorkerPool
from align.rewards.protocol import Group

Pairs = set[tuple[str, str]]
"""Answers that mean the same; an answer paired with itself can be read."""


@dataclass(frozen=True)
class AnswerClusters:
    """Parts: `entropy` of the group's clusters, -sum p ln p in nats, and `parsed`."""

    extract: str | None = None
    """Regular expression: the last match (its first group) is the answer, not all of the text."""
    equal: Literal["text", "number", "math"] = "text"
    """Same text but for case and blanks at the ends; same number; or equal mathematics."""
    unparsed: float = 0.0
    """Reward of a completion without a readable answer."""
    timeout: Annotated[float, Gt(0)] = 5.0
    """Of `math`: processor seconds for one comparison; beyond it the answers differ."""
    workers: Annotated[int, Ge(1)] = 2
    """Of `math`."""

    def __post_init__(self) -> None:
        check_patterns(extract=self.extract)

    def open(self) -> ClusterScorer:
        """Compiles the pattern and, for `math`, starts the workers."""
        pattern = compile_pattern(self.extract, "extract") if self.extract else None

        def answer_of(text: str) -> str | None:
            try:
                said = in_time(lambda: text if pattern is None else extract_last(pattern, text))
            except Overdue:
                return None  # as an answer that cannot be read
            return said if said is not None and said.strip() else None

        pool = None
        if self.equal == "math":
            pool = WorkerPool(
                "align.rewards.math_worker:judge", workers=self.workers, seconds=self.timeout
            )
        return ClusterScorer(self, answer_of, pool)


class ClusterScorer:
    """Compares the answers of all groups in one go."""

    def __init__(
        self,
        config: AnswerClusters,
        answer_of: Callable[[str], str | None],
        pool: WorkerPool | None,
    ) -> None:
        self._config, self._answer_of, self._pool = config, answer_of, pool

    def score(self, groups: Sequence[Group]) -> list[list[Score]]:
        """Shares of clusters; no sample fails."""
        answers = [[self._answer_of(sample.text) for sample in group.samples] for group in groups]
        wanted = {
            pair
            for group in answers
            for pair in combinations_with_replacement(sorted({a for a in group if a}), 2)
        }
        same = self._same(sorted(wanted))
        return [
            self._group(group, answers_G, same)
            for group, answers_G in zip(groups, answers, strict=True)
        ]

    def close(self) -> None:
        """Ends the workers."""
        if self._pool is not None:
            self._pool.close()

    def _same(self, pairs: Sequence[tuple[str, str]]) -> Pairs:
        if self._pool is None:
            read = read_number if self._config.equal == "number" else read_text
            return {(a, b) for a, b in pairs if read(a) is not None and read(a) == read(b)}
        outcomes = self._pool.map([{"answer": a, "text": f"${b}$"} for a, b in pairs])
        return {
            pair
            for pair, outcome in zip(pairs, outcomes, strict=True)
            if isinstance(outcome.value, Mapping) and outcome.value["right"]
        }

    def _group(self, group: Group, answers: Sequence[str | None], same: Pairs) -> list[Score]:
        clusters = clusters_of(answers, same)
        sizes, count = Counter(clusters), len(clusters)
        entropy = -math.fsum(n / count * math.log(n / count) for n in sizes.values())
        found: list[Score] = []
        for sample, answer, cluster in zip(group.samples, answers, clusters, strict=True):
            is_parsed = answer is not None and (answer, answer) in same
            value = sizes[cluster] / count if is_parsed else self._config.unparsed
            parts = {"entropy": entropy, "parsed": float(is_parsed)}
            found.append(Score(sample.sample_id, value, parts))
        return found


def clusters_of(answers: Sequence[str | None], same: Pairs) -> list[int]:
    """A number for each answer, equal where answers mean the same as the cluster's first;
    unreadable ones have a number of their own.
    """
    firsts: list[tuple[int, str]] = []
    found: list[int] = []
    for number, answer in enumerate(answers):
        cluster = number
        if answer is not None and (answer, answer) in same:
            met = (c for c, first in firsts if {(first, answer), (answer, first)} & same)
            cluster = next(met, number)
            if cluster == number:
                firsts.append((number, answer))
        found.append(cluster)
    return found


def read_number(answer: str) -> object | None:
    """The exact number, or None."""
    return parse_number(answer.strip().replace(",", ""))


def read_text(answer: str) -> str:
    """The answer in lower case, without blanks at its ends."""
    return answer.strip().casefold()
