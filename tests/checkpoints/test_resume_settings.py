"""What a run may change when it goes on, how parameters find their state, and what is refused."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from golden_runs import Net, train
from torch import nn

import metrize
from metrize import resume
from metrize.moments import Quantized

SHORT = {"lr": 0.02}


def started(name: str = "Adam", steps: int = 2, **options: Any) -> tuple[Net, metrize.Optimizer]:
    torch.manual_seed(0)
    model = Net()
    optimizer = metrize.catalogue()[name](model, **{**SHORT, **options})
    train(model, optimizer, 0, steps)
    return model, optimizer


def refused(optimizer: metrize.Optimizer, saved: Any, match: str) -> None:
    before = copy.deepcopy(optimizer.state_dict())
    with pytest.raises(ValueError, match=match):
        optimizer.load_state_dict(saved)
    after = optimizer.state_dict()
    assert after["param_groups"] == before["param_groups"]
    for key, kept in before["state"].items():
        assert all(torch.equal(kept[k], after["state"][key][k]) for k in kept)
    assert after["state"].keys() == before["state"].keys()


def test_a_recipe_without_fields_of_later_versions_is_read() -> None:
    model, optimizer = started("AdamW")
    for text in ("Recipe()", "Recipe", optimizer.param_groups[0]["recipe"].replace(", amsgrad=False", "")):
        saved = copy.deepcopy(optimizer.state_dict())
        saved["param_groups"][0]["recipe"] = text
        other = metrize.AdamW(model)
        other.load_state_dict(saved)
        assert other.param_groups[0]["recipe"] == optimizer.param_groups[0]["recipe"]


def test_a_recipe_of_a_newer_version_is_refused() -> None:
    _, optimizer = started("AdamW")
    for text in ("Recipe(rule=Adam(bend=2))", "Recipe(rule=Bent())", "Recipe(rule=", "Adam()", 5):
        saved = copy.deepcopy(optimizer.state_dict())
        saved["param_groups"][0]["recipe"] = text
        refused(optimizer, saved, r"group 0 .*cannot read.*newer version of metrize")


@pytest.mark.parametrize(
    ("name", "was", "now", "told"),
    [
        ("SOAP", {"precondition_frequency": 10}, {"precondition_frequency": 20}, r"frame.period 10 -> 20"),
        ("NAdam", {"decay": "decoupled"}, {"decay": "cautious"}, "decay 'decoupled' -> 'cautious'"),
        ("AdamW", {}, {"rounding": metrize.Stochastic()}, r"rounding Nearest\(\) -> Stochastic\(\)"),
        ("Muon", {"scale": "muon"}, {"scale": "adam"}, "group .: rule.norm.scale 'muon' -> 'adam'"),
        ("GaLore", {"rank": 2, "scale": 0.25}, {"rank": 2, "scale": 0.5}, "frame.scale 0.25 -> 0.5"),
        ("AMSGrad", {}, {"lr_power": 0.5}, "step_size Given"),
    ],
)
def test_a_setting_may_change(name: str, was: dict[str, Any], now: dict[str, Any], told: str) -> None:
    model, optimizer = started(name, **was)
    other = metrize.catalogue()[name](model, **{**SHORT, **now, "lr": 0.5})
    recipes = other.recipes()
    with pytest.warns(UserWarning, match=f"keeps its own: .*{told}") as seen:
        other.load_state_dict(optimizer.state_dict())
    assert [warning.filename for warning in seen] == [__file__]
    assert other.recipes() == recipes  # the recipe is that of the code,
    assert [g["lr"] for g in other.param_groups] == [g["lr"] for g in optimizer.param_groups]  # and numbers are not
    train(model, other, 2, 3)


def test_numbers_are_those_of_the_checkpoint() -> None:
    model, optimizer = started("AdamW", lr=0.1, weight_decay=0.3, maximize=True)
    optimizer.param_groups[0]["initial_lr"] = 0.7
    other = metrize.AdamW(model, eps=1e-3)
    other.load_state_dict(optimizer.state_dict())
    group = other.param_groups[0]
    assert (group["lr"], group["weight_decay"], group["maximize"], group["initial_lr"]) == (0.1, 0.3, True, 0.7)
    assert group["eps"] == 1e-8


@pytest.mark.parametrize("wrong", ["1e-3", -1.0, float("nan"), None, [1.0]])
def test_numbers_out_of_range_are_refused(wrong: Any) -> None:
    _, optimizer = started()
    for key in ("lr", "weight_decay"):
        saved = copy.deepcopy(optimizer.state_dict())
        saved["param_groups"][0][key] = wrong
        refused(optimizer, saved, f"group 0 .*{key}")
    saved["param_groups"][0] |= {"betas": (2.0, 0.9), "weight_decay": 0.0}
    refused(optimizer, saved, "betas")


def test_tensors_that_would_mean_other_numbers_are_refused() -> None:
    """Names and shapes agree, and what is read from them does not."""
    parts = {"smallest": 0, "block": 4}
    model, optimizer = started("Adam8bit", **parts)
    refused(metrize.Adam8bit(model, map="linear", **parts), optimizer.state_dict(), "moments.map.*convert_state")
    square = [("square", nn.Parameter(torch.randn(4, 4)))]
    storages = [metrize.Blocks("rows"), metrize.Blocks("columns")]
    rows, columns = (metrize.Optimizer(square, metrize.Recipe(moments=storage)) for storage in storages)
    square[0][1].grad = torch.randn(4, 4)
    rows.step()
    refused(columns, rows.state_dict(), "'square'.*moments.by 'rows' -> 'columns'")
    one, other = started("SOAP")[1], started("SOAP", merge_dims=True, max_precond_dim=1)[1]
    refused(one, other.state_dict(), "frame")
    refused(started("SGD", momentum=0.0)[1], started("SignSGD", momentum=0.0)[1].state_dict(), "rule")
    refused(started("Adam")[1], started("FAdam")[1].state_dict(), "FAdam")
    refused(started("Prodigy", d0=1e-3)[1], started("Prodigy", d0=1e-2)[1].state_dict(), "d0")


def test_a_setting_that_changes_the_state_names_the_way_on() -> None:
    model, optimizer = started("AdamW")
    refused(metrize.Adam8bit(model, smallest=0), optimizer.state_dict(), r"exp_avg.*convert_state")
    wide = Net().double()
    refused(metrize.AdamW(wide), optimizer.state_dict(), r"float32.*float64.*convert_state")


def pair(names: tuple[str, str], groups: bool = False) -> metrize.Optimizer:
    generator = torch.Generator().manual_seed(3)
    params = {name: nn.Parameter(torch.zeros(3, 3)) for name in names}
    for name in sorted(params, key=lambda name: name.split(".")[-1]):
        params[name].grad = torch.randn(3, 3, generator=generator)
    entries = [{"params": [entry], "lr": len(entry[0])} for entry in params.items()]
    optimizer = metrize.Adam(entries if groups else list(params.items()))
    optimizer.step()
    return optimizer


def state_of(optimizer: metrize.Optimizer, name: str) -> torch.Tensor:
    for group in optimizer.param_groups:
        for known, p in zip(group["param_names"], group["params"], strict=True):
            if known == name:
                return optimizer.state[p]["exp_avg"]
    raise KeyError(name)


@pytest.mark.parametrize("groups", [False, True])
def test_state_finds_its_parameter_by_name(groups: bool) -> None:
    saved, other = pair(("a", "bb"), groups), pair(("bb", "a"), groups)
    other.load_state_dict(copy.deepcopy(saved.state_dict()))
    assert [name for group in other.param_groups for name in group["param_names"]] == ["bb", "a"]
    for name in ("a", "bb"):
        assert torch.equal(state_of(other, name), state_of(saved, name))
    if groups:
        assert [group["lr"] for group in other.param_groups] == [2, 1]


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_prefixes_of_wrappers_do_not_count(prefix: str) -> None:
    saved, other = pair((f"{prefix}a", f"{prefix}b")), pair(("b", "a"))
    other.load_state_dict(copy.deepcopy(saved.state_dict()))
    assert torch.equal(state_of(other, "a"), state_of(saved, f"{prefix}a"))
    back = pair((f"{prefix}b", f"{prefix}a"))
    back.load_state_dict(copy.deepcopy(other.state_dict()))
    assert torch.equal(state_of(back, f"{prefix}a"), state_of(saved, f"{prefix}a"))


def test_other_names_are_refused_by_name() -> None:
    words = "no state of 'weight1'.*'weight1' called 'weight2'"
    refused(pair(("a", "weight1")), pair(("a", "weight2")).state_dict(), words)


@pytest.mark.parametrize("name", metrize.catalogue())
def test_bad_checkpoints_are_refused_and_change_nothing(name: str) -> None:
    options = {"rank": 2} if name in ("GaLore", "COAP", "APOLLO", "Flora", "COAPMuon") else {}
    if name in ("StiefelSMMF", "GrassmannSOAP"):
        pytest.skip("not for a whole model")
    _, optimizer = started(name, **options)
    whole = optimizer.state_dict()

    def spoilt(change: Callable[[dict[str, Any]], Any]) -> Any:
        saved = copy.deepcopy(whole)
        return change(saved) or saved

    def cut(saved: dict[str, Any]) -> None:
        key = max(saved["state"][0], key=lambda k: saved["state"][0][k].ndim)
        saved["state"][0][key] = saved["state"][0][key][..., None]

    def without(key: str) -> Callable[[dict[str, Any]], None]:
        return lambda saved: saved.pop(key) and None

    refused(optimizer, [1], "state dict is expected, and not list")
    refused(optimizer, None, "state dict is expected")
    refused(optimizer, {}, "no 'state'")
    refused(optimizer, {"state": {}, "param_groups": []}, "no parameter groups")
    refused(optimizer, {"state": {}, "param_groups": [{"params": [0]}]}, "group 0 of the checkpoint names no recipe")
    refused(optimizer, spoilt(without("param_groups")), "no 'param_groups'")
    refused(optimizer, spoilt(lambda saved: saved["state"].update({99: {}})), "state of 99")
    refused(optimizer, spoilt(lambda saved: saved["state"].update({0: 5})), "state of 0")
    refused(optimizer, spoilt(lambda saved: saved["param_groups"].pop() and None), "groups|has no state of")
    refused(optimizer, spoilt(lambda saved: saved["param_groups"][0].pop("params") and None), "lists no params")
    if len(whole["state"][0]) > 1:
        refused(optimizer, spoilt(lambda saved: saved["state"][0].pop("step") is None), "keeps|step")
    refused(optimizer, spoilt(cut), "'.*weight'.*shape")
    shapes = [((9, 9),) * len(group["shapes"]) for group in whole["param_groups"]]
    refused(
        optimizer,
        spoilt(lambda saved: [g.update(shapes=s) for g, s in zip(saved["param_groups"], shapes, strict=True)] and None),
        r"'embed.weight' has shape \(9, 9\) in the checkpoint and shape \(6, 4\) here",
    )
    refused(
        optimizer, spoilt(lambda saved: saved["param_groups"][0].update(format=2)), "format 2.*newer version|format"
    )


def test_a_new_parameter_is_told() -> None:
    model, optimizer = started()
    saved = optimizer.state_dict()
    del saved["state"][0]
    other = metrize.Adam(model)
    with pytest.warns(UserWarning, match="no state of 'embed.weight': their averages start from zero"):
        other.load_state_dict(saved)


def test_older_formats_are_brought_up_step_by_step(monkeypatch: pytest.MonkeyPatch) -> None:
    def first(saved: dict[str, Any]) -> dict[str, Any]:
        groups = [{**group, "format": 0, "lr": group["rate"]} for group in saved["param_groups"]]
        return {**saved, "param_groups": groups}

    def second(saved: dict[str, Any]) -> dict[str, Any]:
        return {**saved, "param_groups": [{**group, "format": 1} for group in saved["param_groups"]]}

    monkeypatch.setitem(resume.UPGRADES, -1, first)
    monkeypatch.setitem(resume.UPGRADES, 0, second)
    model, optimizer = started()
    saved = copy.deepcopy(optimizer.state_dict())
    saved["param_groups"][0] |= {"format": -1, "rate": 0.25}
    other = metrize.Adam(model)
    other.load_state_dict(saved)
    assert (other.param_groups[0]["lr"], other.param_groups[0]["format"]) == (0.25, 1)


def test_storages_are_compared_by_what_they_read() -> None:
    """A limit that no tensor here meets is a setting."""
    model, optimizer = started("Adam8bit", smallest=9, block=4)
    other = metrize.Adam8bit(model, smallest=10, block=4)
    assert Quantized(smallest=9) != Quantized(smallest=10)
    with pytest.warns(UserWarning, match="moments.smallest 9 -> 10"):
        other.load_state_dict(optimizer.state_dict())


@pytest.mark.parametrize("was", [metrize.Nearest(), metrize.Stochastic(), metrize.Compensated()], ids=str)
@pytest.mark.parametrize("now", [metrize.Nearest(), metrize.Stochastic(4), metrize.Compensated()], ids=str)
@pytest.mark.parametrize("converted", [False, True])
def test_rounding_of_16_bit_weights_is_a_setting(was: Any, now: Any, converted: bool) -> None:
    torch.manual_seed(0)
    model = Net().bfloat16()
    old = metrize.AdamW(model, rounding=was)
    train(model, old, 0, 2)
    new = metrize.AdamW(model, rounding=now)
    saved = copy.deepcopy(old.state_dict())
    if converted:
        new.load_state_dict(metrize.convert_state(saved, new))
    elif was == now:
        new.load_state_dict(saved)
    else:
        with pytest.warns(UserWarning, match="rounding"):
            new.load_state_dict(saved)
    train(model, new, 2, 4)
    kept = new.state[model.one.weight]
    assert kept.keys() == new.spec(new.param_groups[0], 0).keys()
    assert int(kept.get("rounding.seed", torch.ones(()))) != 0
