"""The Grassmann manifold beyond the golden files and the axioms."""

import pytest
import torch
from samples import gaussian, random_point

import metrize
from metrize import Grassmann, SpaceError
from metrize.spaces.retractions import HORIZONTAL, RETRACTIONS


def steps(space, start, grads, arrange=lambda x: x):
    p = torch.nn.Parameter(arrange(start).contiguous())
    optimizer = metrize.Adam([p], lr=0.05, space=space)
    for grad in grads:
        p.grad = arrange(grad).contiguous()
        optimizer.step()
    return p.detach()


def test_tall_wide_fused_and_batched_are_the_same_steps():
    start, grads = random_point(Grassmann(), (4, 9, 3)), gaussian((5, 4, 9, 3), 7)
    batch = steps(Grassmann(), start, grads)
    wide = steps(Grassmann(), start, grads, lambda x: x.mT)
    by_rows = steps(Grassmann(rows=True), start, grads, lambda x: x.mT)
    fused = steps(Grassmann(blocks=4), start, grads, lambda x: x.mT.reshape(12, 9))
    each = torch.stack([steps(Grassmann(), start[i], grads[:, i]) for i in range(4)])
    for other in (wide.mT, by_rows.mT, fused.reshape(4, 3, 9).mT, each):
        torch.testing.assert_close(other, batch, rtol=0, atol=1e-13)


@pytest.mark.parametrize("section", ["closed-form", "transported"])
@pytest.mark.parametrize("retraction", ["cayley", "geodesic"])
def test_it_finds_the_principal_subspace(section, retraction):
    scale = torch.tensor([5.0, 4.0, 3.0] + [0.5] * 9, dtype=torch.float64)
    turn = torch.linalg.qr(gaussian((12, 12), 3))[0]
    m = turn @ scale.diag() @ turn.mT
    p = torch.nn.Parameter(random_point(Grassmann(), (12, 3)))
    optimizer = metrize.SGD([p], lr=0.1, space=Grassmann(section=section, retraction=retraction))
    for _ in range(150):
        p.grad = -m @ p.detach()
        optimizer.step()
    torch.testing.assert_close(p @ p.mT, turn[:, :3] @ turn[:, :3].mT, rtol=0, atol=1e-10)


@pytest.mark.parametrize("retraction", ["cayley", "geodesic"])
@pytest.mark.parametrize("scale", [0.0, 1e-9, 1e-3, 1.0, 30.0])
def test_the_short_forms_are_the_general_ones_without_a(retraction, scale):
    y, b = random_point(Grassmann(), (2, 9, 3)), gaussian((2, 6, 3), 1) * scale
    b[0, :, 2] = 0  # an angle that is zero
    pushed = torch.linalg.qr(y, mode="complete")[0][..., 3:] @ b
    expected = RETRACTIONS[retraction](y, pushed, torch.zeros(2, 3, 3, dtype=y.dtype), b)
    short = HORIZONTAL[retraction](y, pushed, b)
    torch.testing.assert_close(short[0], expected[0], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(short[1](), expected[1](), rtol=1e-12, atol=1e-12)


def test_turning_the_basis_is_no_gradient():
    y, space = random_point(Grassmann(), (8, 3)), Grassmann()
    p = torch.nn.Parameter(y.clone())
    p.grad = y @ gaussian((3, 3), 2)
    metrize.SGD([p], lr=1.0, space=space).step()
    torch.testing.assert_close(p.detach(), y, rtol=0, atol=1e-14)


@pytest.mark.parametrize(
    ("shape", "space", "said"),
    [
        ((6, 6), Grassmann(), "single point"),
        ((1, 1), Grassmann(), "single point"),
        ((12, 6), Grassmann(blocks=2), "single point"),
        ((6,), Grassmann(), "Grassmann holds matrices"),
        ((3, 6), Grassmann(rows=False), "rows=True"),
        ((7, 3), Grassmann(blocks=2), "blocks=2"),
        ((0, 3), Grassmann(), "no matrix"),
    ],
)
def test_shapes_it_cannot_hold_are_refused(shape, space, said):
    with pytest.raises(SpaceError, match=said):
        space.check(torch.zeros(shape))


@pytest.mark.parametrize("options", [{"retraction": "qr"}, {"section": "x"}, {"blocks": 0}, {"polish_every": -1}])
def test_unknown_options_are_refused(options):
    with pytest.raises(ValueError, match=rf"Grassmann\({next(iter(options))}="):
        Grassmann(**options)


def test_an_empty_batch_is_no_trouble():
    p = torch.nn.Parameter(torch.zeros(0, 6, 3))
    p.grad = torch.zeros(0, 6, 3)
    metrize.Adam([p], space=Grassmann()).step()
    assert Grassmann().error_of(p) == 0


def test_what_spaces_share_is_no_space():
    with pytest.raises(ValueError, match="Orthonormal is a contract; use one of Grassmann, Orthogonal, Stiefel"):
        metrize.parse("Orthonormal()")
