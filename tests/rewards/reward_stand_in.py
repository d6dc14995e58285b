"""A remote reward model on 127.0.0.1 that answers as it is told to, one instruction a request."""

from __future__ import annotations

import json
import time

from tests.rewards.stand_in import Body, StandIn, StandInHandler


class RewardStandIn(StandIn):
    """Context manager. `faults` are used up in order, then every request is answered with the
    lengths of the queries.

    An int is a status, a float a delay in seconds, any other value the JSON to answer with.
    """

    def __init__(self, *faults: object) -> None:
        super().__init__(Handler, "/get_reward", faults)


class Handler(StandInHandler):
    server_state: RewardStandIn

    def do_POST(self) -> None:
        state = self.server_state
        body: Body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        state.bodies.append(body)
        state.tokens.append(self.headers["Authorization"])
        fault = state.faults.pop(0) if state.faults else None
        answer: object = {"rewards": [len(str(query)) for query in body.get("query", ())]}
        status = 200
        if isinstance(fault, int):
            status = fault
        elif isinstance(fault, float):
            time.sleep(fault)
        elif fault is not None:
            answer = fault
        text = (answer if isinstance(answer, str) else json.dumps(answer)).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)
