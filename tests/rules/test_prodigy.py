"""Prodigy's escape velocity, in Adam's geometry and in others."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from torch import nn

import metrize
from metrize import Recipe, rules, step_sizes
from metrize.norms import Frobenius, MaxEntry, RowNorm, Spectral

ESCAPE = {"beta3": 0.0, "d0": 1e-3}


def _free(norm, **options):
    """A sign-like rule that finds its own rate."""
    return Recipe(rule=rules.Steepest(norm), step_size=step_sizes.Prodigy(norm, **options))


def _gauss(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("norm", [MaxEntry(), Frobenius(), RowNorm("rms"), Spectral("rms", "exact")], ids=str)
def test_under_a_constant_gradient_it_grows_like_fibonacci(norm):
    """``eta' = max(eta, <g, w0 - w> / ||g||_dual)``, with the way gone before this step: each is the sum of the two
    before."""
    p, grad = nn.Parameter(torch.zeros(4, 3, dtype=torch.float64)), _gauss(4, 3)
    optimizer = metrize.Optimizer([p], _free(norm, **ESCAPE), lr=1.0, momentum=0.0)
    lengths = []
    for _ in range(12):
        before = p.detach().clone()
        p.grad = grad.clone()
        optimizer.step()
        lengths.append(float(norm.norm((before - p.detach()).unsqueeze(0))))
    for (a, b), (_, c) in itertools.pairwise(itertools.pairwise(lengths[2:])):
        assert c == pytest.approx(a + b, rel=1e-9)
    assert lengths[-1] / lengths[-2] == pytest.approx(1.618, abs=1e-3)


@pytest.mark.parametrize("d0", [1e-6, 1e-4])
def test_spectral_descent_needs_no_learning_rate(d0):
    target, p = _gauss(8, 6), nn.Parameter(torch.zeros(8, 6, dtype=torch.float64))
    optimizer = metrize.Optimizer([p], _free(Spectral("unit", "exact"), d0=d0, over="group"), lr=1.0, momentum=0.9)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: 1 - t / 300)
    losses = []
    for _ in range(300):
        optimizer.zero_grad()
        loss = (p - target).square().mean()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    assert min(losses[-10:]) < 1e-3 * losses[0]


def test_each_group_finds_its_own_rate_or_all_share_one():
    far, near = 100.0, 0.01
    for over, shared in (("group", False), ("all", True)):
        params = [nn.Parameter(torch.zeros(5, dtype=torch.float64)) for _ in range(2)]
        groups = [{"params": [p]} for p in params]
        optimizer = metrize.Optimizer(groups, _free(MaxEntry(), over=over, d0=1e-4), lr=1.0, momentum=0.0)
        for _ in range(200):
            for p, target in zip(params, (far, near), strict=True):
                p.grad = (p.detach() - target).sign()
            optimizer.step()
        rates = [float(optimizer.state[p]["d"]) for p in params]
        assert (rates[0] == rates[1]) is shared
        assert shared or (rates[0] > 1 and rates[1] < 0.1)


def test_the_estimate_sees_all_parameters_at_once():
    """Cutting a vector in two changes nothing."""
    whole, halves = nn.Parameter(torch.zeros(6)), [nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(4))]
    optimizers = [metrize.Prodigy([whole], d0=1e-3), metrize.Prodigy(halves, d0=1e-3)]
    for seed in range(6):
        grad = _gauss(6, seed=seed).float() + 1
        whole.grad, (halves[0].grad, halves[1].grad) = grad, grad.split([2, 4])
        for optimizer in optimizers:
            optimizer.step()
    torch.testing.assert_close(torch.cat([p.detach() for p in halves]), whole.detach())


def test_no_gradient_says_nothing_about_the_rate():
    p = nn.Parameter(torch.ones(3))
    optimizer = metrize.Prodigy([p], d0=1e-2)
    optimizer.init_state()
    for grad in (1.0, 0.0, 0.0):
        p.grad = torch.full_like(p, grad)
        before = copy.deepcopy(optimizer.state[p])
        optimizer.step()
    assert all(torch.isfinite(value).all() for value in optimizer.state[p].values())
    assert float(before["d"]) > 0


def test_where_it_has_no_meaning_it_is_refused():
    weight = nn.Parameter(torch.eye(4, 2))
    with pytest.raises(metrize.SpaceError, match=r"step_size=Prodigy.*vector space.*Stiefel"):
        metrize.Optimizer([("w", weight)], Recipe(space=metrize.Stiefel(), step_size=step_sizes.Prodigy()))
    with pytest.raises(ValueError, match="slice_p=3"):
        step_sizes.Prodigy(Frobenius(), slice_p=3)
    with pytest.raises(ValueError, match="growth_rate"):
        metrize.Prodigy([weight], growth_rate=1.0)
