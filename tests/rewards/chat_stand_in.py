"""A server of the OpenAI chat protocol on 127.0.0.1 that says what it is told to, one instruction a
request, for faults that no real server shows on demand.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable

from tests.rewards.stand_in import Body, StandIn, StandInHandler


class ChatStandIn(StandIn):
    """Context manager. `faults` are used up in order, then `reply` says the text of each answer.

    An int is a status, a float a delay in seconds before the answer, a pair (status, headers) a
    status with headers, text what is sent instead of an answer.
    """

    def __init__(self, reply: Callable[[str], str] | str, *faults: object) -> None:
        super().__init__(Handler, "/v1", faults)
        self.reply = reply if callable(reply) else lambda _: reply
        self.most_at_once = self.at_once = 0
        self.lock = threading.Lock()

    @property
    def questions(self) -> list[str]:
        """The user messages, in the order in which they came."""
        return [body["messages"][0]["content"] for body in self.bodies]


class Handler(StandInHandler):
    server_state: ChatStandIn

    def do_POST(self) -> None:
        state = self.server_state
        body: Body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with state.lock:
            state.bodies.append(body)
            state.tokens.append(self.headers["Authorization"])
            fault = state.faults.pop(0) if state.faults else None
            state.at_once += 1
            state.most_at_once = max(state.most_at_once, state.at_once)
        status, headers = 200, dict[str, str]()
        answer: str | None = None
        if isinstance(fault, tuple):
            status, headers = fault
        elif isinstance(fault, int):
            status = fault
        elif isinstance(fault, float):
            time.sleep(fault)
        elif isinstance(fault, str):
            answer = fault
        text = answer if answer is not None else json.dumps(self._answer(body, status))
        with state.lock:
            state.at_once -= 1
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())

    def _answer(self, body: Body, status: int) -> object:
        if status != 200:
            return {"error": {"message": f"no: {self.headers['Authorization']}"}}
        text = self.server_state.reply(body["messages"][0]["content"])
        return {
            "choices": [{"message": {"content": text}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 100, "completion_tokens": 10},
        }
