"""Long steps, and steps of absurd length, stay on the space."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from samples import CASES as SHAPED
from samples import full, retracting
from sentences import SPACES, options
from torch import nn

import metrize
from metrize import Orthogonal, Product, Recipe, Space, Sphere, Stiefel, Vector

LENGTHS = (1.0, 1e2, 1e4, 1e6, 1e9, 1e30)


CASES = list(dict.fromkeys(v for space in (*SPACES, Orthogonal(), Stiefel(blocks=2)) for v in (space, *options(space))))


def shape_of(space: Space) -> tuple[int, ...]:
    return (6, 6) if space == Orthogonal() or (isinstance(space, Orthogonal) and space.blocks == 1) else (8, 4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("space", [s for s in CASES if not s.flat], ids=repr)
def test_one_long_step_leaves_no_space(space: Space, dtype: torch.dtype) -> None:
    for length in LENGTHS:
        try:
            start = space.random_(torch.empty(shape_of(space), dtype=dtype), torch.Generator().manual_seed(1))
        except metrize.SpaceError:
            pytest.skip("no such point of this shape")
        p = nn.Parameter(start)
        optimizer = metrize.Optimizer([p], Recipe(space=space, rule=metrize.rules.Gradient()), lr=length)
        for step in range(2):
            p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(step)).to(dtype)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of a section whose steps are refused
                optimizer.step()
            assert bool(torch.isfinite(p).all()), length
            assert all(bool(torch.isfinite(v.double()).all()) for v in optimizer.state[p].values())
            assert float(space.error_of(p)) <= 1e-5, length


LONG = {
    **{name: case for name, case in SHAPED.items() if not case[0].flat and not full(case[0])},
    **{f"{space}, large": (space, (128, 48)) for space in (Stiefel(), metrize.Grassmann(), Sphere())},
    "transported, large": (Stiefel(section="transported"), (96, 32)),
    "orthogonal, large": (Orthogonal(), (64, 64)),
    "symplectic, large": (metrize.SymplecticStiefel(), (128, 48)),
}


def gradient_of(shape: tuple[int, ...], one_direction: bool, seed: int) -> torch.Tensor:
    """Of length 1, and of rank 1 if asked for: one angle takes the whole length then."""
    grad = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    if one_direction and len(shape) > 1:
        grad = grad[..., :1] * grad[..., :1, :]
    return grad / grad.norm()


@pytest.mark.parametrize("retraction", ["cayley", "geodesic"])
@pytest.mark.parametrize("case", LONG)
def test_no_step_of_a_run_of_long_ones_leaves_the_space(case: str, retraction: str) -> None:
    space, shape = LONG[case]
    space = retracting(space, retraction)
    for dtype, bar in ((torch.float32, 1e-5), (torch.float64, 2e-13)):
        for length, one_direction in [(size, kind) for size in (1.0, 8.0, 60.0, 1e6) for kind in (True, False)]:
            start = space.random_(torch.empty(shape, dtype=dtype), torch.Generator().manual_seed(1))
            p = nn.Parameter(start)
            optimizer = metrize.Optimizer([p], Recipe(space=space, rule=metrize.rules.Gradient()), lr=length)
            worst = 0.0
            for step in range(7):
                p.grad = gradient_of(shape, one_direction, step).to(dtype)
                optimizer.step()
                worst = max(worst, float(space.error_of(p)))
            assert worst <= bar, (length, one_direction, dtype)


def test_a_turn_to_half_way_round_in_every_direction_is_not_shortened() -> None:
    """A long velocity of many columns need not be a long one of any of them."""
    space = Orthogonal(retraction="geodesic")
    p = nn.Parameter(torch.eye(512, dtype=torch.float64))
    optimizer = metrize.Optimizer([p], Recipe(space=space, rule=metrize.rules.Gradient()), lr=1.0)
    quarter = torch.tensor([[0.0, 1.0], [-1.0, 0.0]], dtype=torch.float64)
    p.grad = torch.block_diag(*[quarter * math.pi / 2] * 256)  # whose skew part is pi, half a turn in each plane
    optimizer.step()
    torch.testing.assert_close(p.detach(), -torch.eye(512, dtype=torch.float64))


def test_the_free_part_of_a_product_goes_as_far_as_it_is_told() -> None:
    space = Product(Stiefel(), 5, Vector())
    p = nn.Parameter(space.random_(torch.empty(8, 4), torch.Generator().manual_seed(1)))
    before = p.detach().clone()
    optimizer = metrize.Optimizer([p], Recipe(space=space, rule=metrize.rules.Gradient()), lr=1e4)
    p.grad = torch.ones(8, 4)
    optimizer.step()
    assert torch.allclose(before[5:] - p.detach()[5:], torch.full((3, 4), 1e4), rtol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_step_keeps_its_direction(dtype: torch.dtype) -> None:
    """Shortened along the velocity, and each point of a batch by itself."""
    from metrize.spaces.shortened import LONGEST, shortened, sq_reach

    velocity = torch.randn(4, 8, 4, generator=torch.Generator().manual_seed(2), dtype=dtype)
    velocity *= torch.tensor([1.0, 1e2, 1e12, 1e30], dtype=dtype)[:, None, None]
    found = shortened(velocity)
    assert torch.equal(found[0], velocity[0])
    unit = velocity / velocity.abs().amax((-2, -1), keepdim=True)
    torch.testing.assert_close(sq_reach(found[1:]).sqrt().flatten(), torch.full((3,), LONGEST, dtype=dtype))
    torch.testing.assert_close(found[1:] / found[1:, :1, :1], unit[1:] / unit[1:, :1, :1])
