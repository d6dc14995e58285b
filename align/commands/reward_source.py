"""The reward that a recipe's `score` describes, opened outside a run, and labelled pairs for it."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from align.data.convert import Cleaned, Preference, to_preferences
from align.data.fingerprint import local_folder
from align.data.rows import Row
from align.data.sources import name_of, read_rows
from align.errors import InputError
from align.recipe.load import load_recipe
from align.recipe.parts import scorings
from align.recipe.sections import Recipe, Scoring, Source
from align.records import Json
from align.rewards.labelled import Writer
from align.rewards.sources import weigh_sources
from align.rewards.weighted import Weighted

if TYPE_CHECKING:
    from align.rewards.rows import RowEncoder


@dataclass(frozen=True)
class Model:
    """A checkpoint that a reward source reads."""

    label: str
    folder: Path
    chat_template: str | None

    @property
    def is_encoder(self) -> bool:
        """Encoders read the text itself, and no end token."""
        from align.inference.encoders import holds_encoder
        from align.rewards.classifier import weights_of

        return holds_encoder(local_folder(weights_of(self.folder).base))

    def reader(self) -> RowEncoder:
        """Its tokenizer and template, as it reads text."""
        from align.rewards.classifier import weights_of
        from align.rewards.rows import RowEncoder, tokenizer_folder

        weights = weights_of(self.folder)
        return RowEncoder(
            tokenizer_folder(self.folder, weights),
            policy=None,
            chat_template=self.chat_template,
            base=local_folder(weights.base),
        )


@dataclass(frozen=True)
class RewardSource:
    """What a recipe says about its reward."""

    recipe: Recipe
    sections: tuple[Mapping[str, Json], ...]
    own: Path | None
    """The reward model that the recipe's run has trained, where `score` asks for it."""
    policy: str | None
    """The checkpoint whose tokenizer writes the samples."""

    @property
    def reward(self) -> Weighted:
        """All sources, weighted as in a run."""
        return weigh_sources(self.sections, own=self.own, policy=self.policy)

    def models(self) -> list[Model]:
        """The checkpoints, those inside ensembles and compositions too; files (a lexicon) and chat
        models, which read text, are none.
        """
        found: list[Model] = []
        for section in self.sections:
            label = str(section.get("label") or section["name"])
            if section["name"] == "reward_model" and section.get("path") is None:
                section = {**section, "path": str(self.own)}
            found += _models(label, section, None)
        return found

    def writer(self) -> Writer:
        """Writes samples as the policy would; without a policy, as the first model that reads
        tokens reads them.
        """
        from align.inference.encoders import holds_encoder
        from align.models import load_tokenizer

        template = self.recipe.policy.chat_template if self.recipe.policy else None
        if self.policy is not None and not holds_encoder(Path(self.policy)):
            return Writer(load_tokenizer(self.policy), template)
        for model in self.models():
            if not model.is_encoder:
                return model_writer(model)
        return Writer()


def _models(label: str, value: Json, template: str | None) -> Iterator[Model]:
    if isinstance(value, Mapping) and value.get("name") not in ("judge", "pairwise_judge"):
        own = value.get("chat_template")
        template = own if isinstance(own, str) else template
        path = value.get("path")
        if isinstance(path, str) and not Path(path).is_file():
            yield Model(label, local_folder(path), template)
        for each in value.values():
            yield from _models(label, each, template)
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for each in value:
            yield from _models(label, each, template)


def model_writer(model: Model) -> Writer:
    """Writes samples with a reward model's own tokenizer and template."""
    from align.models import load_tokenizer
    from align.rewards.classifier import weights_of

    has_tokenizer = (model.folder / "tokenizer_config.json").is_file()
    folder = model.folder if has_tokenizer else weights_of(model.folder).base
    return Writer(load_tokenizer(folder), model.chat_template)


