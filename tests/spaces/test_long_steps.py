"""A step of absurd length stays on the space."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
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


def test_the_free_part_of_a_product_goes_as_far_as_it_is_told() -> None:
    space = Product(Stiefel(), 5, Vector())
    p = nn.Parameter(space.random_(torch.empty(8, 4), torch.Generator().manual_seed(1)))
    before = p.detach().clone()
    optimizer = metrize.Optimizer([p], Recipe(space=space, rule=metrize.rules.Gradient()), lr=1e4)
    p.grad = torch.ones(8, 4)
    optimizer.step()
    assert torch.allclose(before[5:] - p.detach()[5:], torch.full((3, 4), 1e4), rtol=1e-3)


@pytest.mark.parametrize("space", [Sphere(), Stiefel(), metrize.Grassmann()], ids=str)
def test_a_step_keeps_its_direction(space: Any) -> None:
    """Shortened along the velocity, and each point of a batch by itself."""
    from metrize.spaces.shortened import LONGEST, shortened

    velocity = torch.randn(2, 8, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    velocity[1] *= 1e12
    found = shortened(velocity)
    assert torch.equal(found[0], velocity[0])
    assert float(found[1].norm()) == pytest.approx(LONGEST)
    assert torch.allclose(found[1] / LONGEST, velocity[1] / velocity[1].norm())
