"""Products: the pieces of one weight behave as parameters of their own."""

import pytest
import torch
from samples import gaussian, random_point

import metrize
from metrize import Grassmann, Product, SpaceError, Sphere, Stiefel, Vector

THREE = Product(
    Stiefel(blocks=2, section="transported", polish_every=2), 6, Product(Sphere(axis=-1), 2, Vector()), axis=0
)


def train(spaces, parameters, grads):
    optimizer = metrize.Adam([{"params": [p], "space": s} for p, s in zip(parameters, spaces, strict=True)], lr=0.1)
    for step in grads:
        for p, grad in zip(parameters, step, strict=True):
            p.grad = grad.contiguous()
        optimizer.step()
    return optimizer


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_pieces_are_trained_as_if_apart(axis):
    space = THREE.replace(axis=0)
    start, grads = random_point(space, (11, 8)), gaussian((7, 11, 8), 1)
    if axis:  # the same weight lying on its side
        space = Product(
            Stiefel(rows=False, section="transported", polish_every=2), 3, Product(Sphere(axis=0), 2, axis=1), axis=axis
        )
        start, grads = random_point(space, (8, 11)), grads.mT
    whole = torch.nn.Parameter(start.clone())
    state = train([space], [whole], [[g] for g in grads]).state[whole]
    cuts = (6, 8) if axis == 0 else (3, 5)
    parts = [torch.nn.Parameter(piece.clone()) for piece in start.tensor_split(cuts, axis)]
    spaces = [space.first, space.rest.first, space.rest.rest]
    apart = train(spaces, parts, [g.tensor_split(cuts, axis) for g in grads])
    torch.testing.assert_close(whole.detach(), torch.cat(parts, axis).detach(), rtol=0, atol=1e-13)
    torch.testing.assert_close(state["exp_avg"], torch.cat([apart.state[p]["exp_avg"] for p in parts], axis))
    torch.testing.assert_close(state["first.section"], apart.state[parts[0]]["section"])
    assert torch.equal(state["rest.first.signs"], apart.state[parts[1]]["signs"])


def test_averages_of_a_piece_turn_with_its_section():
    space = Product(Sphere(axis=-1), 30, Grassmann())
    start, grads = random_point(space, (38, 3)), gaussian((30, 38, 3), 1)
    whole = torch.nn.Parameter(start.clone())
    state = train([space], [whole], [[g] for g in grads]).state[whole]
    parts = [torch.nn.Parameter(piece.clone()) for piece in start.split([30, 8])]
    train([space.first, space.rest], parts, [g.split([30, 8]) for g in grads])
    assert (state["first.signs"] < 0).any()
    assert (state["first.signs"] > 0).any()
    torch.testing.assert_close(whole.detach(), torch.cat(parts).detach(), rtol=0, atol=1e-12)


def test_equal_weights_in_one_bucket_keep_their_own_state():
    starts, grads = [random_point(THREE, (11, 8), seed) for seed in (0, 1)], gaussian((4, 2, 11, 8), 2)
    both = [torch.nn.Parameter(start.clone()) for start in starts]
    train_together = metrize.Adam(both, lr=0.1, space=THREE)
    for step in grads:
        for p, grad in zip(both, step, strict=True):
            p.grad = grad
        train_together.step()
    for i, start in enumerate(starts):
        p = torch.nn.Parameter(start.clone())
        train([THREE], [p], [[g[i]] for g in grads])
        torch.testing.assert_close(both[i].detach(), p.detach(), rtol=0, atol=1e-13)


def test_a_checkpoint_carries_the_state_of_the_pieces():
    start, grads = random_point(THREE, (11, 8)), gaussian((6, 11, 8), 1)
    straight = torch.nn.Parameter(start.clone())
    train([THREE], [straight], [[g] for g in grads])
    p = torch.nn.Parameter(start.clone())
    saved = train([THREE], [p], [[g] for g in grads[:3]]).state_dict()
    resumed = metrize.Adam([{"params": [p], "space": THREE}], lr=0.1)
    resumed.load_state_dict(saved)
    for grad in grads[3:]:
        p.grad = grad
        resumed.step()
    assert torch.equal(p.detach(), straight.detach())


def test_the_rest_is_free_unless_told_otherwise():
    assert Product(Stiefel(), 14) == Product(Stiefel(), 14, Vector(), 0)
    assert metrize.parse("Product(first=Stiefel(), size=14)") == Product(Stiefel(), 14)


@pytest.mark.parametrize(
    ("shape", "space", "said"),
    [
        ((14, 5), Product(Stiefel(), 14), "nothing for the rest"),
        ((), Product(Vector(), 1), "dimension 0"),
        ((5,), Product(Vector(), 1, axis=1), "dimension 1"),
        ((9, 5), Product(Stiefel(rows=True), 7), "orthonormal rows"),
        ((9, 5), Product(Vector(), 4, Grassmann()), "single point"),
    ],
)
def test_shapes_it_cannot_hold_are_refused(shape, space, said):
    with pytest.raises(SpaceError, match=said):
        space.check(torch.zeros(shape))


def test_a_point_off_one_piece_is_refused():
    weight = random_point(Product(Stiefel(), 14), (21, 5))
    weight[14:] *= 100
    metrize.SGD([torch.nn.Parameter(weight.clone())], lr=0.1, space=Product(Stiefel(), 14))
    weight[0] += 1
    with pytest.raises(SpaceError, match="not a point of Product"):
        metrize.SGD([torch.nn.Parameter(weight)], lr=0.1, space=Product(Stiefel(), 14))


def test_the_largest_tolerance_of_a_piece_that_has_one_counts():
    shape, dtype = torch.Size((21, 5)), torch.float32
    for rest in (Sphere(axis=-1), Vector()):
        space = Product(Stiefel(), 14, rest)
        assert space.tolerance(shape, dtype) == Stiefel().tolerance(torch.Size((14, 5)), dtype)
    assert Product(Vector(), 14).tolerance(shape, dtype) == float("inf")


def test_unknown_options_are_refused():
    with pytest.raises(TypeError, match="no space"):
        Product("Stiefel()", 3)
    with pytest.raises(ValueError, match="size=0"):
        Product(Stiefel(), 0)
