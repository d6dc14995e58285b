"""Entry points of the processes that do the work: `python -m align.launch.KIND RECIPE --out DIR
[--step NAME]`.

Training kinds run under `accelerate launch`. Libraries' telemetry is off unless the user's
environment says otherwise.
"""

import os

for _name in ("HF_HUB_DISABLE_TELEMETRY", "VLLM_NO_USAGE_STATS", "DO_NOT_TRACK"):
    os.environ.setdefault(_name, "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# OpenMP threads that spin while they wait make a training step 10 times slower as soon as anything
# else wants the cores (806 against 85 ms on a busy 2-core machine); must be set before torch loads.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
