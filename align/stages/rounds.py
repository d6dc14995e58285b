"""Where the rounds of dynamic sampling lie and what reads them (`prompts.refill`). Pure.

Round 0 is the iteration's own `prompts`, `samples` and `scores`; later rounds have folders of their
own, and `informative` names the prompts of all of them that are trained on.
"""

from __future__ import annotations

from align.recipe.sections import Prompts, Recipe
from align.records import Json
from align.stages.step import plain


def round_folders(recipe: Recipe, folder: str) -> list[str]:
    """The folder of each round of an iteration, the iteration's own first."""
    refill = recipe.prompts.refill if recipe.prompts else None
    later = 0 if refill is None else refill.rounds
    return [folder, *(f"{folder}/round-{number}" for number in range(1, later + 1))]


def gathered(recipe: Recipe, folder: str) -> dict[str, str]:
    """All that an iteration sampled, by role: `samples`, `samples+1` of the first refill, ...

    Scores that came with stored samples lie beside these.
    """
    roles: dict[str, str] = {}
    scores = "samples" if recipe.score is None else "scores"
    for number, place in enumerate(round_folders(recipe, folder)):
        suffix = f"+{number}" if number else ""
        roles |= {f"{role}{suffix}": f"step:{place}/{role}" for role in ("prompts", "samples")}
        roles[f"scores{suffix}"] = f"step:{place}/{scores}"
    return roles


def joined(recipe: Recipe, folder: str) -> dict[str, str]:
    """What selection, pairing and training read of it: of several rounds the informative prompts
    alone.
    """
    roles = gathered(recipe, folder)
    if recipe.prompts is None or recipe.prompts.refill is None:
        return roles
    kept = {role: name for role, name in roles.items() if not role.startswith("prompts")}
    return {"prompts": f"step:{folder}/informative", **kept}


def prompts_section(prompts: Prompts, number: int) -> dict[str, Json]:
    """What decides the prompts of a round: how many are wanted matters from the first refill on."""
    section = {key: value for key, value in plain(prompts).items() if key != "refill"}
    if prompts.refill is None:
        return section
    section["slices"] = 1 + prompts.refill.rounds
    if number:
        section |= {"round": number, "informative": prompts.refill.informative}
    return section
