"""Positive definite matrices: changes of units, means, bad input, rounding."""

import pytest
import torch
from samples import generator, random_point
from torch import nn

import metrize
from metrize import SPD, SpaceError

METRICS = [SPD(), SPD(retraction="second-order"), SPD("log-cholesky")]
each = pytest.mark.parametrize("space", METRICS, ids=str)


def fit(space, p, covariance, steps=30, lr=0.05):
    """Adam on the negative log-likelihood of a Gaussian."""
    optimizer = metrize.Adam([p], lr=lr, space=space)
    for _ in range(steps):
        optimizer.zero_grad()
        (torch.linalg.solve(p, covariance).diagonal(dim1=-2, dim2=-1).sum() + torch.logdet(p)).backward()
        optimizer.step()
    return p.detach()


@pytest.mark.parametrize("retraction", ["geodesic", "second-order"])
def test_a_change_of_units_changes_nothing(retraction):
    """And so does any lower triangular change of variables; with the symmetric root the trajectory differs."""
    start, covariance = random_point(SPD(), (4, 4), 0), random_point(SPD(), (4, 4), 1)
    change = torch.diag(torch.tensor([1.0, 10.0, 0.1, 1000.0], dtype=torch.float64))
    change[2, 0] = 3.0
    gaps = {}
    for section in ("cholesky", "sqrt"):
        space = SPD(section=section, retraction=retraction)
        plain = fit(space, nn.Parameter(start.clone()), covariance)
        other = fit(space, nn.Parameter(change @ start @ change.mT), change @ covariance @ change.mT)
        gaps[section] = space.dist(change @ plain @ change.mT, other).item()
    assert gaps["cholesky"] < 1e-8
    assert gaps["sqrt"] > 1e-3


def test_the_mean_of_covariances_is_found():
    space = SPD()
    samples = torch.stack([random_point(space, (3, 3), seed) for seed in range(8)])
    p = nn.Parameter(torch.eye(3, dtype=torch.float64))
    optimizer = metrize.Adam([p], lr=0.05, space=space)
    for step in range(300):
        if step in (150, 225):
            optimizer.param_groups[0]["lr"] *= 0.1
        optimizer.zero_grad()
        space.dist(p.expand(8, 3, 3), samples).square().mean().backward()
        optimizer.step()
    logs = space.log(p.detach().expand(8, 3, 3), samples).mean(0)
    assert space.inner(p.detach(), logs, logs).sqrt() < 1e-5  # where the mean is, and nowhere else


def noisy(space, steps):
    p = nn.Parameter(space.random_(torch.empty(3, 6, 6), generator(), scale=0.3))
    optimizer = metrize.Adam([p], lr=1e-2, betas=(0.9, 0.99), space=space)
    noise, worst = generator(3), 0.0
    for _ in range(steps):
        inverse = torch.linalg.inv(p.detach())
        p.grad = inverse - inverse @ inverse + 0.1 * torch.randn(p.shape, generator=noise)
        optimizer.step()
        worst = max(worst, space.error_of(p).item())
    return worst, space.dist(p.detach(), torch.eye(6).expand(3, 6, 6)).max().item()


@each
def test_hundreds_of_noisy_steps_stay(space):
    error, distance = noisy(space, 300)
    assert error <= 1e-6
    assert distance < 1


@pytest.mark.slow
@each
def test_ten_thousand_noisy_steps_stay(space):
    error, distance = noisy(space, 10_000)
    assert error <= 1e-6
    assert distance < 1


@each
def test_decay_contracts_toward_the_unit_matrix(space):
    y = random_point(space, (4, 4))
    p = nn.Parameter(y.clone())
    p.grad = torch.zeros_like(p)
    metrize.AdamW([p], lr=0.1, weight_decay=0.5, space=space).step()
    eye = torch.eye(4, dtype=torch.float64)
    torch.testing.assert_close(space.dist(p.detach(), eye), 0.95 * space.dist(y, eye))


@each
def test_a_step_of_length_zero_changes_no_bit(space):
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        p = nn.Parameter(random_point(space, (4, 4), dtype=dtype))
        before = p.detach().clone()
        optimizer = metrize.Adam([p], lr=0.0, space=space)
        for grad in (torch.zeros_like(p), torch.ones_like(p)):
            p.grad = grad
            optimizer.step()
        assert torch.equal(p.detach(), before)


def test_gradients_where_eigenvalues_are_equal():
    space = SPD()
    eye = torch.eye(3, dtype=torch.float64)
    y, z = eye.clone().requires_grad_(), (4 * eye).requires_grad_()
    grads = torch.autograd.grad(space.dist(y, z), (y, z))
    torch.testing.assert_close(grads[0], -eye / 3**0.5)
    torch.testing.assert_close(grads[1], eye / 3**0.5 / 4)
    y, z = (random_point(space, (3, 3), seed).requires_grad_() for seed in (0, 1))

    def symmetric(function):
        return lambda a, b: function((a + a.mT) / 2, (b + b.mT) / 2)

    assert torch.autograd.gradcheck(symmetric(space.dist), (y, z))
    assert torch.autograd.gradcheck(symmetric(space.log), (y, z))
    assert torch.autograd.gradcheck(symmetric(lambda a, b: space.transport(a, b, a)), (y, z))


OFF = {
    "a negative eigenvalue": torch.tensor([[1.0, 2.0], [2.0, 1.0]]),
    "singular": torch.ones(2, 2),
    "not symmetric": torch.tensor([[1.0, 0.3], [0.1, 1.0]]),
}


@pytest.mark.parametrize("wrong", OFF)
@each
def test_what_is_not_positive_definite_is_refused_by_name_and_left_alone(space, wrong):
    layer = nn.Linear(2, 2, bias=False)
    layer.weight.data = OFF[wrong].clone()
    with pytest.raises(SpaceError, match=r"(?s)'Linear.weight': not a point of SPD.*symmetric and positive definite"):
        metrize.constrain(layer, "weight", space, project=False)
    p = nn.Parameter(OFF[wrong].clone())
    p.grad = torch.ones_like(p)
    with pytest.raises(SpaceError, match=r"(?s)'w': not a point of SPD.*project_"):
        metrize.Adam([("w", p)], space=space).step()
    assert torch.equal(layer.weight, OFF[wrong])
    assert torch.equal(p, OFF[wrong])
    metrize.constrain(layer, "weight", space)  # the remedy
    assert space.error_of(layer.weight) < 1e-6


def test_options_and_shapes_that_mean_nothing_are_refused():
    with pytest.raises(ValueError, match="only the affine metric"):
        SPD("log-cholesky", section="sqrt")
    with pytest.raises(ValueError, match="blocks=0"):
        SPD(blocks=0)
    for shape, words in (((3,), "holds matrices"), ((3, 2), "3 x 2 matrix"), ((0, 0), "0 x 0"), ((4, 3), "4 x 3")):
        with pytest.raises(SpaceError, match=words):
            SPD().check(torch.empty(shape))
    with pytest.raises(SpaceError, match="no one point"):
        SPD().project_(-torch.eye(3))
