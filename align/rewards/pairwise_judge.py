"""A chat model that says which of two completions is better: a judge of whole groups, and a reward,
the mean win rate within the group.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from align.records import Prompt
from align.rewards.ledger import COMPARISONS, FIRST_SLOT
from align.rewards.pairwise_model import PairwiseScorer
from align.rewards.rubric import Question, Rubric, conversation, reference
from align.rewards.serving_options import Place, Requests, Server, check_sampling, check_target

if TYPE_CHECKING:
    from align.rewards.chat import Chat, Verdict

ALLOWED, REQUIRED = ("prompt", "first", "second", "answer"), ("first", "second")
BRACKETS = r"\[\[([ABC])\]\]"
WORTH = {"A": 1.0, "B": 0.0, "C": 0.5}
"""Of a verdict, for the completion that stands first; `C` is a tie."""


@dataclass(frozen=True)
class PairwiseJudge:
    """Asks in both orders and takes the mean, so that a preference for a place cancels out; how
    strong it was is in the manifest. n (n - 1) questions for a group of n.
    """

    url: str | None = None
    """As in `judge`, like all that is not explained here."""
    path: str | None = None
    model: str | None = None
    token_variable: str | None = None
    rubric: Rubric = field(default_factory=Rubric)
    """`path` or `text` of a template with `prompt`, `first`, `second` and `answer`; verdicts are
    `A`, `B`, or `C` for a tie."""
    expected: bool = False
    """The mean over the verdicts that could have stood there, by the log-probs of its token."""
    sampling: dict[str, object] = field(default_factory=dict)
    requests: Requests = field(default_factory=Requests)
    server: Server = field(default_factory=Server)
    place: Place | None = None

    def __post_init__(self) -> None:
        check_target(self)
        check_sampling(self.sampling)
        if self.rubric.is_there():
            self.question()

    def question(self) -> Question:
        """The rubric, checked."""
        return Question(self.rubric.source("comparison"), ALLOWED, REQUIRED)

    def open(self) -> PairwiseScorer:
        """Starts vLLM where `path` is given."""
        from align.rewards.chat import Chat, Reading

        labels = WORTH if self.expected else None
        reading = Reading(self.rubric.verdict or BRACKETS, worth, labels)
        chat = Chat("pairwise_judge", self, self.sampling, reading)
        return PairwiseScorer(ChatComparer(self.question(), chat))


class ChatComparer:
    """An open judge, asked in both orders."""

    def __init__(self, question: Question, chat: Chat) -> None:
        self._question, self._chat = question, chat

    def compare(self, items: Sequence[tuple[Prompt, str, str]]) -> list[float | str]:
        """For each (prompt, first, second) the probability that the first is preferred, or why
        there is none.
        """
        asked = [
            self._ask(prompt, *sides)
            for prompt, one, two in items
            if one != two
            for sides in ((one, two), (two, one))
        ]
        verdicts = iter(self._chat.ask([text for text in asked if text is not None]))
        found = iter([None if text is None else next(verdicts) for text in asked])
        # Equal completions need no judge: both orders are one question.
        return [
            0.5 if one == two else self._average(next(found), next(found)) for _, one, two in items
        ]

    def close(self) -> None:
        """Ends a server of our own."""
        self._chat.close()

    def _ask(self, prompt: Prompt, first: str, second: str) -> str | None:
        values = {"first": first, "second": second}
        values |= {"prompt": conversation(prompt), "answer": reference(prompt)}
        return self._question.write(values)

    def _average(self, straight: Verdict | None, turned: Verdict | None) -> float | str:
        if straight is None or turned is None:
            return "pairwise_judge: the rubric shows {{ answer }}, and the prompt has none"
        if straight.value is None or turned.value is None:
            return str(straight.error or turned.error)
        same_slot = (straight.value - 0.5) * (turned.value - 0.5) > 0
        self._chat.endpoint.ledger.add(
            {
                COMPARISONS: 1,
                "order_decided": int(same_slot),
                FIRST_SLOT: straight.value + turned.value,
            }
        )
        return (straight.value + 1.0 - turned.value) / 2


def worth(verdict: str) -> float:
    """1 where the first is better, 0 where the second is; raises `ValueError` for anything else."""
    if verdict not in WORTH:
        raise ValueError(f"the verdict {verdict!r} is none of {', '.join(WORTH)}")
    return WORTH[verdict]
