"""Where a section changes a sign, the first moment turns and the second does not; no step grows beyond Adam's own."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import metrize
from metrize import Space, rules
from metrize.spaces.sections import ClosedForm

BETAS = (0.9, 0.999)
BOUND = (1 - BETAS[0]) / math.sqrt((1 - BETAS[1]) * (1 - BETAS[0] ** 2 / BETAS[1]))
CASES = [
    (metrize.Stiefel(), (5, 2)),
    (metrize.Grassmann(), (5, 2)),
    (metrize.Sphere(), (6,)),
    (metrize.SymplecticStiefel(), (8, 4)),
    (metrize.SymplecticGrassmann(), (8, 4)),
]
STORAGES = (metrize.Dense(), metrize.Dense("bfloat16"))
Gradients = Callable[[int, Tensor, torch.Generator], Tensor]


def noisy(step: int, p: Tensor, draw: torch.Generator) -> Tensor:
    return torch.randn(p.shape, generator=draw)


def to_and_fro(step: int, p: Tensor, draw: torch.Generator) -> Tensor:
    """One direction, whose sign changes now and then, and almost nothing in all others."""
    way = torch.randn(p.shape, generator=torch.Generator().manual_seed(7))
    return way * (1 if step % 400 < 200 else -1) + 1e-6 * torch.randn(p.shape, generator=draw)


def longest(space: Space, shape: tuple[int, ...], gradients: Gradients, steps: int, monkeypatch) -> tuple[float, int]:
    """The largest entry of any direction, in units of lr, and how often signs changed."""
    seen, plain = [], rules.Adam.direction

    def direction(*args):
        made = plain(*args)
        seen.append(float(made.abs().max()))
        return made

    monkeypatch.setattr(rules.Adam, "direction", direction)
    draw = torch.Generator().manual_seed(0)
    p = nn.Parameter(space.random_(torch.empty(shape), draw))
    optimizer = metrize.Adam([p], lr=3e-2, space=space)
    changes, last = 0, None
    for step in range(steps):
        p.grad = gradients(step, p, draw)
        optimizer.step()
        signs = optimizer.state[p]["signs"].clone()
        changes += last is not None and not torch.equal(signs, last)
        last = signs
    return max(seen), changes


def near_the_end(rows: int) -> Tensor:
    """Two orthonormal columns close to minus the first axes, where the signs of the start do not serve."""
    y = 0.5 * torch.randn(rows, 2, generator=torch.Generator().manual_seed(1)) / rows**0.5
    y.diagonal().sub_(1.0)
    return metrize.Stiefel().project(y.unsqueeze(0))[0]


@pytest.mark.parametrize("gradients", [noisy, to_and_fro])
@pytest.mark.parametrize(("space", "shape"), CASES, ids=str)
def test_no_step_is_longer_than_one_of_adam(space: Space, shape, gradients: Gradients, monkeypatch) -> None:
    most, changes = longest(space, shape, gradients, 450, monkeypatch)
    assert most <= BOUND
    assert changes or gradients is noisy


@pytest.mark.slow
@pytest.mark.parametrize(("space", "shape"), CASES, ids=str)
def test_nor_in_a_long_run(space: Space, shape, monkeypatch) -> None:
    assert longest(space, shape, noisy, 10_000, monkeypatch)[0] <= BOUND


@pytest.mark.parametrize("storage", STORAGES, ids=str)
def test_a_large_moment_on_an_axis_that_never_moved(storage: metrize.Moments, monkeypatch) -> None:
    """All gradients lie on one axis of the section; then a sign changes, and turns them on axes whose v is nearly 0."""
    y = near_the_end(6)
    p = nn.Parameter(y.clone())
    optimizer = metrize.Adam([p], lr=1e-3, space=metrize.Stiefel(), moments=storage)
    optimizer.init_state()
    state = optimizer.state[p]
    state["step"].fill_(10_000)
    state["exp_avg"][2] = 1.0
    state["exp_avg_sq"].fill_(1e-12)
    state["exp_avg_sq"][2] = 1.0
    made, plain = [], rules.Adam.direction
    monkeypatch.setattr(rules.Adam, "direction", lambda *args: made.append(plain(*args)) or made[-1])
    p.grad = torch.zeros_like(p)
    optimizer.step()
    assert (state["signs"] < 0).any()
    assert made[0].abs().max() <= 1.01 * BOUND
    assert (made[0] != 0).any()


def test_where_one_axis_is_left_only_its_sign_changes() -> None:
    """``N = n + 1``: the turn is 1 or -1, |m| stays, and the clamp has nothing to do."""
    section = ClosedForm.at(near_the_end(3).double(), torch.ones(2, dtype=torch.float64))
    assert section.before is not None
    coords = torch.randn(3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(section.turn(coords).abs(), coords.abs())
