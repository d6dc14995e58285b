"""ALGORITHMS 3.1 on the standard test pair, 4.1, gradients, edge cases, refused options."""

from __future__ import annotations

import math

import pytest
import torch

from align.objectives.dpo import Dpo
from align.ops.batch import PolicyBatch, PolicyOutputs
from align.ops.pairs import NllNorm
from align.ops.reduce import count_items, reduce, sum_metrics


def standard_pair() -> tuple[PolicyOutputs, PolicyBatch]:
    """TP: S_w = -12 over 4 tokens, S_l = -15 over 6; reference -13 and -14.5; margin .3. Row 2 is
    fully masked.
    """
    mask = torch.tensor([[1.0] * 4 + [0.0] * 2, [1.0] * 6, [0.0] * 6])
    logps = torch.tensor([[-3.0] * 6, [-2.5] * 6, [math.nan] * 6], dtype=torch.float64)
    ref = torch.tensor([[-3.25] * 6, [-14.5 / 6] * 6, [math.nan] * 6], dtype=torch.float64)
    batch = PolicyBatch(
        mask=mask,
        ref_logps=ref,
        chosen=torch.tensor([0]),
        rejected=torch.tensor([1]),
        margin=torch.tensor([0.3]),
    )
    return PolicyOutputs(logps.requires_grad_()), batch


@pytest.mark.parametrize(
    ("objective", "expected"),
    [
        (Dpo(), 0.620957),
        (Dpo(loss="cdpo", label_smoothing=0.1), 0.635957),
        (Dpo(loss="cdpo"), 0.635957),
        (Dpo(loss="cdpo", label_smoothing=0.0), 0.620957),
        (Dpo(loss="hinge"), 0.850000),
        (Dpo(loss="ipo"), 21.777778),
        (Dpo(loss="ipo", ipo_length_norm="sum"), 12.250000),
        (Dpo(loss="robust", label_smoothing=0.1), 0.602207),
        (Dpo(loss="robust", label_smoothing=0.0), 0.620957),
        (Dpo(loss="sigmoid_norm"), 0.676619),
        (Dpo(loss="exo", label_smoothing=0.1), 0.431388),
        (Dpo(loss="nca"), 1.350825),
        (Dpo(loss="bco"), 1.312700),
        (Dpo(loss="sppo"), 36.250000),
        (Dpo(loss="apo_zero"), 0.962523),
        (Dpo(loss="apo_down"), 0.987549),
        (Dpo(loss="discopop"), 0.849338),
        (Dpo(loss="aot"), 0.620957),
        (Dpo(loss="aot_unpaired"), 0.620957),
        (Dpo(loss="rpo"), 3.620957),
        (Dpo(loss="rpo", nll_norm="token_mean"), 3.620957),
        (Dpo(loss="rpo", nll_norm="sequence_sum", alpha=0.1), 1.820957),
        (Dpo(loss="r_dpo", alpha=0.05), 0.668460),
        (Dpo(loss="odpo"), 0.770957),
        (Dpo(loss="odpo", alpha=0.5), math.log1p(math.exp(0.0))),
        (Dpo(loss="dpop", penalty=5.0), 0.620957),
        (Dpo(loss="ld_dpo", alpha=0.5), math.log1p(math.exp(-0.1 * (1 + 5 / 12)))),
        (Dpo(loss="ld_dpo", alpha=0.0), math.log1p(math.exp(-0.1 * (1 + 4 / 12)))),
        (Dpo(loss="ld_dpo", alpha=1.0), 0.620957),
        (Dpo(divergence="forward_kl"), 0.631154),
        (Dpo(divergence="js"), 0.660652),
        (Dpo(divergence="alpha"), 0.627691),
        (Dpo(divergence="alpha", alpha=0.5), 0.627691),
        (Dpo(loss="hinge", divergence="js"), 1 - 0.1 * (0.379885 + 0.280930)),
        (Dpo(beta=0.05), 0.656350),
        (Dpo(loss="hinge", beta=0.05), 0.925000),
    ],
)
def test_values_on_the_standard_pair(objective: Dpo, expected: float) -> None:
    """The last two are RSO's sigmoid-norm and hinge-norm with gamma .05.

    bco: delta is the mean of .1 and -.05. odpo with alpha .5: d - .15 = 0. ld_dpo: all of u_w = 1
    counts and of u_l = -.5 over 6 tokens 4 + 2 alpha. rpo with a sum: .1 * 12 more than sigmoid.
    aot of one pair is sigmoid.
    """
    outputs, batch = standard_pair()
    loss = objective(outputs, batch)
    assert reduce(loss, count_items(batch)).item() == pytest.approx(expected, abs=1e-6)
    assert loss.terms[0].per == "pair" and loss.terms[0].values.shape == (1,)


