"""Verdicts on a reward: each function turns what `align.rewards.trust` measured into a line of
`align doctor --reward`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from align.commands.findings import Finding, Level
from align.ops.calibration import best_scale, calibration_error, log_loss
from align.ops.statistics import correlation, wilson_interval
from align.records import Score
from align.rewards.trust import (
    Change,
    Ends,
    TokenFaults,
    Values,
    count_time_outs,
    errors_of,
    gaps_of,
)

SAME = 1e-3
"""A change of batch may move a score by this many standard deviations: float32 moves it by 1e-6."""
NEAR = 0.05
"""Beyond it, even 16-bit numbers do not explain the change."""
MANY_FAILURES = 0.05
AT_END = 0.5
"""More scores than this at the largest or the smallest value: saturated."""
LIKES_LENGTH = 0.5
"""Correlation with length from which on length is named."""
ROUGH = 0.1
"""Calibration error from which on scores are no log-odds."""
RESTLESS = 0.25
"""Standard deviations that a space may move a score."""
ODD_TOKENS = 0.01
GOLDEN = 1e-3


def judge_golden(expected: Sequence[float], scores: Sequence[Score]) -> Finding:
    """Known scores through the real worker."""
    name = "golden cases"
    wrong = [
        f"case {place} is {score.value if score.value is not None else score.error}, not {value:g}"
        for place, (value, score) in enumerate(zip(expected, scores, strict=True), start=1)
        if score.value is None
        or not math.isclose(score.value, value, rel_tol=GOLDEN, abs_tol=GOLDEN)
    ]
    if wrong:
        found = f"{len(wrong)} of {len(expected)} differ: {wrong[0]}"
        return Finding(name, "FAIL", found, "compare checkpoint, template and options with theirs")
    return Finding(name, "ok", f"{len(expected)} of {len(expected)} score as expected")


def judge_failures(scores: Sequence[Score]) -> Iterator[Finding]:
    """What could not be scored, and what ran out of time."""
    errors = errors_of(scores)
    failed, late = sum(errors.values()), count_time_outs(errors)
    if late:
        found = f"{late} of {len(scores)} samples"
        remedy = "raise the reward's timeout or give it workers: late is not wrong"
        yield Finding("time-outs", "FAIL" if late == len(scores) else "warn", found, remedy)
    if failed == 0:
        yield Finding("scored", "ok", f"{len(scores)} of {len(scores)} samples")
        return
    level: Level = "FAIL" if failed > MANY_FAILURES * len(scores) else "warn"
    reason, count = errors.most_common(1)[0]
    found = f"{len(scores) - failed} of {len(scores)} samples; {count} failed with: {reason}"
    yield Finding("scored", level, found, "failed samples are left out of selection and pairing")


def judge_tokens(label: str, faults: TokenFaults) -> Finding:
    """Double BOS and unknown tokens in what the model reads."""
    name = f"tokens of {label}"
    if faults.repeated_bos:
        return Finding(
            name,
            "FAIL",
            f"{faults.repeated_bos} of {faults.rows} rows hold the beginning-of-sequence token "
            "more than once",
            "the texts carry one already: strip it from the data, or remove it from the template",
        )
    if faults.unknown > ODD_TOKENS:
        return Finding(
            name,
            "warn",
            f"{faults.unknown:.1%} are the unknown token",
            "the tokenizer cannot spell these texts; the model was made for others",
        )
    padding = "; pad = eos (harmless here: the attention mask says where a row ends)"
    found = f"at most {faults.longest} in a row, one beginning each"
    return Finding(name, "ok", found + (padding if faults.pads_with_end else ""))


def judge_values(values: Values) -> Finding:
    """Constant or saturated scores."""
    kept = sorted(value for value in values if value is not None)
    distinct = len(set(kept))
    if distinct == 1:
        return Finding(
            "values",
            "FAIL",
            f"every score is {kept[0]:g}",
            "nothing can be learned from it: an untrained head, a wrong key, or a rule that never "
            "fires",
        )
    found = f"{kept[0]:.4g} to {kept[-1]:.4g}, {distinct} distinct"
    ends = {"smallest": kept[0], "largest": kept[-1]}
    for word, end in ends.items():
        share = kept.count(end) / len(kept)
        # Few values are a verdict's own, not a limit that a scale has run into.
        if distinct > 3 and share > AT_END:
            remedy = "the scale ends there: read the raw logit, or widen the clip"
            return Finding("values", "warn", f"{found}; {share:.0%} are the {word}", remedy)
    mean = math.fsum(kept) / len(kept)
    std = math.sqrt(math.fsum((value - mean) ** 2 for value in kept) / len(kept))
    return Finding("values", "ok", f"{found}; mean {mean:.4g}, standard deviation {std:.4g}")


def judge_pairs(values: Values) -> Finding:
    """Chosen against rejected; ties count half."""
    gaps = gaps_of(values)
    name = "chosen > rejected"
    if not gaps:
        return Finding(name, "warn", "no pair has two scores", "look at the failures above")
    ties = sum(gap == 0 for gap in gaps)
    share, low, high = wilson_interval(sum(gap > 0 for gap in gaps) + ties / 2, len(gaps))
    found = f"{share:.3f} [{low:.3f}, {high:.3f}] of {len(gaps)} pairs, {ties} tied"
    if high < 0.5:
        return Finding(name, "FAIL", found, "it prefers the rejected: is its sign turned?")
    if low <= 0.5:
        return Finding(name, "warn", found, "no better than chance; use more pairs or another one")
    return Finding(name, "ok", found)


def judge_length(values: Values, lengths: Sequence[int]) -> Finding:
    """Correlation with length, and what "prefer the longer" scores on the same pairs."""
    kept = [(v, n) for v, n in zip(values, lengths, strict=True) if v is not None]
    r = correlation([v for v, _ in kept], [float(n) for _, n in kept])
    sides = list(zip(values[::2], values[1::2], lengths[::2], lengths[1::2], strict=True))
    both = [(a - b, m - n) for a, b, m, n in sides if a is not None and b is not None]
    if not both:
        return Finding("length", "warn", f"correlation {r:.2f}", "no pair has two scores")
    longer = sum(1.0 if by > 0 else 0.5 if by == 0 else 0.0 for _, by in both) / len(both)
    agree = sum((gap > 0) == (by > 0) for gap, by in both if by) / max(
        1, sum(b != 0 for _, b in both)
    )
    found = (
        f'correlation {r:.2f}; "prefer the longer" scores {longer:.3f} and agrees on {agree:.0%}'
    )
    if abs(r) > LIKES_LENGTH:
        which = "longer" if r > 0 else "shorter"
        remedy = f"a policy will write {which} texts: add a length term, or pair equal lengths"
        return Finding("length", "warn", found, remedy)
    return Finding("length", "ok", found)


def judge_calibration(values: Values) -> Finding:
    """Whether score differences are log-odds."""
    gaps = gaps_of(values)
    if len({value for value in values if value is not None}) <= 3 or not gaps:
        return Finding("calibration", "ok", "not asked: a verdict of few values is no log-odds")
    error, scale = calibration_error(gaps), best_scale(gaps)
    found = (
        f"error {error:.3f}; log loss {log_loss(gaps):.3f}, {log_loss(gaps, min(scale, 1e6)):.3f} "
        f"with scores times {scale:.3g} (chance 0.693)"
    )
    if error > ROUGH:
        remedy = "differences are no log-odds: scale them before a method that reads them so (beta)"
        return Finding("calibration", "warn", found, remedy)
    return Finding("calibration", "ok", found)


def judge_batches(name: str, change: Change) -> Finding:
    """Scores must not depend on what they are computed beside."""
    if change.failures:
        found = f"{change.failures} samples are scored in one order of work and not in the other"
        return Finding(
            name, "FAIL", found, "the reward depends on its neighbours; score one by one"
        )
    found = f"moves a score by at most {change.largest:.1e} standard deviations"
    if change.largest > NEAR:
        remedy = "wrong padding or a mask left out: the same text must score the same"
        return Finding(name, "FAIL", found, remedy)
    if change.largest > SAME:
        remedy = "16-bit numbers do this; use float32 where close scores decide"
        return Finding(name, "warn", found, remedy)
    return Finding(name, "ok", found)


def judge_space(change: Change) -> Finding:
    """A trailing space says nothing and should change little."""
    found = f"moves a score by {change.mean:.2g} standard deviations, at most {change.largest:.2g}"
    if change.mean > RESTLESS or change.failures:
        remedy = "strip completions before scoring, or train with the space too"
        return Finding("trailing space", "warn", found, remedy)
    return Finding("trailing space", "ok", found)


def judge_end_token(change: Change, *, reads_tokens: bool) -> Finding:
    """A model that cannot see the end token reads its score one token before it."""
    name = "end token"
    if not reads_tokens:
        return Finding(name, "ok", "the text alone is read")
    if change.compared and change.largest == 0:
        return Finding(
            name,
            "FAIL",
            "completions with and without it score exactly the same",
            "the score is read before it: pad = eos and a search for the last token that is not "
            "pad, or no end token is written at all",
        )
    found = f"moves a score by {change.mean:.2g} standard deviations"
    return Finding(name, "ok", f"{found}, {change.failures} fail without it")


def judge_ends(ends: Ends) -> Iterator[Finding]:
    """Whether long completions are read whole, refused, or cut in silence."""
    name = "long completions"
    if ends.longest is None:
        yield Finding(name, "warn", f"none was scored: {ends.error}", "raise max_length")
        return
    if ends.blind_to_end is not None:
        found = f"from about {ends.blind_to_end:,} characters on the last words change nothing"
        yield Finding(name, "FAIL", found, "the input is cut at its end: cut it at its beginning")
    elif ends.blind_to_start is not None:
        found = f"from about {ends.blind_to_start:,} characters on the first words change nothing"
        yield Finding(name, "warn", found, "the input is cut at its beginning: so is the prompt")
    else:
        beyond = f"; longer ones fail: {ends.error}" if ends.error else ""
        found = f"read whole up to {ends.longest:,} characters{beyond}"
        yield Finding(name, "ok", found)


def judge_template(before: Values, after: Values) -> Finding:
    """What another chat template does to the scores; one that changes nothing is not applied."""
    name = "chat template"
    both = [(a, b) for a, b in zip(before, after, strict=True) if a is not None and b is not None]
    if not both:
        return Finding(name, "ok", "no sample can be scored with another one")
    if all(a == b for a, b in both):
        found = "another template changes no score"
        return Finding(name, "warn", found, "it is not applied: set the reward's chat_template")
    r = correlation([a for a, _ in both], [b for _, b in both])
    own, other = _accuracy(before), _accuracy(after)
    found = f"with another: correlation {r:.2f}, chosen > rejected {own:.3f} -> {other:.3f}"
    if other > own + 0.1:
        return Finding(name, "warn", found, "the wrong template may be set; compare on more pairs")
    return Finding(name, "ok", found)


def _accuracy(values: Values) -> float:
    gaps = gaps_of(values)
    right = sum(1.0 if gap > 0 else 0.5 if gap == 0 else 0.0 for gap in gaps)
    return right / len(gaps) if gaps else math.nan
