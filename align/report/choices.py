"""The choices of an online loop in words: papers and public scripts disagree about each of them."""

from __future__ import annotations

from align.recipe.sections import Ema, Evaluate, Generate, Plugin, Prompts, Recipe, Train, Window

_TELLING = ("loss", "label_smoothing", "beta", "keep", "between", "length_penalty", "min_margin")
"""Options of rules and objectives about which accounts of one method differ."""


def loop_choices(recipe: Recipe) -> dict[str, str]:
    """What each iteration takes, in the order of the flow; empty for a recipe without a loop."""
    train = recipe.train
    if train is None or recipe.generate is None:
        return {}
    several = recipe.generate if isinstance(recipe.generate, list) else [recipe.generate]
    found = {
        "iterations": str(recipe.run.iterations),
        "prompts": _prompts(recipe.prompts),
        "samples": " + ".join(_sampler(one) for one in several),
    }
    if recipe.select is not None:
        found["selection"] = _rule(recipe.select)
    if recipe.pair is not None:
        drop = recipe.pair.drop_quantile
        found["pairs"] = _rule(recipe.pair) + ("" if drop is None else f", lowest {drop:g} dropped")
    found |= {"objective": _rule(train.objective), "init": train.init}
    found |= {"reference": _reference(train), "history": _history(train)}
    found["KL to the first policy"] = _divergence(recipe.evaluate)
    stop = recipe.run.stop
    if stop is not None:
        bounds = stop.model_dump(exclude_none=True)
        found["stop"] = ", ".join(f"{name} {value:g}" for name, value in bounds.items())
    return found


def loop_line(recipe: Recipe) -> str:
    """The same in one line; empty for a recipe without a loop."""
    choices = loop_choices(recipe)
    count = choices.pop("iterations", "1")
    said = "; ".join(f"{name} {value}" for name, value in choices.items())
    return f"{count} iteration{'' if count == '1' else 's'}; {said}" if said else ""


def _prompts(prompts: Prompts | None) -> str:
    if prompts is None:
        return "stored"
    size = f"{prompts.per_iteration:,} each" if prompts.per_iteration else "all in equal parts"
    kind = "drawn anew each time" if prompts.resample else "disjoint"
    refill = prompts.refill
    if refill is None:
        return f"{kind}, {size}"
    wanted = f"{refill.informative:,} informative"
    return f"{kind}, {size}, refilled up to {refill.rounds} x until {wanted}"


def _sampler(sampler: Generate) -> str:
    options = sampler.options
    words = [sampler.name]
    if sampler.name == "stored":
        return f"stored {options.get('path', '')}".strip()
    words.append(f"x {options.get('n', 1)}")
    if "temperature" in options:
        words.append(f"at {options['temperature']}")
    words.append(f"of {sampler.policy}")
    if sampler.share is not None:
        words.append(f"for {sampler.share:g} of prompts")
    return " ".join(words)


def _rule(rule: Plugin) -> str:
    options = {name: rule.options.get(name) for name in _TELLING}
    return ", ".join([rule.name, *(f"{name} {said}" for name, said in options.items() if said)])


def _divergence(evaluate: Evaluate | None) -> str:
    if evaluate is None:
        return "not measured without evaluate"
    return "on held-out samples" if evaluate.kl else "not measured"


def _reference(train: Train) -> str:
    if isinstance(train.reference, Ema):
        return f"average ({train.reference.ema:g} kept)"
    return train.reference


def _history(train: Train) -> str:
    if not isinstance(train.history, Window):
        return train.history
    share = train.history.share
    return f"last {train.history.window}" + (
        "" if share is None else f", at most {share:g} replayed"
    )
