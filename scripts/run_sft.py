"""Trains the `sft` stage of a recipe: the same as `-m align.launch.sft`.

Example: accelerate launch --config_file accelerate_configs/zero2.yaml
    scripts/run_sft.py RECIPE --out DIR --step sft
"""

from align.launch.sft import main

if __name__ == "__main__":
    raise SystemExit(main())
