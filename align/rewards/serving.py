"""A reward source as an HTTP server, in the form that `align.rewards.http` and OpenRLHF speak.

    POST /get_reward {"query": [...], "prompts": [...], "labels": [...]}
        -> {"rewards": [...], "parts": [...], "errors": [...]}
    GET /health -> {"status": "ok", "sources": [...]}

Equal prompts of a request are one group, so group-level rewards work. The texts come without
tokens: rewards that count tokens fail. Imports FastAPI, so only `align serve-reward` imports this.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Sequence
from typing import Annotated

from fastapi import FastAPI, Header, HTTPException
from pydantic import BaseModel, JsonValue

from align.records import Prompt, Sample, sample_id
from align.rewards.protocol import Group, Scorer

UNAUTHORISED, UNPROCESSABLE = 401, 422


class Request(BaseModel):
    """Some completions; the lists are of one length, or absent."""

    query: list[str]
    """Prompt and completion in one text, or the completion where it does not begin with the
    prompt."""
    prompts: list[str] | None = None
    labels: list[JsonValue] | None = None
    """`Prompt.answer`."""
    messages: list[list[dict[str, JsonValue]]] | None = None
    """The prompts' turns, where they are more than one text."""


class Answer(BaseModel):
    """One of each for each query."""

    rewards: list[float | None]
    """null where a sample could not be scored, or the number chosen for that."""
    parts: list[dict[str, float | None]]
    errors: list[str | None]


def make_app(
    scorer: Scorer, sources: Sequence[str], *, token: str | None, failed: float | None
) -> FastAPI:
    """The server. `token` is asked for where it is not None; `failed` stands for scores without a
    value.
    """
    app = FastAPI(title="align reward", docs_url=None, redoc_url=None)
    lock = threading.Lock()  # scorers hold models and pools: one request at a time

    @app.get("/health")
    def health() -> dict[str, str | list[str]]:
        return {"status": "ok", "sources": list(sources)}

    @app.post("/get_reward")
    def get_reward(request: Request, authorization: Annotated[str, Header()] = "") -> Answer:
        if token is not None and not secrets.compare_digest(
            authorization.encode(), f"Bearer {token}".encode()
        ):
            raise HTTPException(UNAUTHORISED, "a bearer token is needed")
        groups, places = read_groups(request)
        with lock:
            scores = scorer.score(groups)
        found = [scores[group][index] for group, index in places]
        return Answer(
            rewards=[failed if score.value is None else score.value for score in found],
            parts=[dict(score.parts) for score in found],
            errors=[score.error for score in found],
        )

    return app


def read_groups(request: Request) -> tuple[list[Group], list[tuple[int, int]]]:
    """Groups of equal prompts, and where each query is among them: (group, index)."""
    count = len(request.query)
    prompts = request.prompts if request.prompts is not None else [""] * count
    labels = request.labels if request.labels is not None else [None] * count
    turns = request.messages if request.messages is not None else [[] for _ in range(count)]
    if not len(prompts) == len(labels) == len(turns) == count:
        raise HTTPException(UNPROCESSABLE, f"{count} queries need as many prompts and labels")
    grouped: dict[str, tuple[Prompt, list[Sample]]] = {}
    places: list[tuple[int, int]] = []
    for query, text, label, messages in zip(request.query, prompts, labels, turns, strict=True):
        prompt = Prompt.of(messages or text, answer=label)
        _, samples = grouped.setdefault(prompt.prompt_id, (prompt, []))
        places.append((list(grouped).index(prompt.prompt_id), len(samples)))
        samples.append(sample_of(prompt, len(samples), query.removeprefix(text)))
    return [Group(prompt, tuple(samples)) for prompt, samples in grouped.values()], places


def sample_of(prompt: Prompt, index: int, text: str) -> Sample:
    """A completion of which only the text is known."""
    return Sample(
        sample_id=sample_id(prompt.prompt_id, index, text, ()),
        prompt_id=prompt.prompt_id,
        index=index,
        policy="",
        prompt_ids=(),
        completion_ids=(),
        loss_mask=(),
        logps=None,
        text=text,
        finish="stop",
    )
