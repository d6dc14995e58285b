"""Every twin of RSO and TOPR on sums of one digit, run for real in this process."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from rich.console import Console

from align.data.shards import read_records
from align.recipe.load import load_recipe
from align.records import Pair, Prompt, Sample, Score
from align.report.html import write_report
from align.report.screen import RichScreen
from align.report.summary import read_run
from align.stages.commands import Launch
from align.stages.folder import RunFolder
from align.stages.making import Maker
from align.stages.manifest import Manifest
from align.stages.run import run_recipe
from align.stages.sampling import count_samples
from tests.one_process import in_this_process

RECIPES = Path(__file__).parents[2] / "recipes"
CHECKPOINT = "iter-000/checkpoint"


def run_here(family: str, name: str, out: Path, settings: Sequence[str]) -> tuple[RunFolder, str]:
    """The folder of the finished run, and its log."""
    run = RunFolder(load_recipe(RECIPES / family / f"tiny_{name}.yaml", settings), out)
    console = Console(record=True, file=io.StringIO(), width=200)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Maker, "execute", in_this_process)
        out.mkdir(exist_ok=True)
        run_recipe(run, Launch(Path("unused.yaml")), RichScreen(console), ())
    return run, console.export_text()


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The weights of `tiny_sft.yaml` after 60 steps on sums of one digit."""
    settings = (
        "sft.data.digits=1",
        "sft.data.count=40",
        "sft.args.max_steps=60",
        "sft.args.warmup_steps=5",
        "sft.stop.count=4",
        "sft.stop.at=1.1",
        "sft.stop.every=60",
        "sft.global_batch_size=16",
    )
    run, _ = run_here("rso", "sft", tmp_path_factory.mktemp("base"), settings)
    return run.folder("sft")


@pytest.fixture
def run_twin(base: Path, tmp_path: Path) -> Callable[..., RunFolder]:
    """`run_twin(family, name, *settings)`: sixteen samples of each of ten sums, one iteration."""

    def run(family: str, name: str, *settings: str) -> RunFolder:
        small = (
            f"policy.path={base}",
            "run.iterations=1",
            "prompts.digits=1",
            "prompts.count=10",
            "generate.n=16",
            "evaluate=null",
            "train.global_batch_size=8",
            *settings,
        )
        return run_here(family, name, tmp_path / name, small)[0]

    return run


