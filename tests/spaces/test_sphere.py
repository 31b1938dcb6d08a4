"""Spheres: the closed forms against the Stiefel manifold with one column."""

import math

import pytest
import torch
from samples import gaussian, random_point

import metrize
from metrize import SpaceError, Sphere, Stiefel
from metrize.spaces.sphere import Reflection


def steps(space, start, grads, arrange=lambda x: x, **options):
    p = torch.nn.Parameter(arrange(start).clone())
    optimizer = metrize.Adam([p], space=space, **({"lr": 0.1} | options))
    for grad in grads:
        p.grad = arrange(grad).clone()
        optimizer.step()
    return p.detach(), optimizer.state[p]


@pytest.mark.parametrize("second_moment", ["elementwise", "scalar"])
@pytest.mark.parametrize("retraction", ["cayley", "geodesic"])
def test_a_sphere_is_the_stiefel_manifold_of_one_column(retraction, second_moment):
    start, grads = random_point(Sphere(axis=-1), (50, 6)), gaussian((40, 50, 6), 1)
    start[0] = -torch.eye(6)[0]  # the point where Householder's sign must change
    options = {"second_moment": second_moment}
    ball, kept = steps(Sphere(axis=-1, retraction=retraction), start, grads, **options)
    flag, same = steps(Stiefel(retraction=retraction), start, grads, lambda x: x.unsqueeze(-1), **options)
    torch.testing.assert_close(ball, flag.squeeze(-1), rtol=0, atol=1e-12)
    torch.testing.assert_close(kept["exp_avg"], same["exp_avg"].squeeze(-1), rtol=0, atol=1e-12)
    assert torch.equal(kept["signs"], same["signs"].squeeze(-1))
    assert len(kept["signs"].unique()) == 2  # both signs were met


def test_a_changed_sign_turns_the_coordinates_of_the_same_tangent():
    space, y = Sphere(axis=-1), random_point(Sphere(axis=-1), (1, 20, 5))
    y[:, :, 0] = -8
    y = space.project_(y)
    tangent = gaussian((1, 20, 5), 1)
    tangent -= y * (y * tangent).sum(-1, keepdim=True)
    state = {"signs": torch.ones(1, 20, dtype=torch.int8)}
    before = Reflection(y + torch.eye(5, dtype=y.dtype)[0], y[..., :1] + 1, y[..., :1] < 2, (-1,))
    section = space.section_at(y, state)
    assert (state["signs"] == -1).all()
    kept = space.lift(y, tangent, before)
    torch.testing.assert_close(space.turn(section)(kept), space.lift(y, tangent, section), rtol=0, atol=1e-12)
    assert space.turn(space.section_at(y, state)) is None


def test_rows_columns_filters_and_whole_tensors_are_the_same_steps():
    start, grads = random_point(Sphere(axis=-1), (5, 12)), gaussian((6, 5, 12), 2)
    rows, _ = steps(Sphere(axis=-1), start, grads)
    columns, _ = steps(Sphere(axis=0), start, grads, lambda x: x.mT)
    filters, _ = steps(Sphere(axis=(-1, 1, 2)), start, grads, lambda x: x.reshape(5, 2, 3, 2))
    middle, _ = steps(Sphere(axis=1), start, grads, lambda x: x.reshape(5, 12, 1))
    each = torch.stack([steps(Sphere(), start[i], grads[:, i])[0] for i in range(5)])
    for other in (columns.mT, filters.reshape(5, 12), middle.squeeze(-1), each):
        torch.testing.assert_close(other, rows, rtol=0, atol=1e-14)


@pytest.mark.parametrize("retraction", ["cayley", "geodesic"])
def test_a_step_has_its_length_on_the_sphere(retraction):
    start, radius = random_point(Sphere(radius=4.0), (9,)), 4.0
    p = torch.nn.Parameter(start.clone())
    p.grad = gaussian((9,), 3)
    tangent = p.grad - start * (start @ p.grad) / radius**2
    lr = 0.2 / tangent.norm().item()
    metrize.SGD([p], lr=lr, space=Sphere(radius=radius, retraction=retraction)).step()
    angle = torch.arccos((p.detach() @ start) / radius**2).item()
    exact = 0.2 / radius if retraction == "geodesic" else 2 * math.atan(0.1 / radius)
    assert angle == pytest.approx(exact, rel=1e-9)
    assert p.norm().item() == pytest.approx(radius, rel=1e-14)


@pytest.mark.parametrize("x", [torch.full((4,), 3e38), torch.full((4,), 1e-40)])
def test_the_projection_survives_every_length(x):
    assert Sphere().error_of(Sphere().project_(x)) < 1e-6


@pytest.mark.parametrize(
    ("shape", "space", "said"),
    [
        ((4,), Sphere(axis=1), "does not have"),
        ((4, 5), Sphere(axis=(0, -2)), "one twice"),
        ((4, 1), Sphere(axis=-1), "two at least"),
        ((4, 0), Sphere(axis=-1), "two at least"),
        ((), Sphere(), "two at least"),
        ((1,), Sphere(), "two at least"),
    ],
)
def test_shapes_it_cannot_hold_are_refused(shape, space, said):
    with pytest.raises(SpaceError, match=said):
        space.check(torch.zeros(shape))


@pytest.mark.parametrize(
    "options", [{"radius": 0.0}, {"radius": -1.0}, {"radius": math.inf}, {"axis": ()}, {"retraction": "qr"}]
)
def test_unknown_options_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        Sphere(**options)


def test_an_empty_batch_is_no_trouble():
    p = torch.nn.Parameter(torch.zeros(0, 6))
    p.grad = torch.zeros(0, 6)
    metrize.Adam([p], space=Sphere(axis=-1)).step()
    assert Sphere(axis=-1).error_of(p) == 0
