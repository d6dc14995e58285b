"""Name -> "module:Class" for everything a recipe can name; imported on use. One line here adds a
plug-in.

A dotted name (`my_pkg.MyRule`) loads code from outside the tree. `build` makes one from Python.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass, replace
from typing import (
    TYPE_CHECKING,
    Literal,
    TypeAlias,
    cast,
    get_args,
    get_origin,
    get_type_hints,
    overload,
)

from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError, PydanticUndefinedAnnotation

from align.errors import RecipeError
from align.recipe.problems import Problem, explain, suggest
from align.recipe.values import is_any_mapping, is_collection

if TYPE_CHECKING:
    from align.generation.protocol import Generator
    from align.protocols import Objective, PairingRule, SelectionRule
    from align.rewards.protocol import Reward

Kind: TypeAlias = Literal["objective", "selection", "pairing", "reward", "generator", "dataset"]

TABLES: dict[Kind, dict[str, str]] = {
    "objective": {
        "dpo": "align.objectives.dpo:Dpo",
        "slic": "align.objectives.slic:Slic",
        "simpo": "align.objectives.simpo:Simpo",
        "orpo": "align.objectives.orpo:Orpo",
        "cpo": "align.objectives.cpo:Cpo",
        "xpo": "align.objectives.xpo:Xpo",
        "kto": "align.objectives.kto:Kto",
        "redi": "align.objectives.redi:Redi",
        "reinforce": "align.objectives.reinforce:Reinforce",
        "topr": "align.objectives.topr:Topr",
        "tis": "align.objectives.windowed:Tis",
        "naive": "align.objectives.windowed:Naive",
        "positives_only": "align.objectives.windowed:PositivesOnly",
        "cispo": "align.objectives.windowed:Cispo",
        "ppo_clip": "align.objectives.ppo_clip:PpoClip",
        "gspo": "align.objectives.ppo_clip:Gspo",
        "imitation": "align.objectives.imitation:Imitation",
    },
    "selection": {
        "best_of_n": "align.selection.best_of_n:BestOfN",
        "statistical_rejection": "align.selection.statistical_rejection:StatisticalRejection",
        "anna_karenina": "align.selection.anna_karenina:AnnaKarenina",
    },
    "pairing": {
        "max_min": "align.pairing.max_min:MaxMin",
        "max_max": "align.pairing.max_max:MaxMax",
        "max_random": "align.pairing.random_pair:MaxRandom",
        "random": "align.pairing.random_pair:RandomPair",
        "all_pairs": "align.pairing.all_pairs:AllPairs",
        "first_round": "align.pairing.first_round:FirstRound",
        "tournament": "align.pairing.tournament:Tournament",
    },
    "reward": {
        "reward_model": "align.rewards.reward_model:RewardModel",
        "ensemble": "align.rewards.ensemble:Ensemble",
        "process_reward": "align.rewards.process_reward:ProcessReward",
        "fine_grained": "align.rewards.fine_grained:FineGrained",
        "served_reward_model": "align.rewards.served_reward_model:ServedRewardModel",
        "judge": "align.rewards.judge:Judge",
        "pairwise_judge": "align.rewards.pairwise_judge:PairwiseJudge",
        "pairwise_model": "align.rewards.pairwise_model:PairwiseModel",
        "generative_verifier": "align.rewards.generative_verifier:GenerativeVerifier",
        "pairwise_baseline": "align.rewards.pairwise_baseline:PairwiseBaseline",
        "exact_match": "align.rewards.exact_match:ExactMatch",
        "math_verify": "align.rewards.math_verify:MathVerify",
        "graded": "align.rewards.graded:Graded",
        "length": "align.rewards.length:Length",
        "regex": "align.rewards.regex:Regex",
        "lexicon": "align.rewards.lexicon:Lexicon",
        "python": "align.rewards.python_function:PythonFunction",
        "http": "align.rewards.http:Http",
        "code": "align.rewards.code:Code",
        "instructions": "align.rewards.instructions:Instructions",
        "numeric": "align.rewards.numeric:Numeric",
        "format_tags": "align.rewards.format_tags:FormatTags",
        "overlong": "align.rewards.overlong:Overlong",
        "cosine_length": "align.rewards.cosine_length:CosineLength",
        "bleu": "align.rewards.translation:Bleu",
        "chrf": "align.rewards.translation:Chrf",
        "answer_clusters": "align.rewards.answer_clusters:AnswerClusters",
        "tool_efficiency": "align.rewards.tool_efficiency:ToolEfficiency",
        "total": "align.rewards.total:Total",
        "product": "align.rewards.product:Product",
        "gate": "align.rewards.gate:Gate",
        "clip": "align.rewards.clip:Clip",
        "threshold": "align.rewards.threshold:Threshold",
        "whiten": "align.rewards.whiten:Whiten",
    },
    "generator": {
        "vllm": "align.generation.vllm:Vllm",
        "transformers": "align.generation.transformers:Transformers",
        "stored": "align.generation.stored:Stored",
    },
    "dataset": {
        "addition": "align.data.builtin.addition:Addition",
        "pairwise": "align.data.builtin.pairwise:Pairwise",
        "verdicts": "align.data.builtin.verdicts:Verdicts",
        "random_calculation": "align.data.builtin.random_calculation:RandomCalculation",
    },
}


class PluginError(RecipeError):
    """A plug-in that cannot be found or imported, or options that it does not take."""


@dataclass(frozen=True)
class Checked:
    """What became of a plug-in's section: the built config (None where there are problems) and all
    its options.
    """

    config: object | None
    options: Mapping[str, object]
    problems: tuple[Problem, ...] = ()


def plugin_class(kind: Kind, name: str) -> type:
    """The config class behind `name`; raises `PluginError` with the key `name`."""
    table = TABLES[kind]
    target = table.get(name)
    if target is None and "." not in name:
        raise PluginError(
            f'"{name}" is not a known {kind}',
            key="name",
            remedy=_as_option(kind, name) or suggest(name, table, what="known ones"),
        )
    module_name, _, class_name = (
        (target or name.replace(":", ".")).replace(":", ".").rpartition(".")
    )
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise PluginError(
            f'"{name}" cannot be imported: {error}', key="name", remedy=_import_remedy(name, error)
        ) from error
    found: object = getattr(
        module, class_name, None
    )  # as an import would: packages may export lazily
    if not isinstance(found, type):
        classes = [key for key, value in vars(module).items() if isinstance(value, type)]
        raise PluginError(
            f'"{name}" cannot be imported: {module_name} has no class {class_name}',
            key="name",
            remedy=suggest(class_name, classes, what="it has"),
        )
    if not is_dataclass(found):
        raise PluginError(
            f'"{name}" is not a dataclass',
            key="name",
            remedy=f"decorate {class_name} with @dataclass(frozen=True)",
        )
    if kind == "objective" and "needs" not in dir(found):
        raise PluginError(
            f'"{name}" is not an objective: it has no `needs`',
            key="name",
            remedy=f"add needs: ClassVar[frozenset[str]] to {class_name}",
        )
    return found


def _as_option(kind: Kind, name: str) -> str | None:
    """`write {name: dpo, loss: hinge}` where the name is a value of an objective's option."""
    for objective in TABLES["objective"] if kind == "objective" else ():
        for option, hint in get_type_hints(plugin_class(kind, objective)).items():
            if get_origin(hint) is Literal and name in get_args(hint):
                return f"write {{name: {objective}, {option}: {name}}}"
    return None