def log_of(run: RunFolder) -> list[dict[str, float]]:
    """What every optimizer step logged."""
    lines = (run.folder(CHECKPOINT) / "log.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def reported(run: RunFolder) -> dict[str, dict[str, float]]:
    """Counts and metrics of the training step."""
    return json.loads((run.folder(CHECKPOINT) / "manifest.json").read_text())


def rewards_of(run: RunFolder) -> dict[str, float]:
    """Sample id -> reward."""
    scores = read_records(run.folder("iter-000/scores"), Score)
    return {one.sample_id: one.value for one in scores if one.value is not None}


def test_a_second_beta_generates_and_scores_nothing(base: Path, tmp_path: Path) -> None:
    """The log and the manifests say where samples and scores came from."""
    runs: list[RunFolder] = []
    output = ""
    for beta in (0.5, 0.05):
        settings = (
            f"policy.path={base}",
            f"run.cache={tmp_path / 'cache'}",
            "prompts.digits=1",
            "prompts.count=10",
            "generate.n=16",
            "score.wrong=0.5",
            f"select.beta={beta}",
            "select.keep=3",
            "evaluate=null",
        )
        run, output = run_here("rso", "rso", tmp_path / str(beta), settings)
        runs.append(run)
    for name in ("iter-000/samples", "iter-000/scores"):
        line = next(line for line in output.splitlines() if line.startswith(f"done {name} "))
        assert line.rstrip().endswith("from the cache")
        before, after = (run.manifest(name) for run in runs)
        assert before is not None and after is not None
        assert (before.from_cache, after.from_cache) == (False, True)
        assert before.content == after.content
    mild, sharp = (manifest_of(run, "iter-000/selected").metrics for run in runs)
    for name in ("acceptance/expected", "effective_samples"):
        assert float(str(sharp[name])) < float(str(mild[name]))
    page = write_report(read_run(runs[1].out)).read_text()
    assert "<h2>Selection</h2>" in page and "acceptance rate" in page


def manifest_of(run: RunFolder, step: str) -> Manifest:
    """Of a finished step."""
    found = run.manifest(step)
    assert found is not None
    return found


def test_rso_keeps_at_most_eight_and_pairs_only_these(run_twin: Callable[..., RunFolder]) -> None:
    run = run_twin("rso", "rso", "select.keep=4")
    rewards = rewards_of(run)
    assert len(rewards) == 160
    kept = read_records(run.folder("iter-000/selected"), Score)
    pairs = read_records(run.folder("iter-000/pairs"), Pair)
    assert 0 < len(kept) <= 40
    for one in pairs:
        assert rewards[one.chosen] > rewards[one.rejected]
    named = [name for one in pairs for name in (one.chosen, one.rejected)]
    assert len(named) == len(set(named)), "first-round: every sample meets one other"
    assert set(named) <= {one.sample_id for one in kept}


@pytest.mark.parametrize("name", ["hinge", "direct", "sft_sample_rank"])
def test_rso_pair_arms_raise_the_margin(
    name: str, run_twin: Callable[..., RunFolder], base: Path
) -> None:
    settings = [f"generate.policy={base}"] if name == "direct" else []
    settings += ["train.args.num_train_epochs=6", "train.args.learning_rate=1.0e-3"]
    margins = [entry["rewards/margins"] for entry in log_of(run_twin("rso", name, *settings))]
    epoch = len(margins) // 6
    assert sum(margins[-epoch:]) > sum(margins[:epoch])


@pytest.mark.parametrize("name", ["raft", "rest"])
def test_rso_imitation_arms_train_on_the_best(
    name: str, run_twin: Callable[..., RunFolder]
) -> None:
    """RAFT takes the best of each sum, ReST all distinct right ones: here the same samples, less
    those of sums that nobody solved.
    """
    run = run_twin("rso", name)
    rewards = rewards_of(run)
    kept = read_records(run.folder("iter-000/selected"), Score)
    assert reported(run)["counts"]["samples"] == len(kept)
    assert len(kept) == 10 if name == "raft" else all(rewards[one.sample_id] == 1 for one in kept)


def test_topr_starts_at_ratio_one_and_says_how_far_it_went(
    run_twin: Callable[..., RunFolder],
) -> None:
    run = run_twin("topr", "topr", "train.gradient_norms=2", "train.args.learning_rate=1.0e-3")
    log = log_of(run)
    assert log[0]["ratio/mean"] == pytest.approx(1.0, abs=1e-4)
    assert log[0]["log_ratio/negatives/[-0.3,0.3)"] == 1.0
    assert log[0]["alpha/negatives"] == pytest.approx(1.0, abs=1e-4)
    assert log[-1]["alpha/negatives"] < 1 and log[-1]["kl/sampler"] != 0
    assert ["grad_norm/negatives" in entry for entry in log[:4]] == [True, False, True, False]
    rewards = rewards_of(run)
    share = sum(value > 0 for value in rewards.values()) / len(rewards)
    metrics = reported(run)["metrics"]
    assert metrics["advantage/positive_share"] == pytest.approx(share)
    assert metrics["advantage/effective_positive_share"] == pytest.approx(share)


def test_anna_karenina_leaves_one_right_answer_a_sum(run_twin: Callable[..., RunFolder]) -> None:
    run = run_twin("topr", "iterated")
    rewards = rewards_of(run)
    samples = {one.sample_id: one for one in read_records(run.folder("iter-000/samples"), Sample)}
    kept = read_records(run.folder("iter-000/selected"), Score)
    solved = [samples[one.sample_id].prompt_id for one in kept if rewards[one.sample_id] > 0]
    assert len(solved) == len(set(solved))
    wrong = sum(value < 0 or samples[name].finish == "length" for name, value in rewards.items())
    assert len(kept) - len(solved) == wrong
    found = reported(run)
    assert found["metrics"]["advantage/effective_positive_share"] == pytest.approx(0.35)


@pytest.mark.parametrize("name", ["naive", "positives_only", "tis", "ppo_clip", "dpo"])
def test_topr_baselines_train_on_the_same_samples(
    name: str, run_twin: Callable[..., RunFolder]
) -> None:
    run = run_twin("topr", name, "train.args.num_train_epochs=1")
    sampling = next(step for step in run.steps() if step.kind == "generate")
    assert count_samples(run, sampling).counts["samples"] == 160
    counts = reported(run)["counts"]
    assert counts["steps"] == -(-counts.get("pairs", counts["samples"]) // 8)


def test_the_model_learns_to_judge_its_own_answers_and_its_verdicts_weigh_votes(
    run_twin: Callable[..., RunFolder], base: Path, tmp_path: Path
) -> None:
    """Verdicts on the answers of `topr`, then a vote of four answers a sum, weighed by them."""
    solved = run_twin("topr", "topr", "prompts.count=30", "train.args.num_train_epochs=1")
    folder = solved.folder("iter-000")
    settings = (
        f"policy.path={base}",
        f"sft.data.of.path={folder}",
        f"prompts.of.path={folder}",
        "evaluate=null",
    )
    verifier, _ = run_here("topr", "verifier", tmp_path / "verifier", settings)
    rewards = rewards_of(solved)
    asked = read_records(verifier.folder("iter-000/prompts"), Prompt)
    assert 0 < len(asked) < len(rewards), "those of the split `prompts`"
    assert {str(one.answer) for one in asked} == {"=", "+"}
    assert reported(verifier)["counts"]["samples"] == 8 * len(asked)
    vote, _ = run_here(
        "topr",
        "vote",
        tmp_path / "vote",
        (
            f"policy.path={base}",
            f"evaluate.score.1.path={verifier.folder(CHECKPOINT)}",
            "evaluate.prompts.digits=1",
            "evaluate.prompts.count=8",
            "evaluate.generate.n=4",
        ),
    )
    metrics = manifest_of(vote, "start/eval/summary").metrics
    for name in ("majority", "weighted_majority", "score/verifier"):
        found = metrics[name]
        assert isinstance(found, dict) and 0 <= float(str(found["mean"])) <= 1
