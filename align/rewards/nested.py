"""Rewards made of other rewards: `{name: gate, when: {name: regex, ...}, then: {name: bleu}}`.

What stands inside is a reward with its options, and may have a `label` that names its part. A
`reward_model` inside needs its own `path`, and reads text, not the sampled ids.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from align.errors import RecipeError
from align.records import Sample, Score
from align.registry import build
from align.rewards.per_sample import failure
from align.rewards.protocol import Group, Reward

Inner = Mapping[str, object]
"""`{name: ..., label: ..., **options}`."""


def build_inner(section: Inner, option: str) -> Reward:
    """The reward in a section, which stands at `option`. Raises `ValueError` where it is wrong, so
    that a recipe is refused when it is read.
    """
    if section.get("name") == "reward_model" and section.get("path") is None:
        raise ValueError(f"inside `{option}`: a reward_model in another reward needs its path")
    try:
        return build("reward", {key: value for key, value in section.items() if key != "label"})
    except RecipeError as error:
        said = str(error).removeprefix("reward").lstrip(".: ")
        raise ValueError(f"inside `{option}`: {said}") from error


def label_of(section: Inner) -> str:
    """What its part is called: its label, else its name."""
    return str(section.get("label") or section.get("name"))


def parts_under(label: str, score: Score) -> dict[str, float | None]:
    """A score's value and parts, named under `label`."""
    return {label: score.value} | {f"{label}/{name}": part for name, part in score.parts.items()}


def told_of(label: str, error: str | None) -> str:
    """A part's error behind its label, which most name themselves already."""
    return str(error) if str(error).startswith(f"{label}: ") else f"{label}: {error}"


def failed_within(sample: Sample, label: str, score: Score) -> Score:
    """The failure of a part, as a failure of the whole; its parts are kept."""
    whole = failure(sample, told_of(label, score.error))
    return Score(whole.sample_id, None, parts_under(label, score), error=whole.error)


def pairs_of(
    groups: Sequence[Group], scores: Sequence[Sequence[Score]]
) -> list[list[tuple[Sample, Score]]]:
    """Each group's samples with their scores."""
    return [
        list(zip(group.samples, scores_G, strict=True))
        for group, scores_G in zip(groups, scores, strict=True)
    ]
