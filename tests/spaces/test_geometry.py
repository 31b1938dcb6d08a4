"""Lengths, shortest paths and vectors taken along them: what geometry promises, on every space that has it."""

import pytest
import torch
from samples import CASES, gaussian, random_point

from metrize import SpaceError

SEEDS = range(5)


def has(space, shape, name):
    y = random_point(space, shape)
    args = {"dist": (y, y), "log": (y, y), "transport": (y, y, 0 * y), "inner": (y, 0 * y, 0 * y)}.get(name, (y, 0 * y))
    try:
        getattr(space, name)(*args)
    except SpaceError:
        return False
    return True


def those_with(*names):
    chosen = {key: case for key, case in CASES.items() if all(has(*case, name) for name in names)}
    return pytest.mark.parametrize(("space", "shape"), chosen.values(), ids=chosen)


every_seed = pytest.mark.parametrize("seed", SEEDS)


def neighbours(space, shape, seed, count=2):
    """Points of one neighbourhood, so that shortest paths are unique, and a tangent vector at the first."""
    y = random_point(space, shape, seed)
    return [y, *(space.exp(y, vector(space, y, seed + k, 0.7)) for k in range(1, count))]


def vector(space, y, seed, length=1.0):
    v = space.tangent(y, gaussian(y.shape, 100 + seed))
    return v * (length / space.inner(y, v, v).amax().sqrt())


def close(found, expected, bound=1e-9):
    torch.testing.assert_close(found, expected, rtol=bound, atol=bound * max(1.0, float(expected.abs().max())))


@those_with("exp", "log", "dist", "inner")
@every_seed
def test_the_logarithm_is_the_way_there_and_as_long_as_the_distance(space, shape, seed):
    y, z, x = neighbours(space, shape, seed, 3)
    close(space.exp(y, space.log(y, z)), z)
    log = space.log(y, z)
    close(space.tangent(y, log), log)
    close(space.inner(y, log, log).sqrt(), space.dist(y, z))
    close(space.dist(y, z), space.dist(z, y))
    assert (space.dist(y, x) <= space.dist(y, z) + space.dist(z, x) + 1e-12).all()
    v = vector(space, y, seed, 0.5)
    close(space.log(y, space.exp(y, v)), v)
    assert space.error_of(space.exp(y, v)) < 1e-12


@those_with("exp", "log", "transport", "inner")
@every_seed
def test_transport_keeps_angles_and_the_path_itself(space, shape, seed):
    y, z = neighbours(space, shape, seed)
    u, v = vector(space, y, seed), vector(space, y, seed + 7)
    moved = [space.transport(y, z, x) for x in (u, v)]
    close(space.tangent(z, moved[0]), moved[0])
    close(space.inner(z, *moved), space.inner(y, u, v))
    close(space.transport(y, z, space.log(y, z)), -space.log(z, y))
    close(space.transport(z, y, moved[0]), u)


@those_with("tangent", "inner")
@every_seed
def test_the_tangent_space_and_its_metric(space, shape, seed):
    y = random_point(space, shape, seed)
    u, v = space.tangent(y, gaussian(shape, seed + 50)), space.tangent(y, gaussian(shape, seed + 60))
    close(space.tangent(y, u), u)
    close(space.inner(y, u, v), space.inner(y, v, u))
    close(space.inner(y, 2 * u + v, v), 2 * space.inner(y, u, v) + space.inner(y, v, v))
    assert (space.inner(y, u, u) > 0).all()


@those_with("retract", "exp", "tangent")
def test_a_retraction_leaves_in_the_direction_of_the_vector(space, shape):
    y = random_point(space, shape)
    v = vector(space, y, 3) if has(space, shape, "inner") else space.tangent(y, gaussian(shape, 3))
    gaps = [(space.retract(y, h * v) - space.exp(y, h * v)).norm() for h in (1e-2, 1e-3)]
    assert gaps[1] <= gaps[0] / 99 + 1e-14
    assert space.error_of(space.retract(y, v)) < 1e-12


@those_with("dist", "log")
def test_gradients_where_points_coincide(space, shape):
    y, z = (random_point(space, shape).requires_grad_() for _ in range(2))
    for loss in (space.dist(y, z).sum(), space.dist(y, z).square().sum(), space.log(y, z).square().sum()):
        assert loss == 0
        for grad in torch.autograd.grad(loss, (y, z)):
            assert not grad.any()


@those_with("dist")
def test_a_distance_falls_along_the_logarithm(space, shape):
    """Its gradient has length one: what a step sees of it, by differences along the path."""
    y, z = neighbours(space, shape, 0)
    y.requires_grad_()
    (grad,) = torch.autograd.grad(space.dist(y, z).sum(), y)
    along = space.log(y.detach(), z)
    slope = (grad * along).sum()
    close(slope, -space.dist(y.detach(), z).sum(), 1e-8)


@those_with("dist")
def test_batches_broadcast_and_dtypes_stay(space, shape):
    points = torch.stack([random_point(space, shape, seed) for seed in range(3)])
    if len(space.batch_shape(points.shape)) > len(space.batch_shape(torch.Size(shape))) and getattr(space, "axis", -1):
        for y, z, d in zip(points, points.roll(1, 0), space.dist(points, points.roll(1, 0)), strict=True):
            close(space.dist(y, z), d, 1e-12)
    for dtype in (torch.float32, torch.bfloat16):
        y, z = points[0].to(dtype), points[1].to(dtype)
        for found in (space.dist(y, z), space.log(y, z), space.exp(y, y * 0)):
            assert found.dtype == dtype
            assert found.isfinite().all()


def test_integers_and_shapes_are_refused():
    space, shape = CASES["ball"]
    with pytest.raises(SpaceError, match="floating point"):
        space.dist(torch.zeros(shape, dtype=torch.int64), torch.zeros(shape))
    with pytest.raises(SpaceError, match="dimension"):
        space.dist(torch.zeros(()), torch.zeros(shape))
    space, shape = CASES["symplectic"]
    with pytest.raises(SpaceError, match=r"SymplecticStiefel\(\) has no `log`"):
        space.log(torch.zeros(shape), torch.zeros(shape))
