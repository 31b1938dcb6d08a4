"""Every optimizer trains 16-bit weights at its defaults."""

from __future__ import annotations

import copy

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


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("name", metrize.catalogue())
def test_weights_move_and_the_loss_falls(name: str, dtype: torch.dtype) -> None:
    model = layer(dtype)
    before = model.weight.detach().clone()
    seen = train(metrize.catalogue()[name](model), model, 40)
    assert (model.weight != before).any()
    assert seen[-1] < seen[0]


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("how", FREE)
def test_a_step_size_that_starts_small_keeps_what_rounding_leaves_out(how: str, dtype: torch.dtype) -> None:
    ends = []
    for rounding in (Nearest(), Compensated()):
        p = nn.Parameter(layer(dtype).weight.detach().clone())
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


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("name", FINE)
def test_memory_is_predicted(name: str, dtype: torch.dtype) -> None:
    model = layer(dtype)
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


def test_the_error_of_float16_is_kept_to_the_bit() -> None:
    """In the whole range of float16: below its least normal number, at a power of two, at its end, and beyond."""
    wide = torch.cat(
        [torch.logspace(-14, 15, 997, base=2), torch.tensor([0.99999, 2**-14 * 0.99999, 65504.0, 65510.0])]
    )
    wide = torch.cat([wide, -wide, torch.zeros(1)])
    stored, rest = wide.half(), torch.zeros(wide.shape, dtype=torch.int16)
    Compensated().narrow_(stored, wide, rest, 0)
    assert torch.equal(stored, wide.half())
    assert torch.equal(Compensated().widen(stored, rest), wide)
    tiny = torch.linspace(0, 2**-14, 99)
    Compensated().narrow_(stored[:99], tiny, rest[:99], 0)
    assert (Compensated().widen(stored[:99], rest[:99]) - tiny).abs().max() <= 2**-40
    Compensated().narrow_(stored[:1], torch.tensor([1e6]), rest[:1], 0)
    assert Compensated().widen(stored[:1], rest[:1]).isposinf().all()
