"""Tensors laid end to end on a device take the steps that they take alone, and their states stay their own."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from sentences import DECAYS, RULES, legal
from torch import nn

import metrize
from metrize import Recipe
from metrize.rules import Rule
from metrize.step import flat
from metrize.step.assignment import assign
from metrize.step.flat import Flat
from metrize.step.piecewise import Piecewise
from metrize.testing.agreement import executors, run

SHAPES = ((6, 5), (), (7,), (20, 9), (0, 3), (2, 3, 4))


@pytest.fixture
def on_this_device(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As if the host were a device, in portions that hold several tensors, or a part of the largest."""
    monkeypatch.setattr(Flat, "pays", classmethod(lambda cls, assignment: True))
    monkeypatch.setattr(flat, "portion_size", lambda device: 64)
    yield


def parameters() -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]


def step(optimizer: Any, params: list[nn.Parameter], seed: int, without: tuple[int, ...] = ()) -> None:
    generator = torch.Generator().manual_seed(seed)
    for i, p in enumerate(params):
        grad = torch.randn(p.shape, generator=generator)
        p.grad = None if i in without else grad
    optimizer.step()


@pytest.mark.usefixtures("on_this_device")
@pytest.mark.parametrize("name", ["Lion", "Signum", "SignSGD", "FAdam", "AdamNC"])
def test_members_without_gradients_keep_their_count(name: str) -> None:
    params, others = parameters(), parameters()
    optimizer = metrize.catalogue()[name](params, lr=0.01)
    alone = [metrize.catalogue()[name]([p], lr=0.01) for p in others]
    for seed, without in enumerate([(), (2,), (0, 3), ()]):
        step(optimizer, params, seed, without)
        for i, own in enumerate(alone):
            others[i].grad = params[i].grad
            own.step()
    assert [int(optimizer.state[p]["step"]) for p in params] == [3, 4, 3, 3, 4, 4]
    for p, q in zip(params, others, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-7)


@pytest.mark.usefixtures("on_this_device")
def test_flat_it_is_and_every_average_has_its_shape() -> None:
    params = parameters()
    optimizer = metrize.Lion(params, lr=0.01)
    step(optimizer, params, 0)
    assert [type(bucket) for bucket in optimizer.buckets] == [Flat]
    for p in params:
        assert {key: value.shape for key, value in optimizer.state[p].items()} == {"step": (), "exp_avg": p.shape}
    storages = {optimizer.state[p]["exp_avg"].untyped_storage().data_ptr() for p in params if p.numel()}
    assert len(storages) == 1


@pytest.mark.usefixtures("on_this_device")
@pytest.mark.parametrize("how", ["checkpoint", "deepcopy"])
def test_what_is_resumed_goes_on_bit_for_bit(how: str) -> None:
    params = parameters()
    optimizer = metrize.Lion(params, lr=0.01)
    for seed in range(2):
        step(optimizer, params, seed)
    if how == "deepcopy":
        twin = copy.deepcopy(optimizer)
        others = twin.param_groups[0]["params"]
    else:
        others = [nn.Parameter(p.detach().clone()) for p in params]
        twin = metrize.Lion(others, lr=0.01)
        twin.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for seed in range(2, 4):
        step(optimizer, params, seed)
        step(twin, others, seed)
    assert all(torch.equal(p, q) for p, q in zip(params, others, strict=True))


def shared(rule: Rule) -> Iterator[Recipe]:
    """Recipes of a rule that can be stepped in both ways, without a kernel of torch's."""
    p = nn.Parameter(torch.ones(16, 12))
    for decay in DECAYS:
        recipe = Recipe(rule=rule, decay=decay)
        if legal(recipe, p.shape) and {Flat, Piecewise} <= {*executors(recipe, p)}:
            if assign(metrize.Optimizer([p], recipe).param_groups[0], 0).kernel is None:
                yield recipe


@pytest.mark.parametrize("recipe", [recipe for rule in RULES for recipe in shared(rule)], ids=str)
def test_a_portion_has_the_bits_of_a_piece(recipe: Recipe) -> None:
    """Elementwise arithmetic does not know which of the two went by."""
    start = torch.linspace(-1, 1, 192).view(16, 12)
    ends = [run(recipe, nn.Parameter(start.clone()), executor, maximize=True) for executor in (Flat, Piecewise)]
    assert torch.equal(*ends)


def test_some_of_them_are_shared() -> None:
    assert sum(bool([*shared(rule)]) for rule in RULES) >= 5
