"""What every space owes: projection, tangency, retraction, metric, gradient, uniform points. Five seeds, float64."""

import pytest
import torch
from samples import (
    CASES,
    exponential,
    full,
    gaussian,
    generator,
    inner,
    lifted,
    matrices,
    moved,
    orthonormal,
    pieces,
    push,
    random_point,
    retracting,
    some_point,
    start,
)

import metrize
from metrize import Grassmann, Lorentz, Orthogonal, Sphere, Stiefel, SymplecticGrassmann, SymplecticStiefel
from metrize.linalg.symplectic import adjoint
from metrize.spaces.symplectic import Symplectic

SEEDS = range(5)
every_space = pytest.mark.parametrize(("space", "shape"), CASES.values(), ids=CASES)
every_seed = pytest.mark.parametrize("seed", SEEDS)
SUBSPACES = (Grassmann, SymplecticGrassmann)


def these(holds):
    """The spaces for which something holds."""
    chosen = {name: case for name, case in CASES.items() if holds(case[0])}
    return pytest.mark.parametrize(("space", "shape"), chosen.values(), ids=chosen)


def small(x, bound):
    assert x.abs().max() < bound


@every_space
@every_seed
def test_the_projection_lands_and_stays(space, shape, seed):
    put = space.project_(gaussian(shape, seed))
    assert space.error_of(put) < 1e-13
    again = space.project_(put.clone())
    small(again - put, 1e-14)
    for piece, part in pieces(space, put):
        if isinstance(piece, Orthogonal) and piece.special:
            assert (torch.linalg.det(matrices(piece, part)) > 0).all()


@these(lambda space: not full(space) and not isinstance(space, Lorentz))
@every_seed
def test_the_projection_is_the_nearest_point(space, shape, seed):
    x = gaussian(shape, seed)
    nearest = (x - space.project_(x.clone())).norm()
    tries = [random_point(space, shape, 100 + k) for k in range(10)]
    step = lifted(space, space.project_(x.clone()), gaussian(shape, seed + 1))
    tries += [moved(space, space.project_(x.clone()), step * h) for h in (1e-2, -1e-2)]
    assert all((x - y).norm() >= nearest for y in tries)


@every_space
@every_seed
def test_the_lifted_gradient_is_tangent(space, shape, seed):
    y = some_point(space, shape, seed)
    tangent = push(space, y, lifted(space, y, gaussian(shape, seed + 50)))
    assert tangent.norm() > 0.01
    for (piece, part), (_, direction) in zip(pieces(space, y), pieces(space, tangent), strict=True):
        if not orthonormal(piece):
            small(piece.tangent(part, direction) - direction, 1e-10 * max(1, direction.abs().max()))
        else:
            across = adjoint if isinstance(piece, Symplectic) else lambda x: x.mT
            a = across(matrices(piece, part)) @ matrices(piece, direction)
            small(a if isinstance(piece, SUBSPACES) else a + across(a), 1e-10)


@every_space
@every_seed
@pytest.mark.parametrize("retraction", ["cayley", "geodesic"])
def test_the_retraction_follows_the_exponential(space, shape, seed, retraction):
    space = retracting(space, retraction)
    y = some_point(space, shape, seed)
    coords = lifted(space, y, gaussian(shape, seed + 50))
    coords = coords / inner(space, coords, coords).sqrt()
    tangent, gaps = push(space, y, coords), {}
    for h in (0.2, 0.1):
        ends = pieces(space, moved(space, y, coords * h))
        for at, ((piece, part), (_, d), (_, end)) in enumerate(
            zip(pieces(space, y), pieces(space, tangent), ends, strict=True)
        ):
            if not orthonormal(piece):
                gaps[at, h] = ((end - piece.exp(part, h * d)).norm() / end.norm()).item()
                continue
            exact = exponential(piece, matrices(piece, part), h * matrices(piece, d))
            gaps[at, h] = (matrices(piece, end) - exact).norm().item()
    for at, (piece, _) in enumerate(pieces(space, y)):
        if not orthonormal(piece) or (retraction == "geodesic" and not isinstance(piece, Symplectic)):
            assert gaps[at, 0.2] < 1e-11
        else:  # equal to second order: they part at the third
            assert gaps[at, 0.2] / gaps[at, 0.1] == pytest.approx(8, rel=0.05)