def test_dpop_pulls_where_chosen_fell_below_the_reference() -> None:
    """S_w = -14: u_w = -1, Delta = -.5, so d = .1 * (-.5 - 5 * 1) = -.55."""
    _, batch = standard_pair()
    logps = torch.tensor([[-3.5] * 6, [-2.5] * 6, [0.0] * 6], dtype=torch.float64)
    loss = Dpo(loss="dpop", penalty=5.0)(PolicyOutputs(logps), batch)
    assert loss.terms[0].values.item() == pytest.approx(1.005492, abs=1e-6)


@pytest.mark.parametrize(("clamps", "weight"), [(True, 1.0), (False, math.exp(0.2))])
def test_wpo_weighs_by_how_likely_the_pair_is(clamps: bool, weight: float) -> None:
    """lp_w = [-1, -2] with log sum pi^2 = [-.5, -1], lp_l = [-1.5] with -.7: the mean of -.5 and -1
    plus -.8 gives w = e^-1.55 = .212248. With log sum pi^2 = [-2, -2] and -1.2 it is e^.2 unless it
    is capped. d = .15 as on TP; no gradient flows through the weight.
    """
    mask = torch.tensor([[1, 1], [1, 0]]).bool()
    logps = torch.tensor([[-1.0, -2.0], [-1.5, 9.0]], dtype=torch.float64)
    ref = torch.tensor([[-1.5, -2.5], [-1.0, 0.0]], dtype=torch.float64)
    squares = torch.tensor([[-0.5, -1.0], [-0.7, -math.inf]], dtype=torch.float64).exp()
    spread = torch.tensor([[-2.0, -2.0], [-1.2, 0.0]], dtype=torch.float64).exp()
    batch = PolicyBatch(
        mask=mask, ref_logps=ref, chosen=torch.tensor([0]), rejected=torch.tensor([1])
    )
    objective = Dpo(loss="wpo", clamp_weights=clamps)
    loss = objective(PolicyOutputs(logps, sum_p_squared=squares), batch)
    assert loss.terms[0].values.item() == pytest.approx(0.212248 * 0.620957, abs=1e-6)
    assert loss.terms[0].values.item() == pytest.approx(0.131797, abs=1e-6)
    leaf = logps.clone().requires_grad_()
    value = objective(PolicyOutputs(leaf, sum_p_squared=spread), batch).terms[0].values
    value.sum().backward()
    assert value.item() == pytest.approx(weight * 0.620957, abs=1e-6)
    assert leaf.grad is not None
    assert leaf.grad[0].tolist() == pytest.approx([-0.046257 * weight] * 2, abs=1e-6)


def test_ld_dpo_counts_trained_tokens_from_the_start() -> None:
    """Chosen has ratios 1, 2, 4 with a hole before the 4, rejected one trained token of ratio 1:
    L = 1, so s_w = 1 + .5 * (2 + 4) = 4 and d = .1 * (4 - 1).
    """
    mask = torch.tensor([[1, 1, 0, 1], [0, 1, 0, 0]]).bool()
    logps = torch.tensor([[1.0, 2.0, 50.0, 4.0], [50.0, 1.0, 50.0, 50.0]]).double()
    batch = PolicyBatch(
        mask=mask,
        ref_logps=torch.zeros(2, 4).double(),
        chosen=torch.tensor([0]),
        rejected=torch.tensor([1]),
    )
    loss = Dpo(loss="ld_dpo", alpha=0.5)(PolicyOutputs(logps), batch)
    assert loss.terms[0].values.item() == pytest.approx(math.log1p(math.exp(-0.3)))


