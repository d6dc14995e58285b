"""Scalar reward model: the raw logit of a sequence classifier with one label at the last token
(ALGORITHMS 2.1). The work is in `classifier.py`, which imports torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Ge

from align.errors import SetupError

if TYPE_CHECKING:
    from align.rewards.classifier import ClassifierScorer


@dataclass(frozen=True)
class RewardModel:
    """Scores what the policy wrote, token for token where both have the same tokenizer, else
    rendered anew.
    """

    path: str | None = None
    """Hub id or folder; absent: this recipe's `reward`."""
    policy: str | None = None
    """Folder or id of the policy that wrote the samples, filled in by the stage. Where its
    tokenizer and template equal the reward model's, the sampled ids are scored (I1); otherwise, and
    where absent, the text is rendered with the reward model's own."""
    max_length: Annotated[int, Ge(1)] | None = None
    """Tokens of prompt and completion; a longer sample fails, it is never cut. Default: the model's
    context."""
    batch_size: Annotated[int, Ge(1)] = 16
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    chat_template: str | None = None
    """For text that is rendered anew: as `policy.chat_template`."""

    def open(self) -> ClassifierScorer:
        """Loads the model. Raises `SetupError` where it has no trained head, `DataError` where
        there is no model.
        """
        if self.path is None:
            raise SetupError(
                "reward_model has no path; name a model, or run it in a recipe with a `reward`"
            )
        from align.rewards.classifier import ClassifierScorer

        return ClassifierScorer(self, self.path)
