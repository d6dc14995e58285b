"""What both reproduction scripts train and measure on: 3-digit addition, and stories."""

from __future__ import annotations

from comparing import Setting, Task

ADDITION = Task(
    "pass@1 on held-out sums",
    {"tuning": ("evaluate.prompts.split=validation",), "fresh": ("evaluate.prompts.split=test",)},
    is_verified=True,
    answer=r"\d{4}",
)
STORIES = Task(
    "true valence of a story",
    {
        # prompts of the training file that neither the reward model nor the arms see
        "tuning": ("evaluate.prompts.split=train[1192:1368]",),
        "fresh": ("evaluate.prompts.split=dev",),
    },
    is_verified=False,
    files=("stories", "prompts", "lexicon"),
)
STOPS = {"third": 0.36, "rare": 0.12, "frequent": 0.7}
"""Where SFT of each base of addition stops."""


def rates(*values: str) -> tuple[Setting, ...]:
    """Candidates of an arm: its learning rates."""
    return tuple((f"train.args.learning_rate={value}",) for value in values)


RATES = rates("3.0e-5", "1.0e-4", "3.0e-4")
