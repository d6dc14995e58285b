"""What the stand-ins for remote services share: a server on 127.0.0.1 that records
what it is asked.
"""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

Body = dict[str, Any]


class StandIn:
    """Context manager. `faults` are used up in order, one a request."""

    def __init__(
        self, handler: type[StandInHandler], path: str, faults: tuple[object, ...]
    ) -> None:
        self.faults = list(faults)
        self.bodies: list[Body] = []
        self.tokens: list[str | None] = []
        bound = type("BoundHandler", (handler,), {"server_state": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), bound)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self.url = f"http://127.0.0.1:{self._server.server_port}{path}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class StandInHandler(BaseHTTPRequestHandler):
    """Subclasses answer in `do_POST`."""

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""
