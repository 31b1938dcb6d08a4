"""Groups that come after construction, in every form that torch takes, and what of an optimizer they change."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import metrize
from metrize import SpaceError

CATALOGUE = metrize.catalogue()
FORMS: dict[str, Callable[[nn.Module], Any]] = {
    "module": lambda layer: layer,
    "named": lambda layer: list(layer.named_parameters()),
    "bare": lambda layer: list(layer.parameters()),
    "generator": lambda layer: layer.parameters(),
    "tensor": lambda layer: layer.weight,
    "empty": lambda layer: [],
}


def layer(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Linear(4, 6, bias=False)


def step(optimizer: metrize.Optimizer) -> None:
    for group in optimizer.param_groups:
        for p in group["params"]:
            p.grad = torch.ones_like(p)
    optimizer.step()


@pytest.mark.parametrize("first", [form for form in FORMS if form != "empty"])
@pytest.mark.parametrize("name", CATALOGUE)
def test_groups_of_every_form_follow_each_other(name: str, first: str) -> None:
    layers = [layer(seed) for seed in range(1 + len(FORMS))]
    optimizer = CATALOGUE[name]([{"params": FORMS[first](layers[0])}], lr=0.1)
    for form, later in zip(FORMS, layers[1:], strict=True):
        optimizer.add_param_group({"params": FORMS[form](later), "lr": 0.2})
    step(optimizer)
    trained = [p for group in optimizer.param_groups for p in group["params"]]
    assert [id(p) for p in trained] == [id(p.weight) for p in layers[:-1]]
    if name not in ("Muon", "COAPMuon"):  # which has another one for the last layer of a module
        assert [group["lr"] for group in optimizer.param_groups if group["params"]] == [0.1] + [0.2] * 5
    names = [group["param_names"] for group in optimizer.param_groups]
    assert [len(n) for n in names] == [len(group["params"]) for group in optimizer.param_groups]
    assert "param_groups[3]['params'][0]" in names[3]  # made up, for the bare ones
    assert names[1] == ["weight"]


@pytest.mark.parametrize("name", ["Muon", "COAPMuon", "FreeMuon", "Scion", "Adalayer", "AdamMini"])
def test_a_module_in_a_later_group_is_trained_by_its_roles(name: str) -> None:
    def model() -> nn.Module:
        layers = OrderedDict(
            embed=nn.Embedding(8, 4), hidden=nn.Linear(4, 4), norm=nn.LayerNorm(4), head=nn.Linear(4, 8)
        )
        return nn.Sequential(layers)

    whole, later = CATALOGUE[name](model()), CATALOGUE[name]([layer(0).weight])
    later.add_param_group({"params": model()})
    told = [{k: str(v) for k, v in group.items() if k not in ("params", "lr")} for group in whole.param_groups]
    assert [
        {k: str(v) for k, v in group.items() if k not in ("params", "lr")} for group in later.param_groups[1:]
    ] == told
    assert len({group["recipe"] for group in later.param_groups}) > 1


@pytest.mark.parametrize("name", CATALOGUE)
def test_a_group_that_is_refused_leaves_no_trace(name: str) -> None:
    optimizer = CATALOGUE[name]([layer(0).weight])
    before = str(optimizer.param_groups)
    bad = nn.Parameter(torch.ones(4, 4).to(torch.float8_e4m3fn))
    refused: list[tuple[Any, type[Exception], str]] = [
        ([("a", layer(1).weight), ("b", bad)], SpaceError, "'b'"),
        (["x"], TypeError, "str"),
        ([("a", layer(1).weight), layer(2).weight], ValueError, "with/without names"),
        ({layer(1).weight}, TypeError, "set"),
        (optimizer.param_groups[0]["params"], ValueError, "more than one"),
    ]
    for params, error, match in refused:
        with pytest.raises(error, match=match):
            optimizer.add_param_group({"params": params})
        assert str(optimizer.param_groups) == before
    with pytest.raises(TypeError, match="str"):
        CATALOGUE[name](["x"])


@pytest.mark.parametrize("name", CATALOGUE)
def test_an_empty_tensor_is_no_obstacle(name: str) -> None:
    optimizer = (
        CATALOGUE[name]([layer(0).weight]) if "Muon" in name else CATALOGUE[name]([nn.Parameter(torch.empty(0, 4))])
    )
    step(optimizer)


@pytest.mark.parametrize("make", [metrize.Prodigy, metrize.FreeMuon])
def test_the_estimate_of_prodigy_stands_in_the_groups(make: Callable[..., metrize.Optimizer]) -> None:
    model = layer(0)
    optimizer = make(model, d0=1e-3)
    for _ in range(20):
        model.weight.grad = model.weight.detach() - 10
        optimizer.step()
    group = optimizer.param_groups[0]
    assert type(group["d"]) is float
    assert group["d"] == float(optimizer.state[model.weight]["d"]) > 0.1
    again = make(layer(0), d0=1e-3)
    again.load_state_dict(optimizer.state_dict())
    assert again.param_groups[0]["d"] == group["d"]
    with pytest.raises(TypeError, match="'d'"):
        make(layer(0), d=1.0)
