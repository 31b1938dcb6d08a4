"""Averages are carried from one storage or dtype to another, and what cannot be carried is refused."""

from __future__ import annotations

import copy
import dataclasses
import itertools
from typing import Any

import pytest
import torch
from golden_runs import Net, train

import metrize
from metrize import Dense, Quantized, Recipe
from metrize.part import Part, known_parts

STORAGES = {
    "dense": "Dense()",
    "bf16": 'Dense(dtype="bfloat16")',
    "8 bits": "Quantized(block=16, smallest=0)",
    "4 bits": "Quantized(bits=4, block=8, smallest=0)",
    "factored": "Factored()",
    "outer": "Outer()",
    "cover": "Cover()",
    "blocks": 'Blocks(by="rows")',
    "rank one": "RankOne()",
    "projected": "RandomProjection(rank=2)",
    "split": "Split(linear=RankOne(), square=Factored())",
}
RULES = {"Adam": "Adam()", "AMSGrad": "Adam(amsgrad=True)"}


def optimizer_of(model: Any, storage: str, rule: str = "Adam()") -> metrize.Optimizer:
    return metrize.Optimizer(model, metrize.parse(f"Recipe(moments={storage}, rule={rule})"), lr=0.02)


def read(optimizer: metrize.Optimizer, p: torch.Tensor) -> dict[str, torch.Tensor]:
    from metrize.resume import averages_of
    from metrize.step.assignment import assignment_of

    assignment = assignment_of(optimizer.recipes()[0], metrize.Vector(), p, optimizer.param_groups[0])
    return averages_of(assignment, optimizer.state[p])

    recipe, group = optimizer.recipes()[0], optimizer.param_groups[0]
    return averages_of(recipe, metrize.Vector(), p.shape, torch.float32, group, optimizer.state[p])


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(("old", "new"), [*itertools.permutations(STORAGES, 2)])
def test_every_storage_into_every_other(old: str, new: str, rule: str) -> None:
    if rule == "AMSGrad" and "dense" not in (old, new):
        pytest.skip("through dense ones is enough")
    torch.manual_seed(0)
    model = Net()
    source = optimizer_of(model, STORAGES[old], RULES[rule])
    train(model, source, 0, 3)
    target = optimizer_of(model, STORAGES[new], RULES[rule])
    saved = source.state_dict()
    before = copy.deepcopy(saved)
    converted = metrize.convert_state(saved, target)
    for key, kept in before["state"].items():
        assert all(torch.equal(kept[k], saved["state"][key][k]) for k in kept)
    target.load_state_dict(converted)
    for p in model.parameters():
        storage = target.recipes()[0].moments
        known, kept = read(source, p), read(target, p)
        for name, average in kept.items():
            kind = "linear" if name == "exp_avg" else "square"
            if isinstance(storage.of(p.shape, kind), Dense) and new != "bf16":
                assert torch.equal(average, known[name])
            assert average.isfinite().all()
            # a random projection of low rank is right on average only
            lost = 4.0 if "projected" in (old, new) else 1.0
            assert (average - known[name]).norm() <= lost * known[name].norm()
    train(model, target, 3, 5)
    assert all(p.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("storage", ["8 bits", "bf16", "split"])
def test_what_was_converted_and_back_is_as_it_was_read(storage: str) -> None:
    torch.manual_seed(0)
    model = Net()
    small, dense = optimizer_of(model, STORAGES[storage]), optimizer_of(model, "Dense()")
    train(model, small, 0, 3)
    dense.load_state_dict(metrize.convert_state(small.state_dict(), dense))
    back = optimizer_of(model, STORAGES[storage])
    back.load_state_dict(metrize.convert_state(dense.state_dict(), back))
    for p in model.parameters():
        for name, average in read(small, p).items():
            torch.testing.assert_close(read(back, p)[name], average, rtol=2e-2, atol=1e-6)


@pytest.mark.parametrize("name", [n for n in metrize.catalogue() if n not in ("StiefelSMMF", "GrassmannSOAP")])
def test_the_same_optimizer_is_a_copy_and_float64_weights_go_on(name: str) -> None:
    options = {"rank": 2} if name in ("GaLore", "COAP", "APOLLO", "Flora", "COAPMuon") else {}
    torch.manual_seed(0)
    model = Net()
    source = metrize.catalogue()[name](model, lr=0.02, **options)
    train(model, source, 0, 2)
    twin = metrize.catalogue()[name](model, lr=0.02, **options)
    converted = metrize.convert_state(source.state_dict(), twin)
    for key, kept in source.state_dict()["state"].items():
        assert converted["state"][key].keys() == kept.keys()
        assert all(torch.equal(converted["state"][key][k], kept[k]) for k in kept)
    wide = copy.deepcopy(model).double()
    target = metrize.catalogue()[name](wide, lr=0.02, **options)
    target.load_state_dict(metrize.convert_state(source.state_dict(), target))
    train(wide, target, 2, 3)
    train(model, source, 2, 3)
    drawn = any(key.endswith("seed") for kept in source.state.values() for key in kept)
    for a, b in zip(model.parameters(), wide.parameters(), strict=True):
        assert b.isfinite().all()
        if not drawn:  # other dtypes draw other numbers
            torch.testing.assert_close(a.double(), b, rtol=1e-2, atol=0.05 if "Shampoo" in name else 0.01)


def test_relatives_share_their_averages() -> None:
    model = Net()
    old = metrize.AdamW(model)
    train(model, old, 0, 3)
    new = metrize.SMMF(model, momentum=0.9)
    new.load_state_dict(metrize.convert_state(old.state_dict(), new))
    soap, soap8 = metrize.SOAP(model), metrize.SOAP8bit(model, smallest=0)
    train(model, soap, 0, 3)
    soap8.load_state_dict(metrize.convert_state(soap.state_dict(), soap8))
    for p in model.parameters():
        bases = [key for key in soap.state[p] if key.startswith(("basis", "factor", "phase"))]
        assert all(torch.equal(soap.state[p][key], soap8.state[p][key]) for key in bases)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("SOAP", "AdamW", "frame"),
        ("AdamW", "SOAP", "frame"),
        ("AdamW", "Lion", "rule"),
        ("AdamW", "AMSGrad", "max_exp_avg_sq"),
        ("AdamW", "NAdam", "momentum_bias"),
        ("AdamW", "Adafactor", "rule"),
        ("SGD", "Muon", "groups|rule"),
        ("Prodigy", "AdamW", "'embed.weight'"),
        ("AdamW", "Prodigy", "'embed.weight'"),
    ],
)
def test_what_cannot_be_carried_is_refused_by_name(old: str, new: str, words: str) -> None:
    model = Net()
    source, target = metrize.catalogue()[old](model), metrize.catalogue()[new](model)
    train(model, source, 0, 1)
    with pytest.raises(ValueError, match=words):
        metrize.convert_state(source.state_dict(), target)
    assert not target.state


