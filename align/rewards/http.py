"""Rewards from a server over HTTP, in the form of OpenRLHF's remote reward models.

    POST {"query": [...], "prompts": [...], "labels": [...]}  ->  {"rewards": [...]}

`query` is prompt and completion in one text, `labels` the reference answers. We also send
`messages`, the prompts' turns, which `align serve-reward` reads; others may ignore it. A reward
that is null or no finite number is a failed score; `errors`, where the server gives it, says why.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge, Gt

from align.errors import StageError
from align.records import Json, Prompt, Sample, Score
from align.rewards.per_sample import failure
from align.rewards.protocol import Group
from align.rewards.serving_options import check_url

if TYPE_CHECKING:
    from align.rewards.posting import Poster

Item = tuple[Prompt, Sample]


@dataclass(frozen=True)
class Http:
    """Asks a server for each sample's reward, in batches."""

    url: str
    """Where to POST, e.g. `http://127.0.0.1:5000/get_reward`."""
    batch_size: Annotated[int, Ge(1)] = 64
    connections: Annotated[int, Ge(1)] = 4
    """Requests at a time."""
    timeout: Annotated[float, Gt(0)] = 60.0
    """Seconds for one answer."""
    retries: Annotated[int, Ge(0)] = 5
    """After a timeout, a lost connection or a server's error; then the stage fails, and the same
    command goes on from the last shard."""
    token_variable: str | None = None
    """Name of the environment variable whose value is sent as bearer token; it is never logged."""

    def __post_init__(self) -> None:
        check_url(self.url)

    def open(self) -> HttpScorer:
        """Raises `SetupError` where the variable is not set."""
        from align.rewards.posting import Patience, Poster, read_token

        poster = Poster(
            "http reward",
            self.url,
            Patience(self.timeout, self.retries, self.connections),
            token=read_token(self.token_variable, "http reward"),
        )
        return HttpScorer(self, poster)


class HttpScorer:
    """An open connection."""

    def __init__(self, config: Http, poster: Poster) -> None:
        self._config, self._poster = config, poster

    def score(self, groups: Sequence[Group]) -> list[list[Score]]:
        """The server's rewards in order. Raises `StageError` where it does not answer, or answers
        in another form.
        """
        items = [(group.prompt, sample) for group in groups for sample in group.samples]
        size = self._config.batch_size
        batches = [items[first : first + size] for first in range(0, len(items), size)]
        with ThreadPoolExecutor(self._config.connections) as pool:
            scores = [score for batch in pool.map(self._score, batches) for score in batch]
        rest = iter(scores)
        return [[next(rest) for _ in group.samples] for group in groups]

    def close(self) -> None:
        """Closes the connections."""
        self._poster.close()

    def _score(self, batch: Sequence[Item]) -> list[Score]:
        answer = self._poster.post(request_of(batch))
        rewards, errors = answer.get("rewards"), answer.get("errors")
        if not isinstance(rewards, list) or len(rewards) != len(batch):
            found = f"{len(rewards)} rewards" if isinstance(rewards, list) else "no list `rewards`"
            raise StageError(
                f"http reward: {self._config.url} answered {len(batch)} queries with {found}; "
                'expected {"rewards": [one number a query]}'
            )
        reasons = (
            errors
            if isinstance(errors, list) and len(errors) == len(batch)
            else [None] * len(batch)
        )
        return [
            score_of(sample, reward, reason)
            for (_, sample), reward, reason in zip(batch, rewards, reasons, strict=True)
        ]


def request_of(batch: Sequence[Item]) -> dict[str, Json]:
    """The body for some samples."""
    prompts = [text_of(prompt) for prompt, _ in batch]
    return {
        "query": [text + sample.text for text, (_, sample) in zip(prompts, batch, strict=True)],
        "prompts": prompts,
        "labels": [prompt.answer for prompt, _ in batch],
        "messages": [list(prompt.messages) for prompt, _ in batch],
    }


def text_of(prompt: Prompt) -> str:
    """A prompt as one text: its only turn's content, or all turns as `role: content`."""
    turns = [(str(turn.get("role")), str(turn.get("content"))) for turn in prompt.messages]
    if len(turns) == 1:
        return turns[0][1]
    return "\n\n".join(f"{role}: {content}" for role, content in turns) + "\n\nassistant: "


def score_of(sample: Sample, reward: Json, reason: Json) -> Score:
    """One reward as a score."""
    if isinstance(reward, (int, float)) and not isinstance(reward, bool) and math.isfinite(reward):
        return Score(sample.sample_id, float(reward))
    return failure(sample, f"http: {reason}" if reason else f"http: the reward is {reward!r}")
