"""Trains the `reward` stage of a recipe: the same as `-m align.launch.reward`.

Example: accelerate launch --config_file accelerate_configs/zero2.yaml
    scripts/run_reward.py RECIPE --out DIR --step reward
"""

from align.launch.reward import main

if __name__ == "__main__":
    raise SystemExit(main())
