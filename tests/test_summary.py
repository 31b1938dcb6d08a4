"""`Optimizer.summary` tells what each group is."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import metrize

RANKS = {name: {"rank": 4} for name in ("GaLore", "COAP", "Flora", "APOLLO")}


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(*[nn.Linear(16, 16) for _ in range(3)], nn.Linear(16, 5))


@pytest.mark.parametrize("name", metrize.catalogue())
def test_the_bytes_are_those_of_the_state(name: str) -> None:
    model = net()
    optimizer = metrize.catalogue()[name](model, **RANKS.get(name, {}))
    first = optimizer.summary()
    numbers = sum(p.numel() for p in model.parameters())
    model(torch.randn(4, 16)).square().mean().backward()
    optimizer.step()
    assert optimizer.summary() == first == repr(optimizer)
    held = metrize.state_bytes(optimizer)
    title, heads, *rows = first.splitlines()
    assert title == f"{name} (8 parameters, {numbers:,} numbers, {metrize.sizes.written(held)} of state)"
    assert heads.split()[:3] == ["group", "parameters", "rule"]
    assert len(rows) == len(optimizer.param_groups)
    for row, recipe in zip(rows, optimizer.recipes(), strict=True):
        assert str(recipe.rule) in row


def test_numbers_follow_the_group() -> None:
    weights, bias = nn.Parameter(torch.zeros(3, 4)), nn.Parameter(torch.zeros(3))
    groups = [{"params": [weights]}, {"params": [bias], "lr": torch.tensor(0.25), "weight_decay": 0.0}]
    optimizer = metrize.AdamW(groups, lr=0.5, weight_decay=0.1)
    rows = [row.split() for row in optimizer.summary().splitlines()[2:]]
    assert [(row[-6], row[-5], row[-4]) for row in rows] == [("0.5", "0.1", "12"), ("0.25", "0", "3")]
    optimizer.param_groups[0]["lr"] = 0.125
    assert "0.125" in optimizer.summary()


def test_what_is_constrained_and_what_is_projected() -> None:
    model = net()
    assert "4 of 8 in GaLore" in metrize.GaLore(model, rank=4).summary()
    assert "0 of 8 in GaLore" in metrize.GaLore(model, rank=64).summary()
    assert "4 of 8 projected" in metrize.Flora(model, rank=4).summary()
    assert metrize.AdamW(model).summary().splitlines()[-1].endswith("free")
    metrize.constrain(model[0], "weight", metrize.Stiefel())
    assert "1 on Stiefel()" in metrize.AdamW(model).summary()


def test_names_are_short() -> None:
    many = nn.ModuleDict({f"layer_{i}": nn.Linear(2, 2) for i in range(20)})
    assert "layer_0.weight, layer_0.bias and 38 more" in metrize.AdamW(many).summary()
    assert "*.weight x4, *.bias x4" in metrize.AdamW(net()).summary()
    assert "8 parameters " in metrize.AdamW(net().parameters()).summary().splitlines()[-1]


def test_repr_never_fails() -> None:
    optimizer = metrize.AdamW(net())
    optimizer.param_groups[0]["recipe"] = "half made"
    assert repr(optimizer).startswith("AdamW (")
