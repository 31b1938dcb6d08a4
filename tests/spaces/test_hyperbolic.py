"""Hyperbolic space in both models: digits far out, bad input, moments and weights under an optimizer."""

import math

import pytest
import torch
from samples import gaussian, generator, lifted, random_point, start
from torch import nn

import metrize
from metrize import Lorentz, PoincareBall, SpaceError

MODELS = [Lorentz(), PoincareBall()]
both = pytest.mark.parametrize("space", MODELS, ids=str)


def at_radius(space, radius, seed, count=12, n=3, dtype=torch.float64):
    """Points at a distance from the origin."""
    extra = isinstance(space, Lorentz)
    direction = gaussian((count, n), seed)
    direction = direction / direction.norm(dim=-1, keepdim=True)
    if extra:
        y = math.sinh(radius) * direction
        return space.from_chart(y).to(dtype)
    return (math.tanh(radius / 2) * direction).to(dtype)


def close_by(space, y, distance, seed):
    """Points at a distance from these, in any direction."""
    v = gaussian(y.shape, seed)
    v = space.tangent(y, v) if isinstance(space, PoincareBall) else space._vector_of(y, v[..., 1:])
    return space.exp(y, v * (distance / space.inner(y, v, v).sqrt().unsqueeze(-1)))


@both
@pytest.mark.parametrize(
    ("radius", "distance", "bound"),
    [(0.01, 1e-3, 1e-9), (2, 1e-3, 1e-9), (5, 0.3, 3e-6), (8, 0.3, 3e-5), (8, 1e-3, 2e-7), (10, 1e-3, 2e-6)],
)
def test_float32_distances_keep_their_digits(space, radius, distance, bound):
    """Against float64 for the same points, whose forms the tables of fifty digits check."""
    y = at_radius(space, radius, 0)
    z = close_by(space, y, distance, 1)
    y, z = space.project_(y.float()), space.project_(z.float())
    exact = space.dist(space.project_(y.double()), space.project_(z.double()))
    assert (space.dist(y, z).double() - exact).abs().max() < bound


@both
@pytest.mark.parametrize(("radius", "bound"), [(0.5, 1e-6), (2, 1e-6), (5, 3e-5), (8, 6e-4), (10, 5e-3)])
def test_float32_gradients_after_the_lift(space, radius, bound):
    y = at_radius(space, radius, 0)
    z = close_by(space, y, 1.0, 1)
    y, z = space.project_(y.float()), space.project_(z.float())
    found = []
    for dtype in (torch.float32, torch.float64):
        p, q = space.project_(y.to(dtype)).requires_grad_(), space.project_(z.to(dtype))
        (grad,) = torch.autograd.grad(space.dist(p, q).sum(), p)
        found.append(lifted(space, p.detach(), grad).double()[0])
    assert (found[0] - found[1]).norm(dim=-1).max() < bound
    torch.testing.assert_close(found[1].norm(dim=-1), torch.ones(12, dtype=torch.float64), rtol=1e-6, atol=1e-6)


@both
def test_a_root_at_the_origin_has_its_gradient(space):
    origin = space.random_(torch.empty(1, 3, dtype=torch.float64), generator(), scale=0.0)
    z = random_point(space, (1, 3), 3)
    p = origin.clone().requires_grad_()
    (grad,) = torch.autograd.grad(space.dist(p, z).sum(), p)
    assert space.sq_norm(lifted(space, origin, grad)).item() == pytest.approx(1)
    log = lifted(space, origin, grad)
    toward = space.log(origin, z)
    cosine = -(log.flatten() * toward.flatten()).sum() / (log.norm() * toward.norm())
    assert cosine.item() == pytest.approx(1)


def noisy(space, dtype, steps, radius, lr=0.02):
    """Adam after targets at a radius, with noise in every gradient; the mean distance at the end."""
    goal = at_radius(space, radius, 5, 64, dtype=torch.float64)
    goal = space.project_(goal.to(dtype))
    p = nn.Parameter(random_point(space, goal.shape, 1, dtype))
    optimizer = metrize.Adam([p], lr=lr, betas=(0.9, 0.99), space=space)
    noise, worst = generator(7), 0.0
    for step in range(steps):
        if step == steps // 2:
            optimizer.param_groups[0]["lr"] = lr / 10
        optimizer.zero_grad()
        jitter = 1 + 0.3 * torch.randn(64, generator=noise, dtype=torch.float64).to(dtype)
        (space.dist(p, goal).square() * jitter).sum().backward()
        optimizer.step()
        if step % 50 == 0:
            worst = max(worst, space.error_of(p).item())
    return space.dist(p.detach(), goal).mean().item(), worst


@both
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_hundreds_of_noisy_steps_arrive_and_stay(space, dtype):
    distance, error = noisy(space, dtype, 300, 2, lr=0.08)
    assert distance < 0.02
    assert error <= 1e-6


@pytest.mark.slow
@both
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("radius", [3, 8, 10])
def test_ten_thousand_noisy_steps_arrive_and_stay(space, dtype, radius):
    distance, error = noisy(space, dtype, 10_000, radius)
    assert distance < 0.002
    assert error <= 1e-6


