"""Scores the samples of one step: the same as `-m align.launch.score`.

Example: python scripts/run_score.py RECIPE --out DIR --step iter-000/scores
"""

from align.launch.score import main

if __name__ == "__main__":
    raise SystemExit(main())
