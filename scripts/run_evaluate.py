"""Evaluates the policy of one step on held-out prompts: the same as `-m align.launch.evaluate`.

Example: python scripts/run_evaluate.py RECIPE --out DIR --step iter-000/eval
"""

from align.launch.evaluate import main

if __name__ == "__main__":
    raise SystemExit(main())
