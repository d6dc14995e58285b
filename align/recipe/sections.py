"""The sections of a recipe, in the order of the flow. A section that is absent is a stage that does
not run.

Plug-in sections (`generate`, `score`, `select`, `pair`, `objective`, built-in data) keep their own
options beside `name`; those are validated against the plug-in's config class by
`align.recipe.load`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Discriminator, Field, Tag

from align.recipe.loop_sections import LoopStop, Refill
from align.recipe.section import Count, Options, Section
from align.recipe.train_sections import Advantage, Correction, Ema, Limits, Vote, Window
from align.recipe.values import is_mapping


class Plugin(Section):
    """`name` picks the class (see `align/registry.py`, or a dotted name); the other keys are its
    options.
    """

    model_config = ConfigDict(extra="allow")
    name: str

    @property
    def options(self) -> Options:
        """The keys that belong to the plug-in's own config class."""
        return dict(self.model_extra or {})


class Source(Plugin):
    """Rows to read: a `path` (Hub id, file, folder), a built-in data set by `name`, or a `mix` of
    sources.
    """

    name: str | None = None  # pyright: ignore[reportIncompatibleVariableOverride, reportGeneralTypeIssues]
    """A built-in data set; its options stand beside it. Exclusive with `path` and `mix`."""
    path: str | None = None
    """Hub id, `.jsonl`, `.jsonl.gz`, `.json`, `.parquet`, or a folder of them."""
    mix: list[Source] | None = None
    """Several sources, drawn in proportion to their `weight`s."""
    weight: Annotated[float, Field(gt=0)] = 1.0
    """Share in a mix, relative to its siblings."""
    split: str = "train"
    config: str | None = None
    """Hub configuration (subset) name."""
    revision: str | None = None
    limit: Count | None = None
    """At most this many rows, the first ones after shuffling."""
    shuffle: bool = True
    """Seeded by `run.seed`; false keeps file order."""
    columns: dict[str, str] = {}
    """Our column name: theirs, e.g. `{prompt: question, answer: final}`."""


class Prompts(Source):
    """Prompts of the online loop."""

    per_iteration: Count | None = None
    """Prompts an iteration takes, disjoint between iterations; default: an equal share of all."""
    resample: bool = False
    """True draws each iteration anew from all prompts instead of disjoint sets."""
    refill: Refill | None = None
    """Sample further prompts until enough of them tell good from bad (DAPO's dynamic sampling)."""


class Run(Section):
    """The run as a whole."""

    name: str | None = None
    """Default: the recipe's file name. The default output folder is `runs/<name>`."""
    seed: Annotated[int, Field(ge=0)] = 0
    iterations: Count = 1
    cache: str | None = None
    """Folder that shares samples, scores and log-probs between runs, by content."""
    keep_engine: bool | None = None
    """Samplers stay alive between iterations and load the new weights: asleep on CUDA, so that
    training has the memory; on the CPU where a quarter of what is left is enough for them. Default:
    on the CPU; CUDA's sleeping engines have not been measured yet."""
    fork: bool = True
    """Stages of one process on the CPU are forks of a process that has imported the libraries
    (Linux): same content, and a start takes a tenth of a second. False starts each anew."""
    patience: Annotated[float, Field(gt=0)] = 3600.0
    """Seconds that a sampling worker may take for one sample, or a scoring worker for one shard,
    before it counts as hung: it is killed, and others make its shard."""
    report_to: list[Literal["tensorboard", "wandb", "trackio"]] = []
    stop: LoopStop | None = None
    """Ends the loop early; by what `evaluate` measures after each iteration."""


class Quantization(Section):
    """The base in few bits under an adapter (QLoRA, arXiv:2305.14314), by bitsandbytes on CUDA."""

    bits: Literal[4, 8] = 4
    kind: Literal["nf4", "fp4"] = "nf4"
    """Of 4 bits: `nf4` for weights that are normally distributed, as trained ones are."""
    double: bool = True
    """Of 4 bits: the scales are quantised too, which saves 0.4 bits a weight."""