def read_source(
    path: str, overrides: Sequence[str], out: str | None, *, gold: bool = False
) -> RewardSource:
    """The reward in a recipe: `score`, or where that is absent `evaluate.score` (the other way
    round for `gold`).

    Raises `InputError` where there is none, or the run's own reward model is asked for and absent.
    """
    recipe = load_recipe(path, overrides, runs=False)
    trained, held_out = recipe.score, recipe.evaluate.score if recipe.evaluate else None
    value = (held_out or trained) if gold else (trained or held_out)
    sections = [_plain(section) for _, section in scorings(value)]
    if not sections:
        raise InputError(f"{path} has no score; add e.g. score: {{name: reward_model, path: ...}}")
    folder = Path(out) if out else _run_folder(path, recipe)
    own = None
    if any(one["name"] == "reward_model" and one.get("path") is None for one in sections):
        own = folder / "reward"
        if not own.is_dir():
            raise InputError(
                f"{path} scores with the reward model of its own run, and {own} is not there; "
                "run it first, name the run's folder with --out, or give --set score.path=..."
            )
    return RewardSource(recipe, tuple(sections), own, _policy(recipe, folder))


def _run_folder(path: str, recipe: Recipe) -> Path:
    """Where the run lies: the folder of a run's own `recipe.yaml`, else the default one."""
    beside = Path(path).parent
    is_run = Path(path).name == "recipe.yaml" and (beside / "reward").is_dir()
    return beside if is_run else Path(f"runs/{recipe.run.name}")


def _policy(recipe: Recipe, folder: Path) -> str | None:
    if recipe.policy is None:
        return None
    if recipe.policy.path is not None:
        return str(local_folder(recipe.policy.path, recipe.policy.revision))
    made = folder / "policy"
    return str(made) if made.is_dir() else None


def _plain(section: Scoring) -> Mapping[str, Json]:
    return cast("Mapping[str, Json]", section.model_dump(mode="json"))


def read_pairs(source: Source, *, seed: int, chat: bool) -> Cleaned[Preference]:
    """Labelled pairs; `chat` takes plain text for one user turn and its reply. Raises `InputError`
    where none is left.
    """
    rows = read_rows(source, seed=seed)
    found = to_preferences([as_chat(row) for row in rows] if chat else rows)
    if not found.rows:
        counts = {name: n for name, n in found.counts.items() if n and name != "read"}
        left_out = ", ".join(f"{n} {name.replace('_', ' ')}" for name, n in counts.items())
        raise InputError(
            f"{name_of(source)} holds no labelled pair to try a reward on: of "
            f"{found.counts['read']} rows {left_out}; a pair is a prompt and two replies that "
            "differ and say something"
        )
    return found


def as_chat(row: Row) -> Row:
    """The row with a plain-text prompt as one user turn and plain-text completions as replies."""
    roles = dict.fromkeys(("chosen", "rejected", "completion"), "assistant") | {"prompt": "user"}
    values = {
        name: [{"role": roles[name], "content": value}]
        if name in roles and isinstance(value, str)
        else value
        for name, value in row.values.items()
    }
    return Row(values, row.source, row.place)


def labelled_source(args: argparse.Namespace, recipe: Recipe) -> Source:
    """What `--data` names, else the preferences that the recipe trains on.

    Raises `InputError` where there are none.
    """
    if args.limit is not None and args.limit < 1:
        raise InputError(f"--limit {args.limit} reads no pair; give at least 1, or leave it out")
    if args.data is not None:
        return Source(path=args.data, split=args.split, limit=args.limit)
    reward = recipe.reward.data if recipe.reward else None
    train = recipe.train.data if recipe.train else None
    for source in (reward, train):
        if isinstance(source, Source):
            return source.model_copy(update={"limit": args.limit or source.limit})
    raise InputError(
        "there are no labelled pairs to try the reward on; name a preference file: --data FILE "
        "(rows of prompt, chosen, rejected)"
    )
