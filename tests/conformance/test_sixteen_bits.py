"""Every optimizer trains 16-bit weights at its defaults, or says that it may not."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import nn

import metrize
from metrize import Compensated, Nearest, Recipe, Stochastic, rules, step_sizes

HALVES = (torch.bfloat16, torch.float16)
FINE = ("Prodigy", "FreeMuon")
FREE = {
    "in a kernel": Recipe(rule=rules.Adam(bias_correction=False), step_size=step_sizes.Prodigy()),
    "in a batch": Recipe(rule=rules.Steepest(metrize.norms.Spectral()), step_size=step_sizes.Prodigy()),
    "piece by piece": Recipe(rule=rules.Lion(), step_size=step_sizes.Prodigy()),
}


def layer(dtype: torch.dtype) -> nn.Linear:
    made = nn.Linear(16, 24)
    for p in made.parameters():
        p.data.copy_(torch.randn(p.shape, generator=torch.Generator().manual_seed(0)))
    return made.to(dtype)


def train(optimizer: metrize.Optimizer, model: nn.Linear, steps: int) -> list[float]:
    inputs, seen = torch.randn(64, 16, generator=torch.Generator().manual_seed(1)), []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = model(inputs.to(model.weight.dtype)).float().square().mean()
        loss.backward()
        optimizer.step()
        seen.append(loss.item())
    return seen


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("name", metrize.catalogue())
def test_weights_move_and_the_loss_falls_or_it_is_said(name: str, dtype: torch.dtype) -> None:
    model = layer(dtype)
    before = model.weight.detach().clone()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        optimizer = metrize.catalogue()[name](model)
    seen = train(optimizer, model, 20)
    assert any("may never move" in str(warning.message) for warning in told) == (
        dtype == torch.float16 and name in FINE
    )
    if not any("may never move" in str(warning.message) for warning in told):
        assert (model.weight != before).any()
        assert seen[-1] < seen[0]


@pytest.mark.parametrize("how", FREE)
def test_a_step_size_that_starts_small_keeps_what_rounding_leaves_out(how: str) -> None:
    ends = []
    for rounding in (Nearest(), Compensated()):
        p = nn.Parameter(layer(torch.bfloat16).weight.detach().clone())
        optimizer = metrize.Optimizer([p], FREE[how].replace(rounding=rounding), lr=1.0)
        for _ in range(100):
            p.grad = p.detach().clone()
            optimizer.step()
        ends.append(p.detach().clone())
        assert float(optimizer.state[p]["d"]) > 1e-3
    assert torch.equal(*ends)


def test_other_roundings_and_other_dtypes_stay_as_they_are() -> None:
    for dtype, rounding in ((torch.float32, Nearest()), (torch.bfloat16, Stochastic())):
        model = layer(dtype)
        optimizer = metrize.Prodigy(model, rounding=rounding)
        train(optimizer, model, 1)
        assert "rounding.rest" not in optimizer.state[model.weight]


@pytest.mark.parametrize("name", FINE)
def test_memory_is_predicted(name: str) -> None:
    model = layer(torch.bfloat16)
    optimizer = metrize.catalogue()[name](model)
    optimizer.init_state()
    assert metrize.predict(model, metrize.catalogue()[name]).state == metrize.state_bytes(optimizer)


@pytest.mark.parametrize("name", FINE)
def test_a_checkpoint_without_the_rest_goes_on(name: str) -> None:
    model = layer(torch.bfloat16)
    optimizer = metrize.catalogue()[name](model, d0=1e-2)
    train(optimizer, model, 3)
    saved = copy.deepcopy(optimizer.state_dict())
    for state in saved["state"].values():
        del state["rounding.rest"]
    for state in optimizer.state.values():
        state["rounding.rest"].zero_()
    other = copy.deepcopy(model)
    resumed = metrize.catalogue()[name](other, d0=1e-2)
    resumed.load_state_dict(saved)
    assert train(optimizer, model, 3) == train(resumed, other, 3)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), other.parameters(), strict=True))
