"""Data written or judged by people as our records: the same samples, pairs and scores that a
policy's would be.

Their samples have no policy (`""`) and no log-probs, and are finished turns.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from transformers import PreTrainedTokenizerBase

from align.data.chat import Encoded, encode
from align.data.convert import Demonstration, Labelled, Preference
from align.errors import DataError
from align.records import Pair, Prompt, Sample, Score, Turn, sample_id


@dataclass(frozen=True, slots=True)
class Imported:
    """Records of one kind of human data; those that do not apply are empty."""

    prompts: list[Prompt]
    samples: list[Sample]
    pairs: list[Pair] = field(default_factory=list)
    scores: list[Score] = field(default_factory=list)
    counts: Mapping[str, int] = field(default_factory=dict)
    """`prompts`, `samples`, `pairs`, `too_long`, `identical` (after tokenisation), `seam_merges`
    (`chat.Encoded`)."""
    ties: frozenset[Pair] = frozenset()
    """Those of `pairs` whose order means nothing (`Preference.is_tie`)."""


def import_preferences(
    preferences: Iterable[Preference],
    tokenizer: PreTrainedTokenizerBase | None,
    chat_template: str | None,
    *,
    max_length: int | None = None,
    end_id: int | None = None,
) -> Imported:
    """Samples and pairs. A completion that appears in several pairs of a prompt is one sample.

    Without a tokenizer, for models that read the text itself, a completion is one turn and its
    characters stand for its tokens. Pairs of which either side is longer than `max_length` tokens,
    prompt included, are dropped and counted.
    """
    store = _Store(tokenizer, chat_template, max_length, end_id)
    pairs: list[Pair] = []
    ties: set[Pair] = set()
    for item in preferences:
        sides = [store.encode(item.prompt, turns) for turns in (item.chosen, item.rejected)]
        if sides[0] is None or sides[1] is None:
            store.counts["too_long"] += 1
        elif sides[0].completion_ids == sides[1].completion_ids:
            store.counts["identical"] += 1
        else:
            chosen = store.add(item.prompt, item.chosen, sides[0])
            rejected = store.add(item.prompt, item.rejected, sides[1])
            pairs.append(Pair(chosen, rejected, item.margin))
            ties |= {pairs[-1]} if item.is_tie else set()
    store.counts["pairs"] = len(pairs)
    if ties:
        store.counts["ties"] = len(ties)
    return replace(store.finish(pairs=pairs), ties=frozenset(ties))


def import_labelled(
    rows: Iterable[Labelled],
    tokenizer: PreTrainedTokenizerBase,
    chat_template: str | None,
    *,
    max_length: int | None = None,
    end_id: int | None = None,
) -> Imported:
    """Samples with the scores +1 (wanted) and -1; too long ones are dropped and counted."""
    store = _Store(tokenizer, chat_template, max_length, end_id)
    scores: dict[str, Score] = {}
    for item in rows:
        encoded = store.encode(item.prompt, item.completion)
        if encoded is None:
            store.counts["too_long"] += 1
            continue
        name = store.add(item.prompt, item.completion, encoded)
        value = 1.0 if item.is_wanted else -1.0
        scores[name] = Score(name, value, {"label": value})
    return store.finish(scores=list(scores.values()))


def import_demonstrations(
    rows: Iterable[Demonstration],
    tokenizer: PreTrainedTokenizerBase,
    chat_template: str | None,
    *,
    max_length: int | None = None,
    end_id: int | None = None,
) -> Imported:
    """Samples to imitate (SFT); too long ones are dropped and counted, never cut: a cut one teaches
    not to stop.
    """
    store = _Store(tokenizer, chat_template, max_length, end_id)
    for item in rows:
        encoded = store.encode(item.prompt, item.completion)
        if encoded is None:
            store.counts["too_long"] += 1
        else:
            store.add(item.prompt, item.completion, encoded)
    return store.finish()


class _Store:
    """Collects prompts and samples once each and counts."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase | None,
        chat_template: str | None,
        max_length: int | None,
        end_id: int | None,
    ) -> None:
        self.counts = Counter({"too_long": 0, "identical": 0, "seam_merges": 0})
        self._tokenizer, self._chat_template = tokenizer, chat_template
        self._max_length, self._end_id = max_length, end_id
        self._prompts: dict[str, Prompt] = {}
        self._samples: dict[str, dict[tuple[int, ...], Sample]] = {}

    def encode(self, prompt: Prompt, completion: Sequence[Turn]) -> Encoded | None:
        """None where it is too long."""
        if self._tokenizer is None:
            encoded = _characters(completion)
        else:
            encoded = encode(
                self._tokenizer,
                prompt.messages,
                completion,
                self._chat_template,
                end_id=self._end_id,
            )
        length = len(encoded.prompt_ids) + len(encoded.completion_ids)
        return None if self._max_length is not None and length > self._max_length else encoded

    def add(self, prompt: Prompt, completion: Sequence[Turn], encoded: Encoded) -> str:
        """The id of the prompt's sample with these tokens, made where there is none yet."""
        self._prompts.setdefault(prompt.prompt_id, prompt)
        samples = self._samples.setdefault(prompt.prompt_id, {})
        if encoded.completion_ids not in samples:
            self.counts["seam_merges"] += encoded.seam_merges
            index = len(samples)
            samples[encoded.completion_ids] = Sample(
                sample_id(prompt.prompt_id, index, "", encoded.completion_ids),
                prompt.prompt_id,
                index,
                "",
                encoded.prompt_ids,
                encoded.completion_ids,
                encoded.loss_mask,
                None,
                _text(completion),
                "stop",
            )
        return samples[encoded.completion_ids].sample_id

    def finish(self, *, pairs: Sequence[Pair] = (), scores: Sequence[Score] = ()) -> Imported:
        """Everything, prompts in the order of their first row."""
        samples = [sample for group in self._samples.values() for sample in group.values()]
        self.counts["prompts"], self.counts["samples"] = len(self._prompts), len(samples)
        return Imported(
            list(self._prompts.values()), samples, list(pairs), list(scores), dict(self.counts)
        )


def _characters(completion: Sequence[Turn]) -> Encoded:
    if len(completion) != 1:
        roles = [turn.get("role") for turn in completion]
        raise DataError(
            f"an encoder reads a prompt and one reply, and a completion has the turns {roles}; "
            "put the turns before its last reply into the prompt"
        )
    text = _text(completion)
    return Encoded((), tuple(map(ord, text)), (1,) * len(text))


def _text(completion: Sequence[Turn]) -> str:
    """What the assistant says, turns separated by a blank line."""
    contents = [turn.get("content") for turn in completion if turn.get("role") == "assistant"]
    return "\n\n".join(content for content in contents if isinstance(content, str))