def _as_name(kind: Kind, problem: Problem, options: Mapping[str, object]) -> Problem:
    """The problem; its remedy is to name the objective that was given as an option of another."""
    value = options.get(str(problem.key[0])) if len(problem.key) == 1 else None
    if kind != "objective" or not isinstance(value, str) or value not in TABLES[kind]:
        return problem
    return replace(problem, remedy=f"{value} is an objective of its own: write {{name: {value}}}")


def _import_remedy(name: str, error: ImportError) -> str:
    missing = error.name if isinstance(error, ModuleNotFoundError) else None
    if missing is None:
        return "repair that import"
    if missing.partition(".")[0] == "align":
        return "this installation of align is incomplete: install it again"
    if name.startswith(missing):
        return "check the dotted name, and that its package is installed or in the working folder"
    return f"install {missing}"


def check(
    kind: Kind, name: str, options: Mapping[str, object], *, also: Sequence[str] = ()
) -> Checked:
    """Validates `options` strictly (lists are taken for tuples) and fills in the defaults.

    `also` names keys that may stand beside the options, for suggestions. Problems are keyed within
    the section.
    """
    try:
        config_class = plugin_class(kind, name)
    except PluginError as error:
        return Checked(None, options, (Problem(("name",), error.message, error.remedy),))
    known = [field.name for field in fields(config_class) if field.init]
    unknown = tuple(
        Problem(
            (key,), f"is not an option of {name}", suggest(key, [*known, *also], what="its options")
        )
        for key in options
        if key not in known
    )
    taken = {key: value for key, value in options.items() if key in known}
    try:
        # JSON: the mode in which pydantic is strict and yet takes lists for tuples.
        config = TypeAdapter(config_class).validate_json(json.dumps(taken), strict=True)
    except ValidationError as error:
        found = explain(error, taken, config_class)
        problems = tuple(_as_name(kind, each, taken) for each in found)
        return Checked(None, options, (*unknown, *problems))
    except (PydanticUndefinedAnnotation, PydanticSchemaGenerationError, TypeError) as error:
        reason = str(error).splitlines()[0]
        problem = Problem(
            ("name",), f"{name} cannot be validated: {reason}", "use plain types for its fields"
        )
        return Checked(None, options, (*unknown, problem))
    if unknown:
        return Checked(None, options, unknown)
    # defaults inside a nested config belong to the resolved recipe too
    built = {key: cast(object, getattr(config, key)) for key in taken}
    nested = {key: _plain(each) for key, each in built.items() if is_dataclass(each)}
    return Checked(config, defaults_of(config_class) | taken | nested)


