"""Trains the policy of one iteration: the same as `-m align.launch.policy`.

Example: accelerate launch --config_file accelerate_configs/zero3.yaml
    scripts/run_policy.py RECIPE --out DIR --step iter-000/checkpoint
"""

from align.launch.policy import main

if __name__ == "__main__":
    raise SystemExit(main())
