"""The named low-rank optimizers have the numbers of their papers, and take what they are given."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import metrize
from metrize import Dense, Recipe, frames, rules
from metrize.moments import Factored, RandomProjection, Split
from metrize.step_sizes import Relative

ADAM = rules.Adam(bias_correction="step")


def of(cls: type[metrize.Optimizer], **options: object) -> metrize.Optimizer:
    return cls([nn.Parameter(torch.ones(6, 4))], **options)


@pytest.mark.parametrize(
    ("cls", "frame", "lr"),
    [
        (metrize.GaLore, frames.GaLore(rank=128, period=200, scale=0.25, side="std", method="svd"), 1e-3),
        (metrize.COAP, frames.COAP(rank=None, ratio=2.0, conv_ratio=2.0, period=32, reproject=5, scale=1.0), 1e-3),
        (metrize.APOLLO, frames.APOLLO(rank=256, period=200, scale=1.0, granularity="channel", growth=1.01), 1e-3),
    ],
)
def test_defaults_of_those_with_adam_inside(cls, frame, lr):
    assert cls.recipe() == Recipe(frame=frame, rule=ADAM, decay="after")
    optimizer = of(cls)
    assert optimizer.recipes() == [cls.recipe()]
    group = optimizer.param_groups[0]
    told = {key: group[key] for key in ("lr", "betas", "eps", "weight_decay")}
    assert told == {"lr": lr, "betas": (0.9, 0.999), "eps": 1e-6, "weight_decay": 0.0}


def test_defaults_of_apollo_mini():
    frame = frames.APOLLO(rank=1, period=200, scale=128.0, granularity="tensor")
    assert of(metrize.APOLLO, mini=True).recipes() == [Recipe(frame=frame, rule=ADAM, decay="after")]
    assert of(metrize.APOLLO, mini=True, rank=2, scale=1.0).recipes()[0].frame == frame.replace(rank=2, scale=1.0)


def test_defaults_of_flora():
    storage = RandomProjection(rank=256, period=1000, max_aspect=4.0, square=Factored("last"))
    assert metrize.Flora.recipe() == Recipe(
        moments=storage, rule=rules.ClippedAverage(), step_size=Relative("given", scaled_by_parameter=True, least=1e-3)
    )
    optimizer = of(metrize.Flora)
    assert optimizer.recipes() == [metrize.Flora.recipe()]
    group = optimizer.param_groups[0]
    told = {key: group[key] for key in ("momentum", "decay_rate", "clip", "eps")}
    assert told == {"momentum": 0.9, "decay_rate": -0.8, "clip": 1.0, "eps": 1e-30}


@pytest.mark.parametrize("cls", [metrize.GaLore, metrize.COAP])
def test_what_works_inside(cls):
    optimizer = of(cls, rank=2, inner="adafactor")
    recipe = optimizer.recipes()[0]
    assert (recipe.rule, recipe.moments) == (rules.Whitened(), Split(Dense(), Factored("last")))
    assert (optimizer.param_groups[0]["momentum"], optimizer.param_groups[0]["eps"]) == (0.9, 1e-30)
    narrow = of(cls, rank=2, moments=Dense("bfloat16"), dtype="bfloat16")
    (state,) = (narrow.spec(narrow.param_groups[0], 0),)
    assert {kind for key, (_, kind) in state.items() if key.startswith(("exp", "basis"))} == {torch.bfloat16}
    with pytest.raises(ValueError, match=r"inner='sgd': inner is one of 'adam'"):
        of(cls, inner="sgd")


@pytest.mark.parametrize("cls", [metrize.GaLore, metrize.COAP, metrize.APOLLO])
def test_an_unknown_option_is_refused(cls):
    with pytest.raises(TypeError, match="projection_rank"):
        of(cls, projection_rank=3)


def test_groups_may_hold_other_recipes():
    body, embedding = nn.Parameter(torch.ones(6, 4)), nn.Parameter(torch.ones(9, 4))
    groups = [{"params": [body]}, {"params": [embedding], "recipe": metrize.AdamW.recipe()}]
    optimizer = metrize.GaLore(groups, rank=2)
    for p in (body, embedding):
        p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(0))
    optimizer.step()
    assert optimizer.state[body]["exp_avg"].shape == (6, 2)
    assert optimizer.state[embedding]["exp_avg"].shape == (9, 4)
