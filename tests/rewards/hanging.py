"""A `python` reward that may never end; a module of its own, so that workers import little."""

from __future__ import annotations

from collections.abc import Sequence

from align.records import Prompt, Sample


def measure_or_hang(prompt: Prompt, samples: Sequence[Sample]) -> list[float]:
    """Ids and meta arrive as they were; an empty text never ends."""
    while any(not sample.text for sample in samples):
        pass
    assert isinstance(samples[0].completion_ids, tuple) and prompt.meta == {"unit": [1]}
    return [float(len(sample.completion_ids)) for sample in samples]