def defaults_of(config_class: type) -> dict[str, object]:
    """The options that need not be given, as they would stand in YAML."""
    found: dict[str, object] = {}
    for field in fields(config_class):
        if not field.init:
            continue
        if field.default is not MISSING:
            found[field.name] = _plain(field.default)
        elif field.default_factory is not MISSING:
            found[field.name] = _plain(field.default_factory())
    return found


def _plain(value: object) -> object:
    if is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: _plain(vars(value)[field.name]) for field in fields(value) if field.init
        }
    if is_any_mapping(value):
        return {str(key): _plain(each) for key, each in value.items()}
    if is_collection(value):
        return [_plain(each) for each in value]
    return value


@overload
def build(kind: Literal["objective"], spec: Mapping[str, object]) -> Objective: ...
@overload
def build(kind: Literal["selection"], spec: Mapping[str, object]) -> SelectionRule: ...
@overload
def build(kind: Literal["pairing"], spec: Mapping[str, object]) -> PairingRule: ...
@overload
def build(kind: Literal["reward"], spec: Mapping[str, object]) -> Reward: ...
@overload
def build(kind: Literal["generator"], spec: Mapping[str, object]) -> Generator: ...
@overload
def build(kind: Literal["dataset"], spec: Mapping[str, object]) -> object: ...
def build(kind: Kind, spec: Mapping[str, object]) -> object:
    """The plug-in that `spec` (`{"name": ..., **options}`) describes.

    Raises `PluginError` whose key is the wrong option. `build("objective", {"name": "dpo", "beta":
    0.2})`.
    """
    if kind not in TABLES:
        raise PluginError(
            f'"{kind}" is not a kind of plug-in', key="kind", remedy=suggest(kind, TABLES)
        )
    name = spec.get("name")
    if not isinstance(name, str):
        raise PluginError(
            "is required", key="name", remedy=f"known ones: {', '.join(sorted(TABLES[kind]))}"
        )
    checked = check(kind, name, {key: value for key, value in spec.items() if key != "name"})
    if checked.problems:
        first = checked.problems[0]
        key = ".".join([kind, *map(str, first.key)])
        raise PluginError(first.message, key=key, remedy=first.remedy)
    return checked.config
