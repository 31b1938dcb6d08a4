"""NorMuon and AdaMuon follow their reference trajectories, matrix by matrix."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.rules.trajectories import agrees, cases, run
from torch import nn

import metrize
from metrize import Recipe, norms, rules
from metrize.norms import Layout
from metrize.testing import check

# the references add 1e-7 to the norm of a matrix before their polynomial, and 1e-10 to some lengths
BOTH = pytest.mark.parametrize(("accuracy", "atol"), [("exact", 1e-10), ("muon", 5e-8)])


def reference(case: dict[str, Any], accuracy: str) -> Any:
    key = "same_polynomial" if accuracy == "muon" else "exact_polar"
    return next(value for name, value in case.items() if name.startswith(f"params_after_float64_{key}"))


def numbers_of(case: dict[str, Any], *more: str) -> dict[str, Any]:
    told = case["hyperparameters"]
    return {key: told[key] for key in ("lr", "momentum", "weight_decay", "beta2", *more)}


@BOTH
@pytest.mark.parametrize("case", cases("normuon"), ids=lambda c: c["name"])
def test_normuon(case, accuracy, atol):
    numbers = numbers_of(case)
    for t, seen, _ in run(case, lambda p: metrize.NorMuon(p.items(), eps=1e-10, accuracy=accuracy, **numbers)):
        agrees(seen, reference(case, accuracy)[t], max(atol, 1e-10))  # its eps is that of rows of length f


@BOTH
@pytest.mark.parametrize("case", cases("normuon_variants"), ids=lambda c: c["name"])
def test_other_axes_and_lengths(case, accuracy, atol):
    told = case["hyperparameters"]
    rule = rules.Normalized(rules.Steepest(norms.Spectral("unit", accuracy)), by=told["axis"], length=told["length"])
    numbers = numbers_of(case, "eps", "nesterov")

    def build(params):
        radius = {name: max(p.shape) ** 0.5 if told["scale"] == "spectral" else 1.0 for name, p in params.items()}
        groups = [{"params": [(name, p)], "radius": radius[name]} for name, p in params.items()]
        return metrize.Optimizer(groups, Recipe(rule=rule), **numbers)

    # one source bounds v by eps from below and adds nothing to its root
    for t, seen, _ in run(case, build):
        agrees(seen, reference(case, accuracy)[t], 1e-8 if "eps_form" in told else atol)


@BOTH
@pytest.mark.parametrize("case", cases("adamuon"), ids=lambda c: c["name"])
def test_adamuon(case, accuracy, atol):
    told = case["hyperparameters"]
    if told["sign"] and accuracy == "exact":
        pytest.skip("signs of small matrices have not their full rank, and so no one polar factor")
    steepest = rules.Steepest(norms.Spectral("unit", accuracy))
    rule = rules.Normalized(steepest, by="entries", length="rms", sign=told["sign"])
    numbers = numbers_of(case, "eps", "nesterov")
    for t, seen, _ in run(case, lambda p: metrize.Optimizer(p.items(), Recipe(rule=rule), **numbers)):
        agrees(seen, reference(case, accuracy)[t], 1e-9 if told["bias_correction"] else atol)


@pytest.mark.parametrize(
    "part",
    [
        rules.Normalized(),
        rules.Normalized(by="short", length="rms"),
        rules.Normalized(by="entries", sign=True),
        rules.Cautious(rules.Normalized()),
    ],
    ids=str,
)
def test_a_part_keeps_its_promises(part):
    check(part)


@pytest.mark.parametrize("by", ["rows", "short", "entries"])
@pytest.mark.parametrize("length", ["preserve", "rms"])
def test_experts_and_pieces_are_matrices_of_their_own(by, length):
    """A bank of experts, and a fused matrix that its layout splits, step as matrices apart do."""
    generator = torch.Generator().manual_seed(0)
    rule = rules.Normalized(rules.Steepest(norms.Spectral(accuracy="exact")), by=by, length=length)
    apart = [nn.Parameter(torch.zeros(3, 4, dtype=torch.float64)) for _ in range(2)]
    bank = nn.Parameter(torch.zeros(2, 3, 4, dtype=torch.float64))
    fused = nn.Parameter(torch.zeros(6, 4, dtype=torch.float64))
    groups = [{"params": [bank]}, {"params": [fused], "layout": Layout(split=(3, 3))}, {"params": apart}]
    optimizer = metrize.Optimizer(groups, rule, lr=1.0)
    for _ in range(3):
        grad = torch.randn(2, 3, 4, generator=generator, dtype=torch.float64)
        bank.grad, fused.grad = grad.clone(), grad.reshape(6, 4).clone()
        for p, own in zip(apart, grad, strict=True):
            p.grad = own.clone()
        optimizer.step()
    expected = torch.stack([p.detach() for p in apart])
    torch.testing.assert_close(bank.detach(), expected, atol=1e-12, rtol=0)
    torch.testing.assert_close(fused.detach().reshape(2, 3, 4), expected, atol=1e-12, rtol=0)


def test_it_keeps_one_number_for_each_row():
    p = nn.Parameter(torch.randn(6, 4, generator=torch.Generator().manual_seed(0)))
    optimizer = metrize.NorMuon([p])
    optimizer.init_state()
    assert {key: tuple(v.shape) for key, v in optimizer.state[p].items()} == {
        "step": (),
        "exp_avg": (6, 4),
        "direction_sq": (6,),
    }


@pytest.mark.parametrize(
    ("build", "told"),
    [
        (lambda p: metrize.AdamW(p, around=rules.Normalized()), "in no norm of matrices"),
        (lambda p: metrize.NorMuon(p, beta2=1.0), "beta2=1.0"),
        (lambda p: metrize.AdaMuon(p, eps=-1.0), "eps=-1.0"),
        (lambda p: metrize.Optimizer(p, "Normalized(by='heads')"), "by is one of"),
    ],
)
def test_bad_input_is_refused_by_name(build, told):
    with pytest.raises(ValueError, match=told):
        build([nn.Parameter(torch.eye(4))])
