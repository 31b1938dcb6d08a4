"""What a subclass overrides takes effect, whoever steps the tensor: a shortcut holds for the class that offers it."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import metrize
from metrize import Dense, Quantized, Recipe, Vector, norms, rules, step_sizes
from metrize.part import Part
from metrize.step import piecewise

SMALL, LARGE = (4, 3), (40, 30)


def made(base: type[Part], **methods: Callable[..., Any]) -> Part:
    """A subclass with these methods; defined again for each test, as in a notebook."""
    return dataclasses.dataclass(frozen=True)(type("Overriding", (base,), {"__module__": __name__, **methods}))()


def half(name: str) -> Callable[..., Any]:
    """An override that says half of what it overrode."""

    def method(self: Any, *args: Any) -> Any:
        base = type(self).__mro__[1]
        return getattr(base, name)(self, *args) * 0.5

    return method


def half_write(self: Any, slot: Any, state: dict[str, Tensor], value: Tensor) -> None:
    state[slot.name].copy_(value * 0.5)


def half_read(self: Any, slot: Any, state: dict[str, Tensor]) -> Tensor:
    return state[slot.name] * 0.5


def half_update(self: Any, slot: Any, state: dict[str, Tensor], value: Tensor, decay: Any, gain: Any) -> Tensor:
    return Dense.update(self, slot, state, value, decay, gain) * 0.5


def half_move_(self: Any, points: Tensor, velocity: Tensor, section: Any, state: dict[str, Tensor]) -> None:
    points.add_(velocity, alpha=0.5)


def half_lift(self: Any, points: Tensor, grad: Tensor, section: Any) -> Tensor:
    return grad * 0.5


def half_scaled(self: Any, coords: Tensor, state: dict[str, Tensor], hyper: dict[str, Any]) -> Any:
    return coords * 0.5, hyper


def half_dual(self: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    direction, length = norms.MaxEntry.dual(self, x)
    return direction * 0.5, length


RULES = (rules.Adam, rules.Momentum, rules.AdaGrad, rules.Lion, rules.Steepest, rules.Whitened, rules.FAdam)


def cases() -> Iterator[tuple[str, Callable[[], dict[str, Part]], type[rules.Rule]]]:
    """Every contract method of a part for which a kernel or a piecewise way stands, in every rule that has one."""
    for rule, name in itertools.product(RULES, ("direction", "gain")):
        yield f"{rule.__name__}.{name}", lambda rule=rule, name=name: {"rule": made(rule, **{name: half(name)})}, rule
    for rule in (rules.Adam, rules.Momentum, rules.Lion):
        for name in ("rate", "velocity"):
            part = {name: half(name)}
            yield f"Given.{name}", lambda part=part: {"step_size": made(step_sizes.Given, **part)}, rule
        yield "Given.scaled", lambda: {"step_size": made(step_sizes.Given, scaled=half_scaled)}, rule
        for name, method in (("write", half_write), ("read", half_read), ("update", half_update)):
            part = {name: method}
            yield f"Dense.{name}", lambda part=part: {"moments": made(Dense, **part)}, rule
        for name, method in (("move_", half_move_), ("lift", half_lift)):
            part = {name: method}
            yield f"Vector.{name}", lambda part=part: {"space": made(Vector, **part)}, rule
    for rule in (rules.Lion, rules.Steepest):
        yield "MaxEntry.dual", lambda rule=rule: {"rule": rule(made(norms.MaxEntry, dual=half_dual))}, rule


def pattern(first: float, last: float, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Twelve numbers, over and over."""
    count = torch.Size(shape).numel()
    return torch.linspace(first, last, 12, dtype=torch.float64).repeat(count // 12).to(dtype).view(shape)


def trained(recipe: Recipe, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    p = nn.Parameter(
        torch.linspace(-1, 1, 12, dtype=torch.float64).repeat(100)[: torch.Size(shape).numel()].to(dtype).view(shape)
    )
    optimizer = metrize.Optimizer([p], recipe, lr=0.125)
    for step in range(3):
        p.grad = pattern(1, 2 + step, shape, dtype)
        optimizer.step()
    return p.detach().flatten()[:12]


CASES = list(cases())


@pytest.mark.parametrize(("make", "rule"), [case[1:] for case in CASES], ids=[f"{n}-{r.__name__}" for n, _, r in CASES])
def test_small_and_large_tensors_obey(make: Any, rule: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(piecewise, "piece_size", lambda device, numel: 240)
    parts = make()
    recipe = Recipe(rule=rule()).replace(**parts)
    plain = trained(Recipe(rule=rule()), SMALL, torch.float64)
    small, large = (trained(recipe, shape, torch.float64) for shape in (SMALL, LARGE))
    assert torch.allclose(small, large, rtol=1e-9, atol=1e-12)
    of_size = any(isinstance(part, Dense) or vars(type(part)).keys() & {"lift", "scaled"} for part in parts.values())
    if rule is rules.Momentum or not of_size:  # the steps of others do not know the size of the gradient
        assert not torch.allclose(small, plain, rtol=1e-6)


@pytest.mark.parametrize("moments", [Dense(), Dense("bfloat16"), Quantized(smallest=0, block=16)], ids=str)
def test_a_rule_turned_around_ascends_with_every_storage(moments: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The incident: a subclass of Adam with another direction took Adam's own step, because torch's kernel did."""
    monkeypatch.setattr(piecewise, "piece_size", lambda device, numel: 240)

    def negated(self: Any, *args: Any) -> Tensor:
        return -rules.Adam.direction(self, *args)

    for shape, dtype in itertools.product((SMALL, LARGE), (torch.float32, torch.bfloat16)):
        p = nn.Parameter(torch.zeros(shape, dtype=dtype))
        optimizer = metrize.Optimizer([p], Recipe(rule=made(rules.Adam, direction=negated), moments=moments), lr=0.1)
        p.grad = torch.ones(shape, dtype=dtype)
        optimizer.step()
        assert bool((p > 0).all())
