"""The orthogonal group and the rotations."""

import pytest
import torch
from samples import gaussian, random_point

import metrize
from metrize import Orthogonal, SpaceError, Stiefel


def steps(space, start, grads):
    p = torch.nn.Parameter(start.clone())
    optimizer = metrize.Adam([p], lr=0.05, space=space)
    for grad in grads:
        p.grad = grad
        optimizer.step()
    return p.detach()


@pytest.mark.parametrize("rows", [None, True])
def test_it_is_the_square_stiefel_manifold(rows):
    start, grads = random_point(Orthogonal(), (2, 5, 5)), gaussian((6, 2, 5, 5), 1)
    expected = steps(Stiefel(rows=rows), start, grads)
    assert torch.equal(steps(Orthogonal(rows=rows), start, grads), expected)
    geodesic = [steps(kind(rows=rows, retraction="geodesic"), start, grads) for kind in (Orthogonal, Stiefel)]
    torch.testing.assert_close(*geodesic, rtol=0, atol=1e-13)


@pytest.mark.parametrize("retraction", ["cayley", "geodesic"])
@pytest.mark.parametrize("special", [False, True])
def test_no_step_changes_the_determinant(special, retraction):
    space = Orthogonal(special=special, retraction=retraction)
    start = random_point(space, (8, 4, 4))
    end = steps(space, start, 30 * gaussian((20, 8, 4, 4), 2))
    torch.testing.assert_close(torch.linalg.det(end), torch.linalg.det(start).round(), rtol=0, atol=1e-12)
    assert (end - start).norm() > 1


def test_the_nearest_rotation_gives_up_the_smallest_singular_value():
    x = torch.diag(torch.tensor([3.0, -0.1, 2.0]))
    assert torch.equal(Orthogonal().project_(x.clone()), torch.diag(torch.tensor([1.0, -1.0, 1.0])))
    torch.testing.assert_close(Orthogonal(special=True).project_(x.clone()), torch.eye(3))


def test_a_reflection_is_no_rotation():
    mirror = torch.diag(torch.tensor([1.0, -1.0, 1.0]))
    assert Orthogonal().error_of(mirror) == 0
    assert Orthogonal(special=True).error_of(mirror) == 2
    with pytest.raises(SpaceError, match="not a point of Orthogonal"):
        metrize.SGD([torch.nn.Parameter(mirror)], lr=0.1, space=Orthogonal(special=True))
    layer = torch.nn.Linear(3, 3)
    layer.weight.data.copy_(mirror)
    metrize.constrain(layer, "weight", Orthogonal(special=True))
    assert torch.linalg.det(layer.weight).item() == pytest.approx(1)


@pytest.mark.parametrize(
    ("shape", "space"), [((4, 3), Orthogonal()), ((4,), Orthogonal()), ((9, 4), Orthogonal(blocks=3))]
)
def test_shapes_it_cannot_hold_are_refused(shape, space):
    with pytest.raises(SpaceError):
        space.check(torch.zeros(shape))