def metric(space, y, d, e):
    """What the length of coordinates should say of two tangents."""
    if not orthonormal(space):
        return space.inner(y, d, e).sum()
    p, d, e = (matrices(space, x) if isinstance(space, (Stiefel, Symplectic)) else x for x in (y, d, e))
    if full(space):  # one in which the section is orthonormal
        section = start(space, y)[1].get("section", p[..., :0])
        inside = ((adjoint(p) @ d) * (adjoint(p) @ e)).sum()
        return inside / 2 + ((adjoint(section) @ d) * (adjoint(section) @ e)).sum()
    whole = (d * e).sum()
    if isinstance(space, (Stiefel, SymplecticStiefel)):  # the canonical metric tr(D^T (I - Y Y^T / 2) E)
        whole -= ((p.mT @ d) * (p.mT @ e)).sum() / 2
    return whole / 2 if isinstance(space, Symplectic) else whole  # Phi stands there twice


@every_space
@every_seed
def test_lengths_and_angles_are_those_of_the_metric(space, shape, seed):
    y = some_point(space, shape, seed)
    coords = [lifted(space, y, gaussian(shape, seed + k)) for k in (50, 60)]
    tangents = [pieces(space, push(space, y, c)) for c in coords]
    parts = zip(pieces(space, y), *tangents, strict=True)
    expected = sum(metric(piece, part, d, e) for (piece, part), (_, d), (_, e) in parts)
    torch.testing.assert_close(inner(space, *coords), expected, rtol=1e-10, atol=1e-10)
    assert (space.sq_norm(coords[0]) > 0).all()
    torch.testing.assert_close(inner(space, *coords), inner(space, *coords[::-1]), rtol=0, atol=1e-12)


@these(lambda space: not full(space) or space.coordinates == "derivative")
@every_seed
def test_the_lift_is_the_gradient_in_that_metric(space, shape, seed):
    y = some_point(space, shape, seed).requires_grad_()
    weights = gaussian(shape, seed + 50)
    (grad,) = torch.autograd.grad((weights * y).sin().sum() + (weights * y).sum() ** 2, y)
    direction = lifted(space, y.detach(), gaussian(shape, seed + 60))
    along = (grad * push(space, y.detach(), direction)).sum()
    torch.testing.assert_close(inner(space, lifted(space, y.detach(), grad), direction), along, rtol=1e-9, atol=1e-9)


@every_space
def test_the_dimension_is_the_rank_of_the_lift(space, shape):
    y = some_point(space, shape)
    units = torch.eye(y.numel(), dtype=y.dtype).view(-1, *shape)
    basis = torch.stack([lifted(space, y, unit).flatten() for unit in units])
    points = torch.Size(space.batch_shape(y.shape)).numel()
    assert torch.linalg.matrix_rank(basis) == space.dim(y.shape) * points


@every_space
def test_random_points_come_from_the_generator_alone(space, shape):
    before = torch.random.get_rng_state()
    first, again, other = (random_point(space, shape, seed) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(before, torch.random.get_rng_state())
    assert space.error_of(first) < 1e-13
    for dtype in (torch.float32, torch.bfloat16):
        assert torch.equal(random_point(space, shape, 3, dtype), first.to(dtype))


@pytest.mark.parametrize("space", [Stiefel(), Grassmann(), Sphere(axis=(-2, -1))])
def test_random_points_are_uniform(space):
    draws = random_point(space, (20_000, 5, 2))
    y = draws.flatten(1)
    small(y.mean(0), 0.02)
    second = y.mT @ y / len(y)  # Haar measure: E vec(Y) vec(Y)^T = I |Y|^2 / (N n)
    small(second - torch.eye(10, dtype=y.dtype) * y[0].square().sum() / 10, 0.02)


@pytest.mark.parametrize("special", [False, True])
def test_random_rotations_are_uniform(special):
    y = random_point(Orthogonal(special=special), (20_000, 5, 5))
    trace = y.diagonal(dim1=-2, dim2=-1).sum(-1)
    assert trace.mean().abs() < 0.03  # moments of the trace: 0, 1, 0, 3
    assert trace.square().mean() == pytest.approx(1, abs=0.05)
    assert trace.pow(4).mean() == pytest.approx(3, abs=0.4)
    assert torch.linalg.det(y).mean() == pytest.approx(1 if special else 0, abs=0.03)


@every_space
def test_the_sentence_reads_back(space, shape):
    assert metrize.parse(repr(space)) == space
    assert metrize.parse(str(space)) == space
    assert metrize.parse_space(repr(space)) == space
    hash(space)


def test_uniform_points_need_a_tensor_the_space_can_hold():
    with pytest.raises(metrize.SpaceError, match="square"):
        Orthogonal().random_(torch.empty(4, 3), generator())
