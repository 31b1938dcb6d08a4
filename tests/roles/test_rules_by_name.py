"""Numbers by the name of a parameter: in every optimizer, in plans, and from the rules that the library makes."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import metrize
from metrize.roles import infer
from metrize.roles.role import VECTORS


class Net(nn.Module):
    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.embed = nn.Embedding(12, width)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(width, width), nn.LayerNorm(width)) for _ in range(3))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 12)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embed(tokens)
        for block in self.blocks:
            x = x + block(x)
        return self.head(self.norm(x))


def numbers(optimizer: torch.optim.Optimizer, key: str) -> dict[str, float]:
    return {name: float(g[key]) for g in optimizer.param_groups for name in g["param_names"]}


def names_of(model: nn.Module) -> set[str]:
    return {name for name, _ in model.named_parameters()}


ON_A_MANIFOLD = {"StiefelSMMF", "GrassmannSOAP"}  # which train points, and no whole models


@pytest.mark.parametrize("name", sorted(metrize.catalogue().keys() - ON_A_MANIFOLD))
def test_every_optimizer_takes_rules(name):
    model, cls = Net(), metrize.catalogue()[name]
    plain = numbers(cls(model), "lr")
    rules = [{"blocks.*": {"lr_mult": 0.5}, "head.weight": {"lr": 1.0}}, {"*.0.weight": {"lr_mult": 0.5}}]
    optimizer = cls(model, rules=rules)
    for of, lr in numbers(optimizer, "lr").items():
        scale = 0.25 if of.endswith(".0.weight") else 0.5 if of.startswith("blocks") else 1
        assert lr == (1.0 if of == "head.weight" else plain[of] * scale), of
    assert not any("lr_mult" in group for group in optimizer.param_groups)
    assert {of for g in optimizer.param_groups for of in g["param_names"]} == names_of(model)
    later = copy.deepcopy(optimizer)
    later.load_state_dict(optimizer.state_dict())
    assert numbers(later, "lr") == numbers(optimizer, "lr")


def test_rules_decide_how_it_trains():
    model = Net()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = metrize.AdamW(model, lr=1e-2, weight_decay=0.1, rules={"head.*": {"lr_mult": 0}})
    model(torch.arange(4)[None]).square().mean().backward()
    optimizer.step()
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert moved == names_of(model) - {"head.weight", "head.bias"}


def test_a_group_s_factor_multiplies_the_rate_of_the_optimizer():
    model = Net()
    groups = [{"params": model.head, "lr_mult": 0.1}, {"params": model.embed}]
    assert [group["lr"] for group in metrize.AdamW(groups, lr=1.0).param_groups] == [0.1, 1.0]


@pytest.mark.parametrize(
    ("rules", "kind", "says"),
    [
        ({"blocks": {"lr": 1.0}}, ValueError, "'blocks' matches no parameter"),
        ({"*.bias": {"lr": 1.0}, "head.*": {"lr": 2.0}}, ValueError, "'head.bias' is matched by"),
        ({"*.bias": "Adam()"}, TypeError, "give numbers"),
        ({"*.bias": {"recipe": "Adam()"}}, TypeError, "'recipe' is no number"),
        ({"*.bias": {"weight_dekay": 0}}, TypeError, "weight_decay"),
        ({"*.bias": {"weight_decay": -1}}, ValueError, "weight_decay=-1"),
        ({"*.bias": {"lr_mult": -1}}, ValueError, "lr=-"),
        ({"*.bias": {"lr_mult": "1"}}, TypeError, "the text '1'"),
        ("*.bias", TypeError, "give a mapping"),
    ],
)
def test_what_a_rule_cannot_say(rules, kind, says):
    with pytest.raises(kind, match=says):
        metrize.AdamW(Net(), rules=rules)


def test_rules_need_names():
    with pytest.raises(ValueError, match="rules go by name"):
        metrize.AdamW(Net().parameters(), rules={"*": {"lr": 1.0}})


def test_a_plan_takes_numbers_without_a_recipe():
    model = Net()
    usual = metrize.plan(model)
    plan = metrize.plan(
        model,
        rules=[{"*.bias": {"weight_decay": 0.5}, "head.*": {"lr_mult": 0.5}}, {"head.bias": {"lr_mult": 0.5}}],
        roles={"embedding": {"lr_mult": 2.0}},
    )
    assert [row.recipe for row in plan.rows] == [row.recipe for row in usual.rows]
    assert plan["embed.weight"].numbers == {"weight_decay": 0, "lr_mult": 2}
    assert plan["head.bias"].numbers == {"weight_decay": 0.5, "lr_mult": 0.25}
    lr = numbers(metrize.Optimizer(plan.groups(), lr=1.0), "lr")
    assert (lr["embed.weight"], lr["head.weight"], lr["head.bias"], lr["blocks.0.0.bias"]) == (2, 0.5, 0.25, 1)
    with pytest.raises(ValueError, match="which say different things"):
        metrize.plan(model, rules={"*.bias": {"weight_decay": 0}, "head.bias": {"weight_decay": 1}})


def test_no_decay_spares_what_a_plan_spares():
    model = Net()
    decay = numbers(metrize.AdamW(model, weight_decay=0.1, rules=metrize.no_decay(model)), "weight_decay")
    assert decay == {name: 0.1 if name.endswith((".0.weight", "head.weight")) else 0.0 for name in decay}
    spared = {name for name, role in infer(model).roles.items() if role.kind in {*VECTORS, "embedding"}}
    assert metrize.no_decay(model).keys() == spared


def test_layer_decay_falls_from_the_last_layer_to_the_first():
    model = Net()
    scales = {name: numbers["lr_mult"] for name, numbers in metrize.layer_decay(model, 0.5).items()}
    assert scales.keys() == names_of(model)
    assert scales["embed.weight"] == 0.5**4
    assert [scales[f"blocks.{i}.0.weight"] for i in range(3)] == [0.5**3, 0.5**2, 0.5]
    assert scales["norm.weight"] == scales["head.bias"] == 1
    assert metrize.layer_decay(nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2)), 0.5)["0.weight"] == {
        "lr_mult": 0.5
    }
    with pytest.raises(ValueError, match="holds two layers"):
        metrize.layer_decay(nn.Linear(2, 2), 0.5)
    with pytest.raises(ValueError, match="decay=0"):
        metrize.layer_decay(model, 0)


def test_layers_of_a_convolutional_network_are_its_blocks():
    def block() -> nn.Module:
        return nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.ReLU())

    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Sequential(block(), block()), nn.Linear(4, 2))
    scales = {name: numbers["lr_mult"] for name, numbers in metrize.layer_decay(model, 0.5).items()}
    places = ["0.weight", "1.weight", "2.0.0.weight", "2.1.1.weight", "3.bias"]
    assert [scales[name] for name in places] == [1 / 8, 1 / 8, 1 / 4, 1 / 2, 1]


def test_mup_scales_by_fan_in():
    wide, narrow = Net(64), Net(16)
    rules = metrize.mup(wide, narrow)
    assert rules == metrize.mup(wide, 16)
    assert rules == {name: {"lr_mult": 0.25} for name in ["head.weight", *(f"blocks.{i}.0.weight" for i in range(3))]}
    assert metrize.mup(wide, Net(64)) == {}
    with pytest.raises(ValueError, match="the base model has no matrix"):
        metrize.mup(wide, nn.Linear(4, 4))
    with pytest.raises(ValueError, match="base=0"):
        metrize.mup(wide, 0)


@pytest.mark.parametrize("name", ["Muon", "COAPMuon", "FreeMuon"])
def test_the_rest_of_muon_is_seen_and_set(name):
    cls = metrize.catalogue()[name]
    for optimizer in (cls(Net(), rest={"lr": 0.125}), metrize.create(name.lower(), Net(), rest={"lr": 0.125})):
        lr = numbers(optimizer, "lr")
        assert {of for of, rate in lr.items() if rate == 0.125} == {of for of in lr if not of.endswith(".0.weight")}
        assert "0.125" in optimizer.summary()
    with pytest.raises(TypeError, match="lrr"):
        cls(Net(), rest={"lrr": 0.125})