class Policy(Section):
    """The model to align: a checkpoint by `path`, or one made from `config` and `tokenizer`."""

    path: str | None = None
    """Hub id or folder."""
    revision: str | None = None
    config: Options | None = None
    """A transformers config with `model_type`, for a model from scratch; vocabulary size is filled
    in.
    """
    tokenizer: Options | None = None
    """`{kind: characters, alphabet: "0123456789+="}` or `{path: ...}`."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    chat_template: str | None = None
    """None: the tokenizer's own; `none`: plain concatenation; `chatml`, ...: a named one; or a
    `.jinja` file.
    """
    peft: Options | None = None
    """Keys of `peft.LoraConfig`; absent means full weights."""
    attention: Literal["sdpa", "eager", "flex_attention", "flash_attention_2"] | None = None
    """Kernel that policy training attends by; default: the library's choice. On CUDA
    `flex_attention` skips what no two completions share; a layout that a kernel gets wrong is not
    used (`train.layout`).
    """
    quantization: Quantization | None = None
    """SFT and policy training over a base in few bits; needs `peft`. Samplers and reward models
    load it whole.
    """
    trust_remote_code: bool = False
    """Run code shipped with the checkpoint (I8: only by name)."""


class Stop(Section):
    """Stops SFT by a metric: sampled at temperature 1 on held-out rows, every so many steps."""

    score: str = "exact_match"
    at: float
    """Stop when the mean score reaches this."""
    every: Count = 10
    """Optimizer steps between checks."""
    count: Count = 500
    """Rows held out from the SFT data for the check (never trained on, never the reported split).
    """
    max_new_tokens: Count = 16


class Sft(Section):
    """Supervised fine-tuning by TRL's SFTTrainer; `args` go to `trl.SFTConfig`."""

    data: Source
    stop: Stop | None = None
    global_batch_size: Count = 32
    micro_batch_size: Count | None = None
    """Rows a device forwards at once; default: as many as divide the global batch evenly, at most 8
    (CPU: all).
    """
    max_length: Count = 1024
    add_generation_prompt: bool = True
    """Whether a reply stands behind the assistant's header. False: right behind the user's turn,
    without BOS and end token, as in the released RLHFlow pair-preference models; `pairwise_model`
    has the same switch, and the two must agree."""
    args: Options = {}


class Generate(Plugin):
    """A sampler: `vllm`, `transformers` or `stored`; n, temperature, ... are its options."""

    policy: str = "current"
    """Weights to sample from: `current`, `initial`, or a checkpoint."""
    share: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Share of the prompts that this sampler draws for; those of several samplers add up to 1 and
    divide the prompts among them. Default: it draws for every prompt.
    """


class Scoring(Plugin):
    """A reward source; several are summed with their weights."""

    weight: Annotated[float, Field(allow_inf_nan=False)] = 1.0
    """0 reports the source without counting it."""
    label: str | None = None
    """Name of its part in reports; default: the source's name."""


class PairFrom(Plugin):
    """A pairing rule; `judge` fills the preference matrix that the rule reads."""

    judge: Plugin | None = None
    drop_quantile: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Of all pairs of the iteration this share, those of the smallest margins, is dropped and
    counted; none that tie with the first one kept.
    """


class Made(Section):
    """Preference data made by this recipe: sample, score, pair."""

    prompts: Prompts | None = None
    """Default: the recipe's `prompts`."""
    generate: Generate | list[Generate]
    score: Scoring | list[Scoring]
    pair: PairFrom


def kind_of_preferences(value: object) -> str:
    """`made` where the value samples or pairs, else `source`: decides which section errors speak
    of.
    """
    made = isinstance(value, Made) or (
        is_mapping(value) and not {"generate", "score", "pair"}.isdisjoint(value)
    )
    return "made" if made else "source"


