"""Labelled preferences as groups that any reward source can score, and copies of them with other
texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from align.data.chat import encode
from align.data.convert import Preference
from align.records import Prompt, Sample, Turn, sample_id
from align.rewards.protocol import Group

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Writer:
    """How texts become samples: the ids of a tokenizer, or code points where there is none (then a
    length in tokens is one in characters).
    """

    tokenizer: PreTrainedTokenizerBase | None = None
    chat_template: str | None = None

    def write(self, prompt: Prompt, texts: Sequence[str], *, finished: bool = True) -> Group:
        """One sample a text, in order; an unfinished one has no end token and ends at the limit.

        Raises `DataError` where the turns fit no template.
        """
        samples = [self._sample(prompt, index, text, finished) for index, text in enumerate(texts)]
        return Group(prompt, tuple(samples))

    def _sample(self, prompt: Prompt, index: int, text: str, finished: bool) -> Sample:
        if self.tokenizer is None:
            before, after = (), tuple(map(ord, text))
        else:
            encoded = encode(
                self.tokenizer, prompt.messages, text, self.chat_template, finished=finished
            )
            before, after = encoded.prompt_ids, encoded.completion_ids
        return Sample(
            sample_id=sample_id(prompt.prompt_id, index, "", after),
            prompt_id=prompt.prompt_id,
            index=index,
            policy="",
            prompt_ids=before,
            completion_ids=after,
            loss_mask=(1,) * len(after),
            logps=None,
            text=text,
            finish="stop" if finished else "length",
        )


def write_pairs(preferences: Sequence[Preference], writer: Writer) -> list[Group]:
    """Groups of two: the chosen sample, then the rejected one. Turns of others inside a completion
    are left out.
    """
    return [
        writer.write(item.prompt, [said(item.chosen), said(item.rejected)]) for item in preferences
    ]


def rewrite(
    groups: Sequence[Group], writer: Writer, *, tail: str = "", finished: bool = True
) -> list[Group]:
    """The same groups with `tail` behind every text, or without their end tokens."""
    return [
        writer.write(group.prompt, [s.text + tail for s in group.samples], finished=finished)
        for group in groups
    ]


def said(completion: Sequence[Turn]) -> str:
    """What the assistant says in the turns, separated by blank lines."""
    texts = [turn.get("content") for turn in completion if turn.get("role") == "assistant"]
    return "\n\n".join(content for content in texts if isinstance(content, str))