@both
def test_a_transported_section_stays_a_rotation(space):
    space = space.replace(section="transported")
    p = nn.Parameter(random_point(space, (6, 4), dtype=torch.float32))
    optimizer = metrize.Adam([p], lr=0.05, space=space)
    for step in range(250):
        p.grad = gaussian((6, 4), step).float()
        optimizer.step()
    kept = optimizer.state[p]["section"]
    assert (kept.mT @ kept - torch.eye(kept.shape[-1])).norm(dim=(-2, -1)).max() < 2e-6
    assert (kept - torch.eye(kept.shape[-1])).norm(dim=(-2, -1)).min() > 0.1


@both
def test_decay_contracts_toward_the_origin(space):
    y = random_point(space, (5, 4))
    origin = space.random_(torch.empty(5, 4, dtype=torch.float64), generator(), scale=0.0)
    p = nn.Parameter(y.clone())
    p.grad = torch.zeros_like(p)
    metrize.AdamW([p], lr=0.1, weight_decay=0.5, space=space).step()
    torch.testing.assert_close(space.dist(p.detach(), origin), 0.95 * space.dist(y, origin))
    assert space.error_of(p) < 1e-14


@both
def test_a_step_of_length_zero_changes_no_bit(space):
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        p = nn.Parameter(random_point(space, (5, 4), dtype=dtype))
        before = p.detach().clone()
        optimizer = metrize.Adam([p], lr=0.0, space=space)
        for grad in (torch.zeros_like(p), torch.ones_like(p)):
            p.grad = grad
            optimizer.step()
        assert torch.equal(p.detach(), before)


def test_16_bit_points_at_the_boundary():
    """A point that rounding takes out of the ball is as far out as points go, and comes back."""
    space = PoincareBall()
    p = nn.Parameter(torch.tensor([[1.0, 0.0], [0.0, 0.998], [0.6, -0.8]], dtype=torch.bfloat16))
    goal = torch.zeros(3, 2, dtype=torch.bfloat16)
    optimizer = metrize.Adam([p], lr=0.1, space=space)
    for _ in range(5):
        optimizer.zero_grad()
        loss = space.dist(p, goal).float().square().sum()
        assert loss.isfinite()
        loss.backward()
        optimizer.step()
    assert p.isfinite().all()
    assert space.error_of(optimizer.state[p]["master"]) < 1e-6
    assert (p.detach().float().norm(dim=-1) <= 1.004).all()


@pytest.mark.parametrize("kind", [Lorentz, PoincareBall])
@pytest.mark.parametrize("curvature", [0.0, 1.0, math.inf, -math.inf])
def test_a_curvature_of_the_wrong_sign(kind, curvature):
    with pytest.raises(ValueError, match=rf"{kind.__name__}\(curvature={curvature}\).*below 0; -1.0 is one"):
        kind(curvature=curvature)


OFF = [
    (PoincareBall(), torch.tensor([[0.1, 0.2], [0.8, 0.7]]), "within"),
    (PoincareBall(curvature=-4.0), torch.tensor([[0.1, 0.2], [0.4, 0.4]]), "within"),
    (Lorentz(), torch.tensor([[1.0, 0.0], [1.0, 1.0]]), "y0 = "),
    (Lorentz(), torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), "y0 = "),
    (Lorentz(), torch.tensor([[1.0, 0.0], [0.0, 1.0]]), "y0 = "),
]


@pytest.mark.parametrize(("space", "weight", "words"), OFF, ids=str)
def test_points_off_the_space_are_refused_by_name_and_left_alone(space, weight, words):
    layer = nn.Linear(2, 2, bias=False)
    layer.weight.data = weight.clone()
    with pytest.raises(SpaceError, match=rf"(?s)'Linear.weight': not a point of .*{words}.*project_"):
        metrize.constrain(layer, "weight", space, project=False)
    p = nn.Parameter(weight.clone())
    p.grad = torch.ones_like(p)
    with pytest.raises(SpaceError, match=rf"(?s)'w': not a point of .*{words}.*project_"):
        metrize.Adam([("w", p)], space=space).step()
    assert torch.equal(layer.weight, weight)
    assert torch.equal(p, weight)
    metrize.constrain(layer, "weight", space)  # the remedy
    assert space.error_of(layer.weight) < 1e-6


@pytest.mark.parametrize(
    ("space", "shape", "words"),
    [
        (Lorentz(), (4, 1), "2 at least"),
        (Lorentz(axis=1), (4,), "dimension 1"),
        (PoincareBall(), (), "dimension -1"),
        (PoincareBall(), (4, 0), "1 at least"),
    ],
)
def test_shapes_are_refused(space, shape, words):
    with pytest.raises(SpaceError, match=words):
        space.check(torch.empty(shape))


def test_the_chart_keeps_the_gradient_of_a_loss_of_ones_own():
    """``arccosh`` of the product of two points keeps digits in its gradient only where y0 is computed from y'."""
    space = Lorentz()
    y, z = at_radius(space, 4.0, 0, dtype=torch.float32), at_radius(space, 4.0, 1, dtype=torch.float32)

    def lift_of(read):
        p = y.clone().requires_grad_()
        u = read(p)
        product = u[:, 0] * z[:, 0] - (u[:, 1:] * z[:, 1:]).sum(-1)
        (grad,) = torch.autograd.grad(torch.acosh(product).sum(), p)
        return lifted(space, y, grad)[0].norm(dim=-1)

    chart = (lift_of(lambda p: space.from_chart(p[:, 1:])) - 1).abs().max()
    assert chart < 1e-4
    points, state = start(space, y)
    assert torch.equal(space.section_at(points, state).at[0], points[..., 1:])