def test_rpo_token_mean_is_over_the_chosen_tokens_of_the_step() -> None:
    """Chosen sides of 4 tokens at -3 and 6 at -2.5, roles swapped in the second pair: the mean over
    tokens is 27 / 10, over sequences 5.5 / 2, of sums 27 / 2.
    """
    outputs, batch = standard_pair()
    both = PolicyBatch(
        mask=batch.mask,
        ref_logps=batch.ref_logps,
        chosen=torch.tensor([0, 1, 0]),
        rejected=torch.tensor([1, 0, 2]),
    )
    counts = count_items(both)
    assert (counts.pair, counts.chosen_token) == (2, 10)
    plain = reduce(Dpo()(outputs, both), counts).item()
    norms: dict[NllNorm, float] = {"token_mean": 2.7, "sequence_mean": 2.75, "sequence_sum": 13.5}
    for norm, nll in norms.items():
        loss = reduce(Dpo(loss="rpo", nll_norm=norm)(outputs, both), counts)
        assert loss.item() == pytest.approx(plain + nll)


@pytest.mark.parametrize(
    ("objective", "slope"),
    [
        (Dpo(), -0.046257),
        (Dpo(loss="cdpo"), -0.1 * (1 / (1 + math.exp(0.15)) - 0.1)),
        (Dpo(loss="robust"), -0.1 * (1 / (1 + math.exp(0.15)) + 0.1 / 0.8)),
        (Dpo(loss="odpo"), -0.1 / (1 + math.exp(-0.15))),
        (Dpo(loss="aot"), -0.046257),
        (Dpo(loss="aot_unpaired"), -0.046257),
        (Dpo(loss="hinge"), -0.1),
        (Dpo(loss="ipo"), 2 * (0.25 + 0.5 / 6 - 5) / 4),
        (Dpo(loss="ipo", ipo_length_norm="sum"), 2 * (1.5 - 5)),
    ],
)
def test_gradients_on_the_standard_pair(objective: Dpo, slope: float) -> None:
    """dL/dS_w: each of its 4 tokens gets it, masked tokens and the third row get exactly 0.

    cdpo: -beta (sigma(-d) - eps), robust: plus eps / (1 - 2 eps); odpo: d - .3; hinge:
    -beta; ipo: 2 (z - 5) / n. dL/dS_l is the opposite (for ipo's token mean times n_w / n_l).
    """
    outputs, batch = standard_pair()
    reduce(objective(outputs, batch), count_items(batch)).backward()
    grad = outputs.logps.grad
    assert grad is not None
    torch.testing.assert_close(
        grad[0], torch.tensor([slope] * 4 + [0.0] * 2).double(), atol=1e-6, rtol=0
    )
    ratio = 4 / 6 if objective == Dpo(loss="ipo") else 1
    torch.testing.assert_close(
        grad[1], torch.tensor([-slope * ratio] * 6).double(), atol=1e-6, rtol=0
    )
    assert grad[2].tolist() == [0.0] * 6


@pytest.mark.parametrize(
    ("objective", "expected"),
    [
        (Dpo(beta=0.01), math.log(2)),
        (Dpo(beta=5.0), math.log(2)),
        (Dpo(loss="cdpo"), math.log(2)),
        (Dpo(loss="robust"), math.log(2)),
        (Dpo(loss="sigmoid_norm"), math.log(2)),
        (Dpo(loss="dpop", penalty=5.0), math.log(2)),
        (Dpo(loss="ld_dpo", alpha=0.3), math.log(2)),
        (Dpo(loss="aot"), math.log(2)),
        (Dpo(divergence="forward_kl"), math.log(2)),
        (Dpo(divergence="js"), math.log(2)),
        (Dpo(divergence="alpha"), math.log(2)),
        (Dpo(loss="hinge"), 1.0),
        (Dpo(loss="nca"), 2 * math.log(2)),
        (Dpo(loss="bco"), 2 * math.log(2)),
        (Dpo(loss="apo_zero"), 1.0),
        (Dpo(loss="apo_down"), 1.0),
        (Dpo(loss="sppo"), 50.0),
        (Dpo(loss="discopop"), (math.log(2) + 1) / 2),
        (Dpo(loss="exo", label_smoothing=0.5), 0.0),
    ],
)
def test_loss_at_step_zero_follows_from_ratios_of_one(objective: Dpo, expected: float) -> None:
    """Policy equal to reference (I2), in float32: ln 2 for whatever is a sigmoid of d = 0.

    sppo is 2 * 5^2.
    """
    logps = -torch.rand(4, 7, generator=torch.Generator().manual_seed(0)) * 30
    batch = PolicyBatch(
        mask=torch.ones(4, 7),
        ref_logps=logps.clone(),
        chosen=torch.tensor([0, 2]),
        rejected=torch.tensor([1, 3]),
    )
    loss = objective(PolicyOutputs(logps), batch)
    assert reduce(loss, count_items(batch)).item() == pytest.approx(expected, abs=1e-6)


