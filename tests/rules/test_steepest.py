"""What steepest descent promises: the identities of arXiv:2409.20325, the step's length, momentum and decay."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import metrize
from metrize import Recipe, rules, step_sizes
from metrize.norms import RMS, Frobenius, MaxEntry, RowNorm, Spectral
from metrize.optim.telemetry import measured

NORMS = [MaxEntry(), Frobenius(), RMS(), RowNorm("rms"), Spectral("rms", "exact"), Spectral("unit", "exact")]


def _step(optimizer_of, grad, start=None):
    """The change that one step makes."""
    p = nn.Parameter(torch.zeros_like(grad) if start is None else start.clone())
    before = p.detach().clone()
    optimizer = optimizer_of([p])
    p.grad = grad.clone()
    optimizer.step()
    return p.detach() - before


def _gauss(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("norm", NORMS, ids=str)
def test_a_step_has_the_length_lr_times_radius_in_its_norm(norm):
    step = _step(lambda p: metrize.NormSGD([{"params": p, "radius": 3.0}], lr=0.1, norm=norm), _gauss(5, 3))
    assert float(norm.norm(step.unsqueeze(0))) == pytest.approx(0.3, rel=1e-12)
    scaled = _step(lambda p: metrize.NormSGD(p, lr=0.3, norm=norm), _gauss(5, 3) * 1e-20)
    torch.testing.assert_close(scaled, step, rtol=1e-12, atol=0)


@pytest.mark.parametrize("norm", NORMS, ids=str)
def test_the_full_step_minimises_its_model(norm):
    """``<g, d> + ||d||^2 / (2 lr)`` is smallest at the step, where it is ``-lr ||g||_dual^2 / 2``."""
    grad, lr = _gauss(5, 3), 0.1
    step = _step(lambda p: metrize.NormSGD(p, lr=lr, norm=norm, length="full"), grad)

    def model(d):
        return float((grad * d).sum() + norm.norm(d.unsqueeze(0)) ** 2 / (2 * lr))

    assert model(step) == pytest.approx(-lr * float(norm.dual_norm(grad.unsqueeze(0))) ** 2 / 2, rel=1e-12)
    for seed in range(1, 50):
        assert model(step + 0.01 * _gauss(5, 3, seed=seed)) > model(step)


def test_adam_without_averages_is_sign_descent():
    step = _step(lambda p: metrize.Adam(p, lr=0.1, betas=(0, 0), eps=0), _gauss(4, 3))
    torch.testing.assert_close(step, _step(lambda p: metrize.SignSGD(p, lr=0.1), _gauss(4, 3)), rtol=1e-12, atol=0)


def test_the_full_frobenius_step_is_gradient_descent():
    step = _step(lambda p: metrize.NormSGD(p, lr=0.1, norm=Frobenius(), length="full"), _gauss(4, 3))
    torch.testing.assert_close(step, -0.1 * _gauss(4, 3), rtol=1e-12, atol=0)


def test_a_whole_model_is_coupled_by_one_number():
    """``dW_l = -(eta / s_l) dual_l(G_l)`` with ``eta = lr sum_k ||G_k||_dual / s_k``."""
    norms, shapes, scales = [Spectral("unit", "exact"), MaxEntry()], [(5, 3), (4,)], [2.0, 0.5]
    params = [nn.Parameter(torch.zeros(shape, dtype=torch.float64)) for shape in shapes]
    for seed, p in enumerate(params):
        p.grad = _gauss(*p.shape, seed=seed)
    recipes = [Recipe(rule=rules.Steepest(n), step_size=step_sizes.DualNorm(n)) for n in norms]
    groups = [
        {"params": [p], "recipe": recipe, "radius": 1 / s} for p, recipe, s in zip(params, recipes, scales, strict=True)
    ]
    optimizer = metrize.Optimizer(groups, recipes[0], lr=0.1, momentum=0.0)
    optimizer.step()
    grads = [p.grad.unsqueeze(0) for p in params]
    total = sum(float(n.dual_norm(g)) for n, g in zip(norms, grads, strict=True))
    for p, norm, grad, scale in zip(params, norms, grads, scales, strict=True):
        torch.testing.assert_close(p.detach(), -0.1 * total / scale * norm.dual(grad)[0][0], rtol=1e-12, atol=0)


def test_lion_in_another_norm_takes_steps_of_that_norm():
    recipe = Recipe(rule=rules.Lion(Spectral("unit", "exact")))
    p = nn.Parameter(_gauss(5, 3))
    optimizer = metrize.Optimizer([p], recipe, lr=0.1)
    for seed in range(3):
        before = p.detach().clone()
        p.grad = _gauss(5, 3, seed=seed)
        optimizer.step()
        assert float(torch.linalg.matrix_norm(p.detach() - before, 2)) == pytest.approx(0.1, rel=1e-12)


def test_a_group_may_name_its_norm():
    vector, matrix = nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(3, 2))
    optimizer = metrize.NormSGD([{"params": [vector], "norm": "RMS()"}, {"params": [matrix], "norm": RowNorm()}])
    assert [recipe.rule.norm for recipe in optimizer.recipes()] == [RMS(), RowNorm()]
    with pytest.raises(TypeError, match="which has its own"):
        metrize.Adam([{"params": [vector], "norm": RMS()}])
    with pytest.raises(metrize.SpaceError, match=r"parameter 'v'.*two dimensions"):
        metrize.NormSGD([{"params": [("v", vector)], "norm": RowNorm()}])


def test_what_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match="radius=-1"):
        metrize.Optimizer([nn.Parameter(torch.ones(2))], Recipe(rule=rules.Steepest()), radius=-1)
    with pytest.raises(ValueError, match="momentum=1"):
        metrize.Signum([nn.Parameter(torch.ones(2))], momentum=1)
    with pytest.raises(ValueError, match="length is one of"):
        rules.Steepest(length="long")
    with pytest.raises(TypeError, match="is no norm; it may be"):
        rules.Steepest(norm="spectral")


def test_steps_are_measured_in_the_norm_of_their_rule():
    model = nn.Linear(4, 3).double()
    groups = [{"params": [("weight", model.weight)], "norm": Spectral("rms", "exact")}]
    optimizer = metrize.NormSGD([*groups, {"params": [("bias", model.bias)], "norm": RMS()}], lr=0.25)
    model(torch.ones(2, 4, dtype=torch.float64)).square().sum().backward()
    with measured(optimizer) as sizes:
        optimizer.step()
    assert float(sizes["weight"].update) == pytest.approx(0.25, rel=1e-9)
    assert float(sizes["bias"].update) == pytest.approx(0.25, rel=1e-9)
    seen = torch.linalg.matrix_norm(model.weight.detach(), 2) * (4 / 3) ** 0.5
    assert float(sizes["weight"].weight) == pytest.approx(float(seen), rel=1e-9)