class Reward(Section):
    """Reward model by TRL's RewardTrainer; `args` go to `trl.RewardConfig`."""

    data: Annotated[
        Annotated[Source, Tag("source")] | Annotated[Made, Tag("made")],
        Discriminator(kind_of_preferences),
    ]
    """Preference rows, or `{generate, score, pair}` that make them."""
    init: str = "policy"
    """`policy` (the recipe's, after `sft` where there is one) or a checkpoint."""
    margins: bool = False
    """Subtract each pair's margin in the loss (Llama-2 style)."""
    ties: Literal["ordered", "half", "drop"] = "ordered"
    """Rows that say `tie: true`, `label: 0.5` or `margin: 0`: taken in their order like all others,
    trained with the soft label 0.5, or left out."""
    hold_out: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of prompts whose pairs give the accuracy, untrained (at most 1,000 pairs)."""
    global_batch_size: Count = 32
    micro_batch_size: Count | None = None
    max_length: Count = 1024
    args: Options = {}


class Train(Section):
    """The policy objective on stored tokens; `args` go to `transformers.TrainingArguments`."""

    objective: Plugin
    data: Source | None = None
    """Human data instead of samples: preferences (prompt/chosen/rejected), for objectives of scores
    labelled completions (prompt/completion/label)."""
    engine: Literal["align", "trl"] = "align"
    """`trl` trains DPO with TRL's DPOTrainer (the parity oracle)."""
    reference: Literal["initial", "previous"] | Ema = "initial"
    init: Literal["previous", "initial"] = "previous"
    history: Literal["current", "all"] | Window = "current"
    advantage: Advantage = Advantage()
    sampling_logps: Literal["trainer", "sampler"] = "trainer"
    """Where log mu comes from: recomputed in the trainer's numerics, or as the sampler stored it.
    """
    correction: Correction | None = None
    """Weights of policy gradients where the sampler's engine differs from the trainer."""
    allow_truncated_sampling: bool = False
    """Permit importance ratios although top-p or top-k cut the sampler's support (I7)."""
    global_batch_size: Count
    """Pairs (pair objectives) or completions (the others) an optimizer step sees."""
    micro_batch_size: Count | None = None
    """Pairs or completions a device forwards at once; default: by `micro_batch_tokens`."""
    micro_batch_tokens: Count | None = None
    """Tokens a device forwards at once, padding included; default: 16,384. Exclusive with
    `micro_batch_size`.
    """
    layout: Literal["auto", "groups", "rows"] = "auto"
    """`groups`: a prompt is computed once for all its completions; `rows`: once for each; `auto`:
    whatever costs less.
    """
    max_length: Count | None = None
    """Rows longer than this many tokens are dropped and counted."""
    shuffle: Literal["groups", "items"] = "groups"
    stop: Limits | None = None
    """Ends training early."""
    gradient_norms: Count | None = None
    """Optimizer steps between measurements of the gradient norms of samples with positive and with
    negative advantages, apart. A measured step takes two more backwards and two float32 gradients
    of memory. Not under ZeRO-3 or FSDP.
    """
    args: Options = {}


class Evaluate(Section):
    """Evaluation on held-out prompts: of the first policy and after each iteration."""

    prompts: Source
    generate: Generate | None = None
    """Default: the recipe's first sampler with n = 1."""
    score: Scoring | list[Scoring] | None = None
    """Default: the recipe's `score`."""
    kl: bool = True
    """Measure KL to the first policy on the evaluation samples."""
    vote: Vote | None = None
    """Report the majority answer of each prompt's samples."""


class Publish(Section):
    """Push the result to the Hub or copy it to a folder, and read it back."""

    repo: str | None = None
    folder: str | None = None
    private: bool = True
    model: Literal["last", "best"] = "last"
    """The last policy within the limits of `run.stop`, or of all within them the one of the best
    held-out score.
    """
    merge: bool = False
    """Publish an adapter merged into whole weights although its base is on the Hub."""
    tags: list[str] = []


class Recipe(Section):
    """A whole run."""

    run: Run = Run()
    policy: Policy | None = None
    prompts: Prompts | None = None
    sft: Sft | None = None
    reward: Reward | None = None
    generate: Generate | list[Generate] | None = None
    score: Scoring | list[Scoring] | None = None
    select: Plugin | None = None
    pair: PairFrom | None = None
    train: Train | None = None
    evaluate: Evaluate | None = None
    publish: Publish | None = None