def test_metrics_have_the_names_and_values_that_users_know() -> None:
    """u_w = 1, u_l = -.5 at beta .1."""
    outputs, batch = standard_pair()
    loss = Dpo()(outputs, batch)
    found = {name: (s[0] / s[1]).item() for name, s in sum_metrics(loss.metrics).items()}
    assert found == pytest.approx(
        {
            "rewards/chosen": 0.1,
            "rewards/rejected": -0.05,
            "rewards/margins": 0.15,
            "rewards/accuracies": 1.0,
            "logps/chosen": -12.0,
            "logps/rejected": -15.0,
        }
    )


def test_a_pair_with_an_empty_side_counts_nowhere() -> None:
    outputs, batch = standard_pair()
    both = PolicyBatch(
        mask=batch.mask,
        ref_logps=batch.ref_logps,
        chosen=torch.tensor([0, 0]),
        rejected=torch.tensor([1, 2]),
    )
    loss = Dpo(loss="ipo")(outputs, both)
    assert loss.terms[0].values[1].item() == 0
    assert reduce(loss, count_items(both)).item() == pytest.approx(21.777778, abs=1e-6)
    assert sum_metrics(loss.metrics)["rewards/chosen"].tolist() == pytest.approx([0.1, 1.0])


def test_a_row_shared_by_two_pairs_adds_their_gradients() -> None:
    """Chosen row 0 against row 1 twice: the mean of two equal pairs has the gradient of one."""
    outputs, batch = standard_pair()
    twice = PolicyBatch(
        mask=batch.mask,
        ref_logps=batch.ref_logps,
        chosen=torch.tensor([0, 0]),
        rejected=torch.tensor([1, 1]),
    )
    reduce(Dpo()(outputs, twice), count_items(twice)).backward()
    assert outputs.logps.grad is not None
    assert outputs.logps.grad[0, 0].item() == pytest.approx(-0.046257, abs=1e-6)


def slope_at(objective: Dpo, d: float) -> float:
    """dL/dd of one pair of single tokens with margin d, beta .1."""
    policy = torch.tensor([[d / 0.1], [0.0]], dtype=torch.float64, requires_grad=True)
    batch = PolicyBatch(
        mask=torch.ones(2, 1),
        ref_logps=torch.zeros(2, 1).double(),
        chosen=torch.tensor([0]),
        rejected=torch.tensor([1]),
    )
    reduce(objective(PolicyOutputs(policy), batch), count_items(batch)).backward()
    assert policy.grad is not None
    return policy.grad[0].item() / 0.1


def test_cdpo_has_its_minimum_at_the_log_odds_of_the_smoothing() -> None:
    """ALGORITHMS 3.4: d = log(.9 / .1) = 2.197225; with eps .5 at 0, where ties belong."""
    assert abs(slope_at(Dpo(loss="cdpo"), 2.1972246)) < 1e-7
    assert slope_at(Dpo(loss="cdpo"), 3.0) > 0
    assert slope_at(Dpo(loss="cdpo", label_smoothing=0.5), 0.0) == 0


def test_robust_is_unbounded_below() -> None:
    """ALGORITHMS 3.4: its slope goes to -eps / (1 - 2 eps) = -.125, so it never stops pushing."""
    assert slope_at(Dpo(loss="robust"), 50.0) == pytest.approx(-0.125, abs=1e-9)


def test_beta_to_infinity_leaves_the_misordered_pairs() -> None:
    """The slope of sigmoid is -1 at d = -50 and 0 at 50."""
    assert slope_at(Dpo(), -50.0) == pytest.approx(-1)
    assert slope_at(Dpo(), 50.0) == pytest.approx(0)


