"""Trainers: the only floor that imports trl and transformers.Trainer."""

import os

# TRL pings telemetry when a trainer is constructed; huggingface_hub reads the variable once, when
# it is imported.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