def test_torch_into_8_bits() -> None:
    model = Net()
    old = torch.optim.AdamW(model.parameters())
    train(model, old, 0, 3)
    new = metrize.Optimizer(model, Recipe(moments=Quantized(block=16, smallest=0)))
    new.load_state_dict(metrize.convert_state(old.state_dict(), new))
    for p in model.parameters():
        kept = read(new, p)["exp_avg"][0]
        assert (kept - old.state[p]["exp_avg"]).abs().max() <= 0.02 * kept.abs().max()
    damaged = old.state_dict()
    damaged["state"][0]["exp_avg"] = torch.zeros(3)
    with pytest.raises(ValueError, match=r"'embed.weight'.*exp_avg"):
        metrize.convert_state(damaged, new)


SLOTS = {"rule": metrize.rules.Rule, "frame": metrize.frames.Frame, "step_size": metrize.step_sizes.StepSize}
OTHER = {"scheduled": "sum", "channels_first": "channels_last"}


def fixed_arguments() -> list[tuple[Recipe, Recipe, str]]:
    """Recipes that differ in one argument which gives averages another meaning."""
    found = []
    for name, cls in sorted(known_parts().items()):
        slot = next((slot for slot, contract in SLOTS.items() if issubclass(cls, contract)), None)
        if slot is None or not cls.__module__.startswith("metrize."):
            continue
        part = cls(max_dim=64) if name == "Shampoo" else cls()  # which merges dimensions up to one
        for argument in part.fixed:
            value = getattr(part, argument)
            if isinstance(value, Part):
                continue
            changed = (
                OTHER[value] if isinstance(value, str) else not value if isinstance(value, bool) else value * 2 or 3
            )
            other = part.replace(**{argument: changed})
            found.append((Recipe(**{slot: part}), Recipe(**{slot: other}), f"{name}.{argument}"))
    return found


@pytest.mark.parametrize(
    ("old", "new", "told"), fixed_arguments(), ids=lambda value: value if isinstance(value, str) else ""
)
def test_loading_and_converting_agree_on_what_averages_mean(old: Recipe, new: Recipe, told: str) -> None:
    model = Net()
    source, target = metrize.Optimizer(model, old), metrize.Optimizer(model, new)
    train(model, source, 0, 1)
    saved, words = source.state_dict(), told.partition(".")[2]
    for take in (lambda: target.load_state_dict(saved), lambda: metrize.convert_state(saved, target)):
        with pytest.raises(ValueError, match=words):
            take()
    assert not target.state


def test_a_relative_shares_what_its_kind_fixes() -> None:
    @dataclasses.dataclass(frozen=True)
    class KindOfWhitened(metrize.rules.Whitened):
        extra: float = 0.0

    model = Net()
    source = metrize.Optimizer(model, Recipe(rule=metrize.rules.Whitened()))
    train(model, source, 0, 1)
    alike = metrize.Optimizer(model, Recipe(rule=KindOfWhitened(extra=1.0)))
    alike.load_state_dict(metrize.convert_state(source.state_dict(), alike))
    other = metrize.Optimizer(model, Recipe(rule=KindOfWhitened(second_moment="sum")))
    with pytest.raises(ValueError, match="second_moment"):
        metrize.convert_state(source.state_dict(), other)
    Part.known.pop("KindOfWhitened")
