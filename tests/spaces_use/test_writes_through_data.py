"""Points that are pushed off their space through ``data``, which no version tells, are refused at the next polish."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from sentences import SPACES
from torch import Tensor, nn

import metrize
from metrize import Space, SpaceError

CURVED = [space for space in SPACES if not space.flat]
DTYPES = (torch.float32, torch.bfloat16)
PERIOD = 20


def drawn(seed: int, like: Tensor) -> Tensor:
    return torch.randn(like.shape, generator=torch.Generator().manual_seed(seed)).to(like.dtype)


def start(space: Space, dtype: torch.dtype, lr: float) -> tuple[list[nn.Parameter], metrize.Optimizer]:
    points = [space.random_(torch.empty(8, 4, dtype=dtype), torch.Generator().manual_seed(i)) for i in range(2)]
    params = [nn.Parameter(point) for point in points]
    return params, metrize.Adam([("first", params[0]), ("second", params[1])], lr=lr, space=space)


def step(params: list[nn.Parameter], optimizer: metrize.Optimizer, seed: int) -> None:
    for i, p in enumerate(params):
        p.grad = drawn(2 * seed + i, p)
    optimizer.step()


@pytest.mark.parametrize("space", CURVED, ids=str)
def test_the_polish_refuses_what_no_rounding_explains(space: Space) -> None:
    params, optimizer = start(space, torch.float32, 1e-2)
    for seed in range(5):
        step(params, optimizer, seed)
    params[1].data.mul_(1.5)
    due = next((n for n in range(6, 200) if space.polishes(torch.tensor([n]))), None)
    if due is None:
        step(params, optimizer, 5)
        assert space.error_of(params[1]) <= space.tolerance(params[1].shape, torch.float32)
        return  # each step ends on the space, wherever it begins
    for _ in range(6, due):
        step(params, optimizer, 5)
    kept = copy.deepcopy([[*params], optimizer.state_dict()["state"]])
    with pytest.raises(SpaceError, match=r"'second': its error on .* through `data`"):
        step(params, optimizer, 6)
    assert all(torch.equal(p, q) for p, q in zip(params, kept[0], strict=True))
    states = zip(optimizer.state_dict()["state"].values(), kept[1].values(), strict=True)
    assert all(torch.equal(now[key], was[key]) for now, was in states for key in was)
    space.project_(params[1])
    step(params, optimizer, 0)


@pytest.mark.filterwarnings("ignore:the step of .* was not taken:RuntimeWarning")
@pytest.mark.parametrize("space", CURVED, ids=str)
def test_no_run_however_rough_is_refused(space: Space) -> None:
    for dtype, lr in itertools.product(DTYPES, (1e-2, 100.0)):
        params, optimizer = start(space, dtype, lr)
        for seed in range(2 * PERIOD + 2):
            step(params, optimizer, seed)


@pytest.mark.parametrize("space", CURVED, ids=str)
def test_a_model_converted_from_16_bits_goes_on(space: Space) -> None:
    params, optimizer = start(space, torch.bfloat16, 1e-2)
    for seed in range(5):
        step(params, optimizer, seed)
    for p in params:
        p.grad, p.data = None, p.data.float()
    for seed in range(PERIOD):
        step(params, optimizer, seed)
