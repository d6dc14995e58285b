"""The model card: what was trained from what, on which data, how it measured, and how to check the
lineage.

The YAML front matter follows the Hub's schema (library, base model, data sets, tags, `model-index`
with the results). Secrets and paths of this machine are cut out before anything is written (I8).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import yaml
from huggingface_hub import EvalResult, ModelCardData

from align.recipe.load import resolved_yaml
from align.recipe.sections import Made, Recipe, Source
from align.records import Json
from align.report.redact import redact
from align.report.summary import Point, Summary
from align.stages.manifest import Manifest
from align.stages.steps import Step

MARK = "<!-- written by align publish -->"
_METRICS = ("score", "gain", "kl", "tokens", "distinct_2", "at_limit")


@dataclass(frozen=True)
class Subject:
    """What the card describes."""

    step: Step
    manifest: Manifest
    fingerprint: str
    """Of the weights, as `Sample.policy` would name them."""
    hub_base: str | None
    is_adapter: bool
    name: str
    """Title: the repository or folder."""
    tags: tuple[str, ...] = ()


def render_card(summary: Summary, subject: Subject) -> str:
    """README.md, front matter first."""
    sections = [
        f"---\n{_front_matter(summary, subject)}\n---",
        MARK,
        f"# {subject.name}",
        _opening(summary, subject),
        *_evaluation(summary),
        "## Data\n\n" + _table(("use", "source", "split"), list(_data_rows(summary.recipe))),
        "## Lineage\n\n" + _lineage(summary, subject),
        "## Recipe\n\nThe whole run with every default written out; local paths are shortened.\n\n"
        f"```yaml\n{_recipe_text(summary.recipe).strip()}\n```",
    ]
    return "\n\n".join(sections) + "\n"


def _front_matter(summary: Summary, subject: Subject) -> str:
    is_reward = subject.step.kind == "reward"
    point = _point_of(summary, subject)
    results = list(_eval_results(summary, point)) if point is not None else []
    tags = ["align", "alignment", *_method_tags(summary.recipe), *subject.tags]
    data = ModelCardData(
        base_model=subject.hub_base,
        datasets=_hub_data(summary.recipe) or None,
        library_name="peft" if subject.is_adapter else "transformers",
        pipeline_tag="text-classification" if is_reward else "text-generation",
        tags=list(dict.fromkeys(tags)),
        model_name=subject.name.rpartition("/")[2] if results else None,
        eval_results=results or None,
    )
    if subject.hub_base is not None:
        data["base_model_relation"] = "adapter" if subject.is_adapter else "finetune"
    return data.to_yaml()


def _method_tags(recipe: Recipe) -> list[str]:
    tags = ["sft"] if recipe.sft is not None else []
    if recipe.train is not None:
        tags.append(recipe.train.objective.name.replace("_", "-").rpartition(".")[2])
        tags += ["rlhf"] if recipe.generate is not None else []
    if recipe.reward is not None and recipe.train is None:
        tags.append("reward-model")
    return tags


def _eval_results(summary: Summary, point: Point) -> Iterator[EvalResult]:
    evaluate = summary.recipe.evaluate
    if evaluate is None:
        return
    name = _source_name(evaluate.prompts)
    for metric in _columns([point]):
        mean = point.mean(metric)
        if mean is not None and (metric in ("score", "kl") or metric.startswith("pass@")):
            yield EvalResult(
                task_type="text-generation",
                dataset_type=name,
                dataset_name=name,
                dataset_split=evaluate.prompts.split,
                metric_type=metric,
                metric_name=metric,
                metric_value=mean,
            )


def _opening(summary: Summary, subject: Subject) -> str:
    recipe = summary.recipe
    start = f"`{subject.hub_base}`" if subject.hub_base else "a model of the recipe's own `policy`"
    steps = ["supervised fine-tuning"] if recipe.sft is not None else []
    if recipe.train is not None and subject.step.kind == "policy":
        objective = redact(recipe.train.objective.name)
        steps.append(f"{recipe.run.iterations} iteration(s) of `{objective}`")
    if subject.step.kind == "reward":
        steps = ["reward-model training"]
    made = f"Made from {start} by {' and '.join(steps) or 'initialisation'}"
    kind = (
        "AutoModelForSequenceClassification"
        if subject.step.kind == "reward"
        else "AutoModelForCausalLM"
    )
    loader = f"from transformers import {kind}, AutoTokenizer\n\nmodel = {kind}"
    if subject.is_adapter:
        kind = "AutoPeft" + kind.removeprefix("Auto")
        loader = (
            f"from peft import {kind}\nfrom transformers import AutoTokenizer\n\nmodel = {kind}"
        )
    code = (
        f'{loader}.from_pretrained("{subject.name}")\n'
        f'tokenizer = AutoTokenizer.from_pretrained("{subject.name}")'
    )
    return f"{made}, seed {recipe.run.seed}.\n\n```python\n{code}\n```"


def _evaluation(summary: Summary) -> list[str]:
    if not summary.points:
        return []
    names = _columns(summary.points)
    rows = [(point.name, *(_cell(point, name) for name in names)) for point in summary.points]
    recipe = summary.recipe
    prompts = _source_name(recipe.evaluate.prompts) if recipe.evaluate else "held-out prompts"
    note = f"On held-out prompts of {prompts}; in brackets 95 % bootstrap intervals over prompts."
    note += " The gain is in score, over the first policy." if "gain" in names else ""
    return ["## Evaluation\n\n" + note + "\n\n" + _table(("policy", *names), rows)]


def _columns(points: Sequence[Point]) -> list[str]:
    """Names of the metrics that some point has: pass@k first, parts of the score last."""
    found = {name for point in points for name in point.metrics}
    passes = sorted(name for name in found if name.startswith("pass@"))
    parts = sorted(name for name in found if name.startswith("score/"))
    return passes + [name for name in _METRICS if name in found] + (parts if len(parts) > 1 else [])


def _cell(point: Point, name: str) -> str:
    mean, bounds = point.mean(name), point.bounds(name)
    if mean is None:
        return "-"
    return f"{mean:.3f}" if bounds is None else f"{mean:.3f} [{bounds[0]:.3f}, {bounds[1]:.3f}]"


def _point_of(summary: Summary, subject: Subject) -> Point | None:
    first = subject.step.name.split("/")[0]
    wanted = first if first.startswith("iter-") else "start"
    return next((point for point in summary.points if point.name == wanted), None)


def _sources(recipe: Recipe) -> Iterator[tuple[str, Source]]:
    named: list[tuple[str, Source | Made | None]] = [
        ("SFT", recipe.sft.data if recipe.sft else None),
        ("reward model", recipe.reward.data if recipe.reward else None),
        ("prompts", recipe.prompts),
        ("preferences", recipe.train.data if recipe.train else None),
        ("evaluation", recipe.evaluate.prompts if recipe.evaluate else None),
    ]
    for use, source in named:
        if isinstance(source, Made):
            source = source.prompts
        if source is not None:
            yield from ((use, one) for one in _leaves(source))


def _leaves(source: Source) -> Iterator[Source]:
    if source.mix is None:
        yield source
    for child in source.mix or []:
        yield from _leaves(child)


def _source_name(source: Source) -> str:
    return str(redact(source.path or source.name or "a mixture"))


def _data_rows(recipe: Recipe) -> Iterator[tuple[str, ...]]:
    for use, source in _sources(recipe):
        is_builtin = source.name is not None
        yield use, _source_name(source) + (" (built in)" if is_builtin else ""), source.split


def _hub_data(recipe: Recipe) -> list[str]:
    """Ids of data sets on the Hub; a path with a file's suffix or more than one slash is none."""
    paths = [source.path for _, source in _sources(recipe) if source.path]
    is_id = [
        path.count("/") == 1 and path[0] not in "./~" and "." not in path[-9:] for path in paths
    ]
    return list(dict.fromkeys(path for path, wanted in zip(paths, is_id, strict=True) if wanted))