@pytest.mark.parametrize("objective", [Dpo(), Dpo(loss="exo"), Dpo(divergence="js")], ids=repr)
def test_identical_completions_pull_nowhere(objective: Dpo) -> None:
    """ALGORITHMS 3.4: one row on both sides, Delta = 0: its two gradients cancel exactly."""
    logps = torch.tensor([[-1.0, -2.0]], requires_grad=True)
    batch = PolicyBatch(
        mask=torch.ones(1, 2),
        ref_logps=torch.tensor([[-1.5, -1.0]]),
        chosen=torch.tensor([0]),
        rejected=torch.tensor([0]),
    )
    reduce(objective(PolicyOutputs(logps), batch), count_items(batch)).backward()
    assert logps.grad is not None and logps.grad.tolist() == [[0.0, 0.0]]


@pytest.mark.parametrize("d", [-1e3, -100.0, 1e3])
def test_discopop_stays_finite_where_g_times_exp_is_zero_times_infinity(d: float) -> None:
    """In float32 exp(100) overflows; the loss is -logsig(d) there since g is 0: -d, or 0."""
    logps = torch.tensor([[d / 0.1], [0.0]], requires_grad=True)
    batch = PolicyBatch(
        mask=torch.ones(2, 1),
        ref_logps=torch.zeros(2, 1),
        chosen=torch.tensor([0]),
        rejected=torch.tensor([1]),
    )
    values = Dpo(loss="discopop")(PolicyOutputs(logps), batch).terms[0].values
    values.sum().backward()
    assert values.item() == pytest.approx(max(-d, 0))
    assert logps.grad is not None and bool(logps.grad.isfinite().all())


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"beta": 0.0}, "beta must be finite and above 0"),
        ({"beta": math.nan}, "beta"),
        ({"label_smoothing": 0.1}, "only by loss: cdpo, robust, exo, and sigmoid would ignore it"),
        ({"label_smoothing": 0.0}, "sigmoid would ignore it"),
        ({"loss": "robust", "label_smoothing": 0.5}, "divides by 1 - 2 label_smoothing"),
        ({"loss": "exo", "label_smoothing": 0.0}, "takes its logarithm"),
        ({"tau": 0.1}, "tau is used only by loss: discopop, and sigmoid"),
        ({"loss": "discopop", "tau": 0.0}, "above 0 and at most 1"),
        ({"loss": "discopop", "tau": 2.0}, "grows without bound"),
        ({"alpha": 0.5}, "rpo, r_dpo, odpo, ld_dpo and by divergence: alpha, and sigmoid"),
        ({"divergence": "alpha", "alpha": 1.0}, "1 is reverse_kl"),
        ({"divergence": "js", "alpha": 0.5}, "sigmoid would ignore it"),
        ({"loss": "ipo", "divergence": "js"}, "losses of a difference alone"),
        ({"loss": "nca", "divergence": "alpha"}, "not for nca"),
        ({"loss": "r_dpo"}, "needs alpha, nats a token"),
        ({"loss": "ld_dpo"}, "needs alpha, the weight of the longer side's tail"),
        ({"loss": "ld_dpo", "alpha": 1.5}, "must lie in 0 to 1"),
        ({"loss": "odpo", "alpha": -1.0}, "at least 0"),
        ({"loss": "dpop"}, "needs penalty"),
        ({"loss": "dpop", "penalty": math.inf}, "penalty must be finite"),
        ({"penalty": 5.0}, "used only by loss: dpop"),
        ({"nll_norm": "token_mean"}, "used only by loss: rpo"),
        ({"clamp_weights": False}, "used only by loss: wpo"),
        ({"loss": "hinge", "label_smoothing": 0.1}, "hinge would ignore it"),
        ({"loss": "cdpo", "label_smoothing": 0.6}, "0 to 0.5"),
        ({"ipo_length_norm": "sum"}, "used only by loss: ipo"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, object], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Dpo(**options)  # type: ignore[arg-type]


def test_a_batch_without_references_is_refused() -> None:
    with pytest.raises(ValueError, match="ref_logps"):
        Dpo()(
            PolicyOutputs(torch.zeros(2, 1)),
            PolicyBatch(chosen=torch.tensor([0]), rejected=torch.tensor([1])),
        )
