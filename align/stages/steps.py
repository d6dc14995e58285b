"""The plan of a run: which steps there are, what each reads, and what decides its content. Pure: no
I/O, no tensors.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from align.recipe.sections import (
    Ema,
    Generate,
    Made,
    Prompts,
    Recipe,
    Reward,
    Scoring,
    Section,
    Window,
)
from align.records import Json, derive_seed
from align.stages.rounds import gathered, joined, prompts_section, round_folders
from align.stages.step import Kind, Step, Verdict, curated, listed, plain, sampled

TRAINING_KINDS: frozenset[Kind] = frozenset({"sft", "reward", "policy"})
TOKEN_REWARDS = frozenset(
    {"reward_model", "served_reward_model", "ensemble", "process_reward", "fine_grained"}
)
"""Rewards that score the sampled ids where their tokenizer is the policy's (I1)."""
SHARDED_KINDS: frozenset[Kind] = frozenset({"generate", "score"})


def plan(recipe: Recipe, verdict: Verdict | None = None) -> list[Step]:
    """All steps of a run, in an order in which every input comes before its reader; after a
    verdict those that are left.
    """
    return list(_Planner(recipe, verdict or Verdict()).steps())


class _Planner:
    def __init__(self, recipe: Recipe, verdict: Verdict) -> None:
        self.recipe, self.verdict = recipe, verdict
        self.seed = recipe.run.seed
        self.initial = ""
        self.final = ""
        self.reward_model: str | None = None

    def steps(self) -> Iterator[Step]:
        recipe = self.recipe
        policy = recipe.policy
        base = ""
        if policy is not None and policy.config is not None:
            yield Step("policy", "init", section={**plain(policy), "seed": self.seed})
            base = "step:policy"
        elif policy is not None:
            base = f"path:{policy.path}"
        self.initial = base
        if recipe.sft is not None:
            yield Step("sft", "sft", {"policy": base}, self._training(recipe.sft))
            self.initial = "step:sft"
        if recipe.reward is not None:
            yield from self._reward(recipe.reward)
        if recipe.evaluate is not None:
            yield Step(
                "eval-prompts",
                "prompts",
                section=plain(recipe.evaluate.prompts) | {"seed": self.seed},
            )
        if recipe.train is not None or recipe.generate is not None:
            yield from self._iterations()
        elif recipe.evaluate is not None:
            yield from self._evaluate("start", self.initial)
            yield from self._evaluate_scores("start", self.initial)
        if recipe.publish is not None:
            only_reward = recipe.reward is not None and not self.final and recipe.sft is None
            result = self.reward_model if only_reward else self.final or self.initial
            # Where no policy that was trained here is kept, there is nothing to publish.
            if self.verdict.kept != "start" or recipe.sft is not None:
                yield Step("publish", "publish", {"model": result or ""}, plain(recipe.publish))

    def _reward(self, reward: Reward) -> Iterator[Step]:
        init = self.initial if reward.init == "policy" else f"path:{reward.init}"
        if isinstance(reward.data, Made):
            made, folder = reward.data, "reward-data"
            prompts = made.prompts or self.recipe.prompts
            if prompts is None:
                yield self._stored_prompts(folder, listed(made.generate), None)
            else:
                section = plain(prompts) | {"seed": self.seed, "iteration": 0}
                yield Step(f"{folder}/prompts", "prompts", section=section)
            names = f"{folder}/samples", f"{folder}/prompts"
            yield self._generate(*names, listed(made.generate), self.initial, folder)
            yield self._score(f"{folder}/scores", folder, listed(made.score))
            yield Step(
                f"{folder}/pairs", "pair", curated(folder), plain(made.pair) | {"seed": self.seed}
            )
            inputs = {"policy": init, **sampled(folder), "pairs": f"step:{folder}/pairs"}
            if reward.init != "policy" and self.initial:
                # the samples' tokens are the policy's, not those of the model that is trained
                inputs["tokenizer"] = self.initial
        else:
            inputs = {"policy": init}
        yield Step("reward", "reward", inputs, self._training(reward))
        self.reward_model = "step:reward"

    def _iterations(self) -> Iterator[Step]:
        recipe, current = self.recipe, self.initial
        reference: str | None = None
        last = self.verdict.last
        folders = [
            f"iter-{i:03d}" for i in range(recipe.run.iterations if last is None else last + 1)
        ]
        policies = {"start": current}
        is_sampled, evaluates = recipe.generate is not None, recipe.evaluate is not None
        # An iteration that may not begin is not sampled for. Else the next samples come before an
        # evaluation, so that one engine start serves both.
        is_gated = recipe.run.stop is not None
        if is_sampled:
            yield from self._prompts(folders[0], 0)
        if evaluates and current:
            yield from self._evaluate("start", current)
        for i, folder in enumerate(folders):
            if is_sampled:
                yield self._sample(folder, i, current)
            if evaluates and i == 0 and current:
                yield from self._evaluate_scores("start", current)
            if evaluates and i > 0 and not is_gated:
                yield from self._evaluate_scores(folders[i - 1], current)
            if is_sampled:
                yield from self._curate(folder, i, current)
            if recipe.train is None:
                continue
            if recipe.train.data is not None:
                yield Step(
                    f"{folder}/data",
                    "import",
                    {"policy": current},
                    plain(recipe.train.data) | self._policy_text() | {"seed": self.seed},
                    i,
                )
            if isinstance(recipe.train.reference, Ema) and i > 0:
                average = f"{folders[i - 1]}/reference"
                inputs = {"policy": current, "reference": reference or self.initial}
                yield Step(average, "ema", inputs, {"ema": recipe.train.reference.ema}, i - 1)
                reference = f"step:{average}"
            yield self._policy(folders[: i + 1], current, self._reference(current, reference))
            current = policies[folder] = f"step:{folder}/checkpoint"
            is_last = i + 1 == len(folders)
            if is_sampled and not is_last and not is_gated:
                yield from self._prompts(folders[i + 1], i + 1)
            if evaluates:
                yield from self._evaluate(folder, current)
            if evaluates and (is_gated or is_last):
                yield from self._evaluate_scores(folder, current)
            if is_gated:
                yield self._gate(folders[: i + 1])
                if is_sampled and not is_last:
                    yield from self._prompts(folders[i + 1], i + 1)
        self.final = policies[self.verdict.kept] if self.verdict.kept else current

    def _gate(self, folders: Sequence[str]) -> Step:
        """Decides after the last of these iterations whether there is another one."""
        stop = self.recipe.run.stop
        inputs = {f"summary:{name}": f"step:{name}/eval/summary" for name in ("start", *folders)}
        if stop is not None and stop.held_out_falls is not None:
            for folder in folders:
                for number, place in enumerate(round_folders(self.recipe, folder)):
                    suffix = f"+{number}" if number else ""
                    inputs[f"scores:{folder}{suffix}"] = f"step:{place}/scores"
        return Step(f"{folders[-1]}/stop", "stop", inputs, plain(stop), len(folders) - 1)

    def _prompts(self, folder: str, iteration: int) -> Iterator[Step]:
        if self.recipe.prompts is None:
            yield self._stored_prompts(folder, self._samplers(), iteration)
        else:
            yield self._round_prompts(self.recipe.prompts, [folder], iteration)

    def _round_prompts(self, prompts: Prompts, folders: Sequence[str], iteration: int) -> Step:
        """The prompts of a round: those of a refill depend on how the rounds before went."""
        section = prompts_section(prompts, len(folders) - 1)
        section |= {"seed": self.seed, "iteration": iteration}
        if prompts.per_iteration is None:
            section["iterations"] = self.recipe.run.iterations
        inputs = {"held_out": "step:eval-prompts"} if self.recipe.evaluate is not None else {}
        for number, place in enumerate(folders[:-1]):
            suffix = f"+{number}" if number else ""
            inputs |= {f"{role}{suffix}": f"step:{place}/{role}" for role in ("samples", "scores")}
        return Step(f"{folders[-1]}/prompts", "prompts", inputs, section, iteration)

    def _sample(self, folder: str, iteration: int, current: str) -> Step:
        """The samples of a round; all rounds of an iteration draw from one stream of seeds."""
        names = f"{folder}/samples", f"{folder}/prompts"
        return self._generate(*names, self._samplers(), current, f"samples-{iteration}")

    def _stored_prompts(
        self, folder: str, samplers: Sequence[Generate], iteration: int | None
    ) -> Step:
        """Those that came with stored samples, all stores' together."""
        inputs = {"policy": self.initial} if self.initial else {}
        section = {"stored": [plain(sampler) for sampler in samplers], **self._policy_text()}
        return Step(f"{folder}/prompts", "prompts", inputs, section, iteration)

    def _samplers(self) -> list[Generate]:
        return listed(self.recipe.generate)

    def _generate(
        self, name: str, prompts: str, samplers: Sequence[Generate], current: str, stream: str
    ) -> Step:
        inputs = {"prompts": f"step:{prompts}"}
        for sampler in samplers:
            if sampler.name != "stored" or self.initial:
                inputs["policy" if sampler.policy == "current" else f"policy:{sampler.policy}"] = (
                    self._named(sampler.policy, current)
                )
        section = {"samplers": [plain(sampler) for sampler in samplers], **self._policy_text()}
        return Step(name, "generate", inputs, section | {"seed": derive_seed(self.seed, stream)})

    def _named(self, policy: str, current: str) -> str:
        return {"current": current, "initial": self.initial}.get(policy, f"path:{policy}")

    def _score(self, name: str, folder: str, sources: Sequence[Scoring]) -> Step:
        inputs = sampled(folder)
        for source in sources:
            if source.name not in TOKEN_REWARDS:
                continue
            is_own = source.name == "reward_model" and source.options.get("path") is None
            if is_own and self.reward_model:
                inputs["reward"] = self.reward_model
            if self.initial:
                inputs["tokenizer"] = self.initial
        section = {"sources": [plain(source) for source in sources], "seed": self.seed}
        return Step(name, "score", inputs, section)

    def _curate(self, folder: str, i: int, current: str) -> Iterator[Step]:
        recipe = self.recipe
        seed = {"seed": self.seed, "iteration": i}
        rounds = round_folders(recipe, folder)
        for number, place in enumerate(rounds):
            if number and recipe.prompts is not None:
                yield self._round_prompts(recipe.prompts, rounds[: number + 1], i)
                yield self._sample(place, i, current)
            if recipe.score is not None:
                yield self._score(f"{place}/scores", place, listed(recipe.score))
        refill = recipe.prompts.refill if recipe.prompts else None
        if refill is not None:
            wanted: dict[str, Json] = {"informative": refill.informative}
            inputs = gathered(recipe, folder)
            yield Step(f"{folder}/informative", "informative", inputs, wanted, i)
        if recipe.select is not None:
            inputs = joined(recipe, folder)
            yield Step(f"{folder}/selected", "select", inputs, plain(recipe.select) | seed, i)
        if recipe.pair is not None:
            yield Step(f"{folder}/pairs", "pair", self._kept(folder), plain(recipe.pair) | seed, i)

    def _kept(self, folder: str) -> dict[str, str]:
        inputs = joined(self.recipe, folder)
        return inputs | (
            {"selected": f"step:{folder}/selected"} if self.recipe.select is not None else {}
        )

    def _reference(self, current: str, reference: str | None) -> str:
        train = self.recipe.train
        assert train is not None
        if isinstance(train.reference, Ema):
            return reference or self.initial
        return self.initial if train.reference == "initial" else current

    def _policy(self, folders: Sequence[str], previous: str, reference: str) -> Step:
        train = self.recipe.train
        assert train is not None
        folder, index = folders[-1], len(folders) - 1
        inputs = {
            "policy": previous if train.init == "previous" else self.initial,
            "reference": reference,
        }
        if train.data is not None:
            inputs["data"] = f"step:{folder}/data"
        else:
            window = {"current": 1, "all": len(folders)}.get(str(train.history), 0)
            if isinstance(train.history, Window):
                window = train.history.window
            for source in folders[-window:]:
                suffix = "" if source == folder else f":{source}"
                kept = self._kept(source)
                if self.recipe.pair is not None:
                    kept["pairs"] = f"step:{source}/pairs"
                for role, value in kept.items():
                    head, plus, number = role.partition("+")
                    inputs[f"{head}{suffix}{plus}{number}"] = value
        # Which weights and rows these choices come to is said by the inputs, whose content is in
        # the key; so an iteration that they leave alone is not made again when they change.
        chosen = {"reference", "init", "history"}
        section = {k: v for k, v in self._training(train).items() if k not in chosen}
        if isinstance(train.history, Window) and any(
            role.startswith("samples:") for role in inputs
        ):
            section["share"] = train.history.share
        return Step(f"{folder}/checkpoint", "policy", inputs, section, index)

    def _training(self, section: Section) -> dict[str, Json]:
        policy = self._policy_text("attention", "quantization")
        return plain(section) | policy | {"seed": self.seed}

    def _policy_text(self, *also: str) -> dict[str, Json]:
        kept = ("dtype", "chat_template", "peft", *also)
        return {name: value for name, value in plain(self.recipe.policy).items() if name in kept}

    def _evaluate(self, folder: str, current: str) -> Iterator[Step]:
        recipe = self.recipe
        assert recipe.evaluate is not None
        sampler = recipe.evaluate.generate
        if sampler is None and recipe.generate is not None:
            first = self._samplers()[0]
            sampler = first.model_copy(update={"n": 1, "policy": "current", "share": None})
        yield self._generate(
            f"{folder}/eval/samples", "eval-prompts", listed(sampler), current, "eval"
        )

    def _evaluate_scores(self, folder: str, current: str) -> Iterator[Step]:
        recipe = self.recipe
        assert recipe.evaluate is not None
        sources = listed(
            recipe.evaluate.score if recipe.evaluate.score is not None else recipe.score
        )
        scored = self._score(f"{folder}/eval/scores", f"{folder}/eval", sources)
        yield Step(
            scored.name, "score", scored.inputs | {"prompts": "step:eval-prompts"}, scored.section
        )
        inputs = {
            "prompts": "step:eval-prompts",
            "samples": f"step:{folder}/eval/samples",
            "scores": f"step:{folder}/eval/scores",
        }
        if folder != "start":
            inputs |= {
                "start": "step:start/eval/scores",
                "start_samples": "step:start/eval/samples",
            }
        if folder != "start" and recipe.evaluate.kl:
            inputs |= {"policy": current, "initial": self.initial}
        section = {"seed": self.seed} | self._policy_text()
        if recipe.evaluate.vote is not None:
            section["vote"] = plain(recipe.evaluate.vote)
        yield Step(f"{folder}/eval/summary", "evaluate", inputs, section)
