"""`align serve-reward RECIPE`: the recipe's `score` as an HTTP server for other trainers."""

from __future__ import annotations

import argparse
import os

from align.commands.reward_source import read_source
from align.errors import SetupError


def main(args: argparse.Namespace) -> int:
    """Serves until it is interrupted. Raises `SetupError` without FastAPI, or where a reward cannot
    open.
    """
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
    scorer = reward.open()
    try:
        sources = [label for label, _, _ in reward.sources]
        app = make_app(scorer, sources, token=token, failed=args.failed)
        print(
            f"serving {', '.join(sources)} at http://{args.host}:{args.port}/get_reward", flush=True
        )
        uvicorn.run(app, host=args.host, port=args.port, log_level="warning")
    finally:
        scorer.close()
    return 0
