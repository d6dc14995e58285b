"""Ends policy training before it has gone too far from its reference, or made the chosen
completions too unlikely.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

from accelerate.utils import broadcast_object_list
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from align.errors import RecipeError
from align.recipe.sections import Limits

logger = logging.getLogger(__name__)

LOG_RATIO, CHOSEN = "log_ratio/reference", "logps/chosen"


class StopAtLimit(TrainerCallback):
    """Looks at every log; all ranks stop at the same step, the first one's numbers decide.

    The bounds are read from logged history, so a resumed job stops where an undisturbed one does.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.stopped: dict[str, float] = {}
        """Empty, or the metrics of the stop: `stopped_at_step` and `stopped/<bound>`."""

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, float] | None = None,
        **kwargs: object,
    ) -> None:
        """Sets `control.should_training_stop` where a bound is passed before the last step."""
        if logs is None or "loss" not in logs or state.global_step >= state.max_steps:
            return
        first = next((entry[CHOSEN] for entry in state.log_history if CHOSEN in entry), None)
        passed: list[dict[str, float]] = [self.passed(logs, first)]
        broadcast_object_list(passed)
        if not passed[0]:
            return
        self.stopped = {"stopped_at_step": float(state.global_step), **passed[0]}
        control.should_training_stop = True
        # a checkpoint of this very step would be resumed from beyond the stop
        control.should_save = False
        if state.is_world_process_zero:
            logger.warning("training stops at step %d: %s", state.global_step, passed[0])

    def passed(self, logs: Mapping[str, float], first_chosen: float | None) -> dict[str, float]:
        """The bounds that these logs pass, with what was measured; raises `RecipeError` where a
        bound is about something that is not logged.
        """
        found: dict[str, float] = {}
        if self._limits.kl is not None and abs(_logged(logs, LOG_RATIO, "kl")) > self._limits.kl:
            found["stopped/kl"] = logs[LOG_RATIO]
        if self._limits.chosen_logps_drop is not None:
            now = _logged(logs, CHOSEN, "chosen_logps_drop")
            drop = (now if first_chosen is None else first_chosen) - now
            if drop > self._limits.chosen_logps_drop:
                found["stopped/chosen_logps_drop"] = drop
        return found


def _logged(logs: Mapping[str, float], name: str, key: str) -> float:
    if name not in logs:
        raise RecipeError(
            f"bounds {name}, which this objective does not log",
            key=f"train.stop.{key}",
            remedy="remove it",
        )
    return logs[name]
