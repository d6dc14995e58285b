"""Samples completions for the prompts of one step: the same as `-m align.launch.generate`.

Example: python scripts/run_generate.py RECIPE --out DIR --step iter-000/samples
"""

from align.launch.generate import main

if __name__ == "__main__":
    raise SystemExit(main())
