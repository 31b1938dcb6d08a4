"""What is not trained is passed over, whatever it is; what cannot be trained is refused by name."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import metrize

CATALOGUE = metrize.catalogue()
FROZEN: dict[str, Tensor] = {
    "uint8": torch.arange(16, dtype=torch.uint8).view(16, 1),
    "int64": torch.ones(3, dtype=torch.int64),
    "bool": torch.ones(4, 4, dtype=torch.bool),
    "float8": torch.ones(4, 4).to(torch.float8_e4m3fn),
    "sparse": torch.eye(4).to_sparse(),
    "nan": torch.full((4, 4), float("nan")),
    "vector": torch.ones(4),
}


def network(weight: Tensor, trained: bool = False) -> nn.Module:
    """A layer beside a weight that is kept as it is."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Module(), nn.Linear(4, 4, bias=False))
    model[0].weight = nn.Parameter(weight.clone(), requires_grad=trained)
    return model


def step(model: nn.Module, optimizer: metrize.Optimizer) -> None:
    for p in model.parameters():
        p.grad = torch.ones_like(p) if p.requires_grad else None
    optimizer.step()


@pytest.mark.parametrize("what", FROZEN)
@pytest.mark.parametrize("name", CATALOGUE)
def test_a_frozen_parameter_is_passed_over(name: str, what: str) -> None:
    model = network(FROZEN[what])
    weight, layer = model[0].weight, model[1].weight
    forms: list[Any] = [model, list(model.parameters()), list(model.named_parameters())]
    for params in forms:
        optimizer, before = CATALOGUE[name](params, lr=0.1), layer.detach().clone()
        step(model, optimizer)
        optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        step(model, optimizer)
        assert weight in {p for group in optimizer.param_groups for p in group["params"]}
        assert set(optimizer.state) == {layer}
        assert not torch.equal(layer, before)
    assert str(weight) == str(nn.Parameter(FROZEN[what], requires_grad=False))
    told = metrize.predict(model, CATALOGUE[name])
    assert told.by_parameter["0.weight"] == 0
    assert told.gradients == 64
    assert told.parameters == 64 + weight.numel() * weight.element_size()


def test_processes_keep_nothing_for_a_frozen_parameter() -> None:
    half = metrize.predict_sharded(network(FROZEN["nan"]), metrize.AdamW, 2)
    alone = metrize.predict_sharded(nn.Linear(4, 4, bias=False), metrize.AdamW, 2)
    assert [rank.state for rank in half.ranks] == [rank.state for rank in alone.ranks]
    assert [rank.gradients for rank in half.ranks] == [32, 32]
    assert [rank.parameters for rank in half.ranks] == [64, 64]


@pytest.mark.parametrize("name", CATALOGUE)
def test_a_parameter_that_thaws_is_trained_from_then_on(name: str) -> None:
    model = network(torch.eye(4))
    optimizer = CATALOGUE[name](list(model.parameters()), lr=0.1)
    step(model, optimizer)
    model[0].weight.requires_grad_()
    step(model, optimizer)
    assert not torch.equal(model[0].weight, torch.eye(4))
    assert float(optimizer.state[model[0].weight]["step"]) == 1


def test_a_parameter_that_cannot_be_trained_is_refused_when_it_thaws() -> None:
    model = network(torch.ones(4))
    optimizer = metrize.Muon(list(model.named_parameters()))
    step(model, optimizer)
    model[0].weight.requires_grad_()
    with pytest.raises(metrize.SpaceError, match=r"'0.weight'.*matrix"):
        step(model, optimizer)


@pytest.mark.parametrize(
    ("what", "match"), [("float8", "'0.weight'.*float8.*bfloat16, or freeze"), ("sparse", "'0.weight'.*make it dense")]
)
@pytest.mark.parametrize("name", CATALOGUE)
def test_a_trained_parameter_of_a_kind_without_arithmetic_is_refused(name: str, what: str, match: str) -> None:
    model = network(FROZEN[what], trained=True)
    with pytest.raises(metrize.SpaceError, match=match):
        CATALOGUE[name](model)
    with pytest.raises(metrize.SpaceError, match=match.replace("0.weight", "#0 of its group")):
        CATALOGUE[name](model.parameters())


@pytest.mark.parametrize("name", CATALOGUE)
def test_a_lazy_module_is_asked_to_run_once(name: str) -> None:
    model = nn.Sequential(nn.LazyLinear(4))
    with pytest.raises(ValueError, match=r"'0.weight'.*run one forward first"):
        CATALOGUE[name](model)
    with pytest.raises(ValueError, match=r"'#0 of its group'.*run one forward first"):
        CATALOGUE[name](model.parameters())
    model(torch.ones(2, 3))
    CATALOGUE[name](model)
