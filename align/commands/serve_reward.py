"""`align serve-reward RECIPE`: the recipe's `score` as an HTTP server for other trainers."""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import socket

from align.commands.reward_source import read_source
from align.errors import InputError, SetupError


def main(args: argparse.Namespace) -> int:
    """Serves until it is interrupted. Raises `SetupError` without FastAPI, or where a reward cannot
    open.
    """
    if args.failed is not None and not math.isfinite(args.failed):
        raise InputError(f"--failed {args.failed} is no number that JSON knows; give a finite one")
    reward = read_source(args.recipe, args.overrides, None).reward
    token = None
    if args.token_variable is not None:
        token = os.environ.get(args.token_variable)
        if not token:
            raise SetupError(
                f"the environment variable {args.token_variable} is not set; export it"
            )
    try:
        import uvicorn

        from align.rewards.serving import make_app
    except ModuleNotFoundError as error:
        raise SetupError(f"{error.name} is not installed; pip install 'align-lm[serve]'") from error
    with _listen(args.host, args.port) as place:
        scorer = reward.open()
        try:
            sources = [label for label, _, _ in reward.sources]
            app = make_app(scorer, sources, token=token, failed=args.failed)
            port = place.getsockname()[1]
            print(
                f"serving {', '.join(sources)} at http://{args.host}:{port}/get_reward", flush=True
            )
            with contextlib.suppress(KeyboardInterrupt):
                uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[place])
        finally:
            scorer.close()
    return 0


def _listen(host: str, port: int) -> socket.socket:
    """The socket, taken before the reward is loaded. Raises `SetupError` where it cannot be had."""
    # 65,537 would be taken for 1
    if not 0 <= port <= 65_535:
        raise InputError(f"--port {port} is no port; give one of 1 to 65535, or 0 for any free one")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        return socket.create_server((host, port), family=found[0][0])
    except OSError as error:
        raise SetupError(
            f"cannot listen at {host}:{port}: {error.strerror}; choose another --port or --host"
        ) from error
