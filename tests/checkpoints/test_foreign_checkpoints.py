"""Runs of torch.optim and bitsandbytes go on here."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from golden_runs import Net, train
from torch import Tensor, nn

import metrize

NUMBERS = {"lr": 0.03, "weight_decay": 0.1}
EXACT: list[Any] = [
    ("Adam", {"fused": True}, "Adam", {}),
    ("Adam", {"fused": True, "betas": (0.8, 0.9), "eps": 1e-3, "maximize": True}, "Adam", {"maximize": True}),
    ("AdamW", {"fused": True}, "AdamW", {}),
    ("AdamW", {"fused": True, "amsgrad": True}, "AMSGrad", {}),
    ("Adam", {"fused": True, "amsgrad": True}, "AMSGrad", {"decay": "l2"}),
    ("SGD", {"fused": True}, "SGD", {}),
    ("SGD", {"fused": True, "momentum": 0.9, "nesterov": True}, "SGD", {"momentum": 0.9, "nesterov": True}),
    ("SGD", {"fused": True, "momentum": 0.9, "dampening": 0.5}, "SGD", {"momentum": 0.5, "dampening": 0.5}),
    ("Adagrad", {"fused": True}, "AdaGrad", {}),
]
CLOSE: list[Any] = [
    ("Adam", {"foreach": False}, "Adam", {}),
    ("Adagrad", {"lr_decay": 0.1, "initial_accumulator_value": 0.2}, "AdaGrad", {"lr_decay": 0.1}),
    ("NAdam", {"momentum_decay": 0.01}, "NAdam", {}),
    ("NAdam", {"decoupled_weight_decay": True}, "NAdam", {"decay": "decoupled"}),
    ("Adafactor", {"d": 1.5, "beta2_decay": -0.7}, "Adafactor", {"dialect": "torch"}),
]


def runs(theirs: str, told: dict[str, Any], ours: str, options: dict[str, Any], steps: int = 3) -> tuple[Any, ...]:
    torch.manual_seed(0)
    model = Net()
    old = getattr(torch.optim, theirs)(model.parameters(), **{**NUMBERS, **told})
    train(model, old, 0, steps)
    twin = copy.deepcopy(model)
    new = metrize.catalogue()[ours](twin, **options)
    new.load_state_dict(copy.deepcopy(old.state_dict()))
    train(model, old, steps, steps + 4)
    train(twin, new, steps, steps + 4)
    return model, twin, new


@pytest.mark.parametrize("steps", [0, 3])
@pytest.mark.parametrize(("theirs", "told", "ours", "options"), EXACT)
def test_runs_of_torch_go_on_bit_for_bit(
    theirs: str, told: dict[str, Any], ours: str, options: Any, steps: int
) -> None:
    model, twin, new = runs(theirs, told, ours, options, steps)
    for a, b in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(a, b)
    assert (new.param_groups[0]["lr"], new.param_groups[0]["weight_decay"]) == (0.03, 0.1)
    assert not {"fused", "foreach", "capturable", "amsgrad"} & new.param_groups[0].keys()


@pytest.mark.parametrize("steps", [0, 3])
@pytest.mark.parametrize(("theirs", "told", "ours", "options"), CLOSE)
def test_runs_of_torch_go_on_within_rounding(
    theirs: str, told: dict[str, Any], ours: str, options: Any, steps: int
) -> None:
    model, twin, _ = runs(theirs, told, ours, options, steps)
    for a, b in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("scale", ["muon", "adam"])
def test_muon_of_torch_goes_on_in_the_hidden_matrices(scale: Any) -> None:
    torch.manual_seed(0)
    model = Net()
    new = metrize.Muon(model, scale=scale, lr=0.1)
    groups = [group for group in new.param_groups if "Steepest" in group["recipe"]]
    hidden = [entry for group in groups for entry in zip(group["param_names"], group["params"], strict=True)]
    named = [(name, p) for name, p in hidden if p.ndim == 2][::-1]
    new = metrize.Muon([p for _, p in named], scale=scale, lr=0.1)
    adjust = "match_rms_adamw" if scale == "adam" else "original"
    old = torch.optim.Muon([p for _, p in named], lr=0.03, adjust_lr_fn=adjust)
    for _ in range(3):
        for _, p in named:
            p.grad = torch.randn_like(p)
        old.step()
    start = {name: p.detach().clone() for name, p in named}
    new.load_state_dict(copy.deepcopy(old.state_dict()))
    gradients = {name: torch.randn_like(p) for name, p in named}
    after = []
    for optimizer in (old, new):
        for name, p in named:
            p.data.copy_(start[name])
            p.grad = gradients[name].clone()
        optimizer.step()
        after.append([p.detach().clone() for _, p in named])
    for a, b, (name, _) in zip(*after, named, strict=True):
        moved = (b - start[name]).norm()
        assert (a - b).norm() < 0.03 * moved  # torch orthogonalizes in bfloat16
        assert torch.equal(new.state[dict(named)[name]]["exp_avg"], old.state[dict(named)[name]]["momentum_buffer"])


def test_muon_of_torch_beside_parameters_that_it_does_not_train() -> None:
    torch.manual_seed(0)
    model = Net()
    named = [(f"{layer}.weight", getattr(model, layer).weight) for layer in ("two", "one", "tall")]
    old = torch.optim.Muon(named, lr=0.03)
    train(model, old, 0, 2)
    model.conv.weight.requires_grad_(False)
    small = nn.ModuleDict({"tall": model.tall, "one": model.one, "two": model.two, "head": model.head})
    new = metrize.Muon(small)
    matrices = [n for g in new.param_groups if "Steepest" in g["recipe"] for n in g["param_names"]]
    old_names = old.state_dict()
    keep = [i for i, (name, _) in enumerate(named) if name in matrices]
    group = old_names["param_groups"][0]
    group["params"], group["param_names"] = keep, [named[i][0] for i in keep]
    saved = {"state": {i: old_names["state"][i] for i in keep}, "param_groups": [group]}
    with pytest.warns(UserWarning, match="no state of .*start from zero"):
        new.load_state_dict(saved)
    for name, p in named:
        if name in matrices:
            assert torch.equal(new.state[p]["exp_avg"], old.state[p]["momentum_buffer"])


@pytest.mark.parametrize(
    ("theirs", "told", "ours", "options", "words"),
    [
        ("Adam", {}, "AdamW", {}, "decoupled_weight_decay=False"),
        ("AdamW", {}, "Adam", {}, "decoupled_weight_decay=True"),
        ("AdamW", {"amsgrad": True}, "AdamW", {}, "amsgrad=True.*metrize.AMSGrad"),
        ("AdamW", {}, "AMSGrad", {}, "amsgrad=False"),
        ("SGD", {"momentum": 0.9, "nesterov": True}, "SGD", {"momentum": 0.9}, "nesterov=True"),
        ("SGD", {"momentum": 0.9, "dampening": 0.1}, "SGD", {"momentum": 0.9}, "dampening=0.1"),
        ("AdamW", {"maximize": True}, "AdamW", {}, "maximize=True"),
        ("Adagrad", {"lr_decay": 0.1}, "AdaGrad", {}, "lr_decay=0.1"),
        ("AdamW", {}, "SGD", {}, "torch.optim.Adam.*this optimizer has Recipe"),
        ("AdamW", {}, "Adam8bit", {"smallest": 0}, "convert_state"),
        ("Adafactor", {}, "Adafactor", {}, "decay|floor"),
        ("RAdam", {}, "AdamW", {}, "torch.optim.RAdam, which has no counterpart"),
        ("RMSprop", {}, "AdamW", {}, "torch.optim.RMSprop, which has no counterpart"),
        ("Adamax", {}, "AdamW", {}, "torch.optim.Adamax, which has no counterpart"),
    ],
)
def test_options_that_do_not_match_are_refused_by_name(
    theirs: str, told: dict[str, Any], ours: str, options: dict[str, Any], words: str
) -> None:
    model = Net()
    old = getattr(torch.optim, theirs)(model.parameters(), **told)
    train(model, old, 0, 1)
    new = metrize.catalogue()[ours](model, **options)
    with pytest.raises(ValueError, match=words):
        new.load_state_dict(old.state_dict())
    assert not new.state


def test_16_bit_runs_of_torch_are_taken_into_float32() -> None:
    model = Net().bfloat16()
    old = torch.optim.AdamW(model.parameters())
    train(model, old, 0, 2)
    new = metrize.AdamW(model)
    new.load_state_dict(old.state_dict())
    kept = new.state[model.one.weight]["exp_avg"]
    assert kept.dtype == torch.float32
    assert torch.equal(kept, old.state[model.one.weight]["exp_avg"].float())


def quantized(value: Tensor, signed: bool) -> dict[str, Tensor]:
    """Blocks of 256 codes, as bitsandbytes keeps them."""
    from metrize.moments.quantized_codes import numbers_of

    table = numbers_of("dynamic", 8, signed).float()
    table = nn.functional.pad(table, (256 - len(table), 0))
    blocks = nn.functional.pad(value.flatten(), (0, -value.numel() % 256)).view(-1, 256)
    scale = blocks.abs().amax(1)
    codes = ((blocks / scale.unsqueeze(1)).unsqueeze(2) - table).abs().argmin(2).to(torch.uint8)
    return {"state": codes.flatten()[: value.numel()].view(value.shape), "qmap": table, "absmax": scale}


@pytest.mark.parametrize("nested", [False, True])
def test_averages_of_bitsandbytes(nested: bool) -> None:
    generator = torch.Generator().manual_seed(5)
    p, bias = nn.Parameter(torch.zeros(70, 60)), nn.Parameter(torch.zeros(60))
    m, v = torch.randn(p.shape, generator=generator), torch.rand(p.shape, generator=generator)
    state = {}
    for end, value, signed in (("1", m, True), ("2", v, False)):
        state |= {f"{key}{end}": kept for key, kept in quantized(value, signed).items()}
    small = {"state1": torch.ones(60), "state2": torch.full((60,), 2.0)}
    both = [{"step": 7, **({"__bnb_optimizer_quant_state__": kept} if nested else kept)} for kept in (state, small)]
    group = {"lr": 0.1, "betas": (0.9, 0.99), "eps": 1e-8, "weight_decay": 0.2, "params": [0, 1]}
    saved = {"state": dict(enumerate(both)), "param_groups": [group]}
    for new in (metrize.AdamW([p, bias]), metrize.Adam8bit([p, bias], smallest=4096)):
        new.load_state_dict(metrize.convert_state(saved, new))
        assert new.param_groups[0]["betas"] == (0.9, 0.99)
        kept = new.state[p]
        assert float(kept["step"]) == 7
        assert torch.equal(new.state[bias]["exp_avg_sq"], small["state2"])
        if "exp_avg" in kept:
            assert (kept["exp_avg"] - m).abs().max() < 0.02 * m.abs().max()
            assert (kept["exp_avg_sq"] - v).abs().max() < 0.02
        else:
            torch.testing.assert_close(kept["exp_avg.scale"], state["absmax1"], rtol=1e-2, atol=0)  # -1 has no code
    lion = {"state": {0: {k: kept for k, kept in both[0].items() if "2" not in k}}, "param_groups": [group]}
    if not nested:
        lion["param_groups"] = [{**group, "params": [0]}]
        new = metrize.Lion([p])
        new.load_state_dict(metrize.convert_state(lion, new))
        assert (new.state[p]["exp_avg"] - m).abs().max() < 0.02 * m.abs().max()


def test_damaged_states_of_torch_are_refused_and_change_nothing() -> None:
    model = Net()
    for theirs, ours in (("AdamW", "AdamW"), ("Adagrad", "AdaGrad"), ("NAdam", "NAdam"), ("Adafactor", "Adafactor")):
        old = getattr(torch.optim, theirs)(model.parameters())
        train(model, old, 0, 2)
        new = metrize.catalogue()[ours](model, **({"dialect": "torch"} if ours == "Adafactor" else {}))
        for key, value in old.state_dict()["state"][0].items():
            for wrong in ("text", torch.zeros(2, 3, 5), None):
                saved = copy.deepcopy(old.state_dict())
                saved["state"][0][key] = wrong
                for load in (new.load_state_dict, lambda content, new=new: metrize.convert_state(content, new)):
                    with pytest.raises(ValueError, match=r"embed.weight|group 0"):
                        load(saved)
                assert not new.state, (theirs, key, value.shape)
