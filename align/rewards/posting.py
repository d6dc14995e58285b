"""JSON posted to a server that may be busy, slow, broken or gone."""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import httpx

from align.errors import SetupError, StageError
from align.records import Json

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
"""Seconds before the first retry; each further pause is twice as long."""
TOO_MANY, FIRST_SERVER_ERROR = 429, 500
"""Statuses from which a server may recover; others say that the request is wrong."""


class Refused(StageError):
    """The server says that the request is wrong: asking again does not help."""

    def __init__(self, message: str, status: int, said: str) -> None:
        super().__init__(message)
        self.status, self.said = status, said


class Unanswered(StageError):
    """No usable answer after all tries; `cause` is what the last one met."""

    def __init__(self, message: str, cause: str) -> None:
        super().__init__(message)
        self.cause = cause


def read_token(variable: str | None, who: str) -> str | None:
    """The value of an environment variable; raises `SetupError` where it is named and not set."""
    if variable is None:
        return None
    token = os.environ.get(variable)
    if not token:
        raise SetupError(
            f"{who}: the environment variable {variable} is not set; "
            "export it, or remove token_variable"
        )
    return token


@dataclass(frozen=True)
class Patience:
    """How long one answer is waited for, and how often it is asked for again."""

    timeout: float
    """Seconds for one whole answer."""
    retries: int
    connections: int


class Poster:
    """Connections to one server. `token` goes into a header and nowhere else; `who` begins every
    message.

    `why_gone` says why there is no point in asking again (None: there is); `retried` is called
    before each retry.
    """

    def __init__(
        self,
        who: str,
        url: str,
        patience: Patience,
        *,
        token: str | None = None,
        is_local: bool = False,
        why_gone: Callable[[], str | None] = lambda: None,
        retried: Callable[[], None] = lambda: None,
    ) -> None:
        self._who, self.url, self._patience, self._token = who, url, patience, token
        self._why_gone, self._retried = why_gone, retried
        self._client = httpx.Client(
            timeout=patience.timeout,
            limits=httpx.Limits(max_connections=patience.connections),
            headers={"Authorization": f"Bearer {token}"} if token is not None else {},
            trust_env=not is_local,  # a proxy does not lead back to this machine
        )

    def post(self, body: Mapping[str, object]) -> dict[str, Json]:
        """The object that the server answers.

        Raises `Refused` where it finds the request wrong, `Unanswered` after the last try.
        """
        cause, wait = "", 0.0
        for pause in pauses(self._patience.retries):
            if cause:
                self._retried()
            # A little more at random, so that many clients do not come back as one.
            time.sleep(max(pause * random.uniform(1.0, 1.25), wait))
            wait = 0.0
            try:
                status, text, wait = self._once(body)
            except httpx.TransportError as error:
                cause = self._hidden(f"{type(error).__name__}: {error}")
                gone = self._why_gone()
                if gone is not None:
                    raise StageError(f"{self._who}: {gone}") from error
                continue
            if status == TOO_MANY or status >= FIRST_SERVER_ERROR:
                cause = f"status {status}"
                continue
            if status != httpx.codes.OK:
                said = self._hidden(" ".join(text.split())[:200])
                raise Refused(
                    f"{self._who}: {self.url} refused the request with status {status}: "
                    f"{said}; check the address and the token",
                    status,
                    said,
                )
            try:
                answer = json.loads(text)
            except ValueError as error:
                cause = f"answered what is not JSON: {error}"
                continue
            if isinstance(answer, dict):
                return answer
            cause = f"answered a {type(answer).__name__}, no object"
        raise Unanswered(
            f"{self._who}: {self.url} gave no answer in {self._patience.retries + 1} tries "
            f"({cause}); once it is up again, the same command goes on from here",
            cause,
        )

    def close(self) -> None:
        """Closes the connections."""
        self._client.close()

    def _once(self, body: Mapping[str, object]) -> tuple[int, str, float]:
        """Status, text, and for how many seconds the server asks to be left alone."""
        until = time.monotonic() + self._patience.timeout
        with self._client.stream("POST", self.url, json=body) as response:
            chunks: list[bytes] = []
            for chunk in response.iter_bytes():
                # The client's own limit starts anew with every chunk.
                if time.monotonic() > until:
                    raise httpx.ReadTimeout("the answer has no end")
                chunks.append(chunk)
        asked = response.headers.get("Retry-After", "")
        wait = min(float(asked), LONGEST_PAUSE) if asked.isdecimal() else 0.0
        return response.status_code, b"".join(chunks).decode(errors="replace"), wait

    def _hidden(self, text: str) -> str:
        """Servers quote what they were sent."""
        return text.replace(self._token, "***") if self._token else text


def pauses(retries: int) -> Iterator[float]:
    """Seconds before each try: 0, .5, 1, 2, ... up to 30."""
    yield 0.0
    for number in range(retries):
        yield min(FIRST_PAUSE * 2**number, LONGEST_PAUSE)
