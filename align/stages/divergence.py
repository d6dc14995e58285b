"""KL of a policy to the first one, measured on its own evaluation samples."""

from __future__ import annotations

from align.data.shards import read_records
from align.inference.agreement import find_layout, probe_rows
from align.inference.logps import TokenRow, completion_logps
from align.models import load_causal, load_tokenizer, pad_id
from align.ops.statistics import mean_interval
from align.progress import Progress, counted_as_work
from align.records import Sample
from align.stages.evaluating import interval, merge, summarise_scores
from align.stages.folder import RunFolder
from align.stages.manifest import Result, write_result
from align.stages.steps import Step


def evaluate(run: RunFolder, step: Step) -> None:
    """The summary of the scores, and E[log pi(y) - log pi_0(y)] in nats a sequence, y ~ pi as it
    was sampled.

    Both are scored at each sample's temperature; with top-p or top-k the samples are not pi's own
    and the number is that of the cut policy's samples.
    """
    samples = read_records(run.input_folder(step, "samples"), Sample)
    dtype = run.recipe.policy.dtype if run.recipe.policy else "float32"
    # A greedy sample (temperature 0) is scored at temperature 1: the law it was drawn from has no
    # log-probs.
    rows = [TokenRow(s.prompt_ids, s.completion_ids, s.temperature or 1.0) for s in samples]
    totals: list[list[float]] = []
    for role in ("policy", "initial"):
        weights = run.weights(step.inputs[role])
        model = load_causal(weights, dtype=dtype)
        padding = pad_id(load_tokenizer(weights.base))
        with Progress(run.folder(step.name), f"KL: {role}", total=len(rows), unit="rows") as bar:
            layout = find_layout(model, probe_rows(rows), padding) if rows else "plain"
            with counted_as_work(run.folder(step.name)):
                logps = completion_logps(
                    model, rows, pad_id=padding, layout=layout, on_batch=bar.advance
                )
        totals.append(
            [
                float((one.double() * one.new_tensor(sample.loss_mask).double()).sum())
                for one, sample in zip(logps, samples, strict=True)
            ]
        )
    ratios = [new - old for new, old in zip(*totals, strict=True)]
    kl = interval(mean_interval(ratios, [sample.prompt_id for sample in samples]))
    result: Result = merge(summarise_scores(run, step), {"kl": kl})
    write_result(run.folder(step.name), result)
