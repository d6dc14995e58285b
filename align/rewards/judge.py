"""A chat model that rates each completion on a scale, by a rubric."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from pydantic import ConfigDict

from align.records import Prompt, Sample, Score
from align.rewards.per_sample import failure
from align.rewards.protocol import Group
from align.rewards.rubric import Question, Rubric, conversation, reference
from align.rewards.serving_options import Place, Requests, Server, check_sampling, check_target

if TYPE_CHECKING:
    from align.rewards.chat import Chat, Verdict

ALLOWED, REQUIRED = ("prompt", "completion", "answer", "low", "high"), ("completion",)
BRACKETS = r"\[\[(-?\d+(?:\.\d+)?)\]\]"


@dataclass(frozen=True)
class Scale:
    """Which ratings there are."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    low: float = 1.0
    high: float = 10.0
    expected: bool = False
    """The mean over the ratings that could have stood where the verdict stands, by the log-probs of
    its token, instead of the one that does; for whole ratings of one digit, 0 to 9."""

    def __post_init__(self) -> None:
        if self.low >= self.high:
            raise ValueError(f"scale: low = {self.low:g} must be less than high = {self.high:g}")
        whole = self.low.is_integer() and self.high.is_integer()
        if self.expected and not (whole and self.low >= 0 and self.high <= 9):
            raise ValueError(
                "scale.expected needs whole ratings of one digit, which are one token: "
                "set low and high within 0 and 9"
            )

    def worth(self, verdict: str) -> float:
        """The rating; raises `ValueError` where it is none of the scale."""
        try:
            value = float(verdict)
        except ValueError as error:
            raise ValueError(f"the verdict {verdict!r} is no number") from error
        if not self.low <= value <= self.high:
            raise ValueError(f"the verdict {verdict} is not within {self.low:g} and {self.high:g}")
        return value

    def digits(self) -> dict[str, float]:
        """Every rating, as it is written."""
        return {str(value): float(value) for value in range(int(self.low), int(self.high) + 1)}


@dataclass(frozen=True)
class Judge:
    """Rates completions. An answer without one clear verdict is a failed score."""

    url: str | None = None
    """Address of an OpenAI-compatible server, as its clients take it: `https://host/v1`."""
    path: str | None = None
    """Or hub id or folder of a chat model, which the stage serves by vLLM."""
    model: str | None = None
    """Name under which the server at `url` has the model."""
    token_variable: str | None = None
    """Name of the environment variable whose value is sent to `url` as bearer token; it is never
    logged."""
    rubric: Rubric = field(default_factory=Rubric)
    """`path` or `text` of a template with `prompt`, `completion`, `answer`, `low` and `high`."""
    scale: Scale = field(default_factory=Scale)
    """`low`, `high`, `expected`."""
    sampling: dict[str, object] = field(default_factory=dict)
    """Further fields of the request, verbatim; default: `{temperature: 0, max_tokens: 1024,
    seed: 0}`, where null leaves one out."""
    requests: Requests = field(default_factory=Requests)
    """`connections`, `timeout`, `retries`, `unanswered`, `prices`."""
    server: Server = field(default_factory=Server)
    """How `path` is served."""
    place: Place | None = None
    """Filled in by the stage."""

    def __post_init__(self) -> None:
        check_target(self)
        check_sampling(self.sampling)
        if self.rubric.is_there():
            self.question()

    def question(self) -> Question:
        """The rubric, checked."""
        return Question(self.rubric.source("rating"), ALLOWED, REQUIRED)

    def open(self) -> JudgeScorer:
        """Starts vLLM where `path` is given."""
        from align.rewards.chat import Chat, Reading

        digits = self.scale.digits() if self.scale.expected else None
        reading = Reading(self.rubric.verdict or BRACKETS, self.scale.worth, digits)
        return JudgeScorer(self, Chat("judge", self, self.sampling, reading))


class JudgeScorer:
    """An open judge."""

    def __init__(self, config: Judge, chat: Chat) -> None:
        self._scale, self._question, self._chat = config.scale, config.question(), chat

    def score(self, groups: Sequence[Group]) -> list[list[Score]]:
        """Ratings; with `expected`, the parts are the `verdict` that was written and the
        probability of all ratings there (`mass`).
        """
        items = [(group.prompt, sample) for group in groups for sample in group.samples]
        asked = [self._ask(prompt, sample) for prompt, sample in items]
        verdicts = iter(self._chat.ask([text for text in asked if text is not None]))
        scores = iter(
            [
                failure(sample, "judge: the rubric shows {{ answer }}, and the prompt has none")
                if text is None
                else score_of(sample, next(verdicts))
                for (_, sample), text in zip(items, asked, strict=True)
            ]
        )
        return [[next(scores) for _ in group.samples] for group in groups]

    def close(self) -> None:
        """Ends a server of our own."""
        self._chat.close()

    def _ask(self, prompt: Prompt, sample: Sample) -> str | None:
        """The question, or None where the rubric shows an answer that the prompt does not have."""
        values = {
            "prompt": conversation(prompt),
            "completion": sample.text,
            "answer": reference(prompt),
            "low": f"{self._scale.low:g}",
            "high": f"{self._scale.high:g}",
        }
        return self._question.write(values)


def score_of(sample: Sample, verdict: Verdict) -> Score:
    """A verdict as a score."""
    if verdict.value is None:
        return failure(sample, str(verdict.error))
    parts = {} if verdict.mass is None else {"verdict": verdict.said, "mass": verdict.mass}
    return Score(sample.sample_id, verdict.value, parts)