def _lineage(summary: Summary, subject: Subject) -> str:
    versions = subject.manifest.key.get("versions")
    used = versions if isinstance(versions, Mapping) else {}
    facts = [
        f"Weights: step `{subject.step.name}`, fingerprint `{subject.fingerprint}`, "
        f"content `{subject.manifest.content}`.",
        "Software: "
        + (", ".join(f"{name} {number}" for name, number in used.items()) or "-")
        + ".",
    ]
    rows = [
        (
            f"`{step.name}`",
            ", ".join(f"{role} = `{_input(name)}`" for role, name in step.inputs.items()) or "-",
            f"`{manifest.content[:16]}`",
            ", ".join(
                f"{count:,} {name.replace('_', ' ')}" for name, count in manifest.counts.items()
            ),
            manifest.finished,
        )
        for step, manifest in summary.steps
        if manifest is not None
    ]
    return (
        " ".join(facts)
        + "\n\n"
        + _table(("step", "made from", "content", "counts", "finished"), rows)
    )


def _input(reference: str) -> str:
    kind, _, name = reference.partition(":")
    return name if kind == "step" else str(redact(name))


def _recipe_text(recipe: Recipe) -> str:
    values: Json = yaml.safe_load(resolved_yaml(recipe))
    return yaml.safe_dump(redact(values), sort_keys=False, allow_unicode=True, width=100)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return "None recorded."
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in lines
    )
