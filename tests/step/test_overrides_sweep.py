"""Any method that a subclass overrides takes effect: all parts of the library, all their methods, all executors."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from sentences import legal
from torch import Tensor, nn

from metrize import Recipe, Vector, frames, norms, rules, step_sizes
from metrize.moments import Dense
from metrize.part import Part, kinds_of
from metrize.rounding import Nearest
from metrize.step.stacked import Stacked
from metrize.testing.agreement import draw, executors, run

SHAPE = torch.Size((16, 12))
STEP = {
    "rule": ("direction", "toward", "mapped", "prepare", "transform", "gain"),
    "step_size": ("scaled", "rate", "velocity"),
    "moments": ("read", "write", "update"),
    "space": ("lift", "move_", "shrink_", "polish_"),
    "frame": ("open", "enter", "leave", "close"),
    "rounding": ("widen", "narrow_"),
}
"""The methods that a step goes through, by slot."""

BASES: dict[str, list[type[Part]]] = {
    "rule": [cls for cls in kinds_of(rules.Rule) if cls.__module__.startswith("metrize.")],
    "step_size": [cls for cls in kinds_of(step_sizes.StepSize) if cls.__module__.startswith("metrize.")],
    "moments": [Dense],
    "space": [Vector],
    "frame": [cls for cls in kinds_of(frames.Frame) if cls.__module__.startswith("metrize.")],
    "rounding": [Nearest],
}
RULES = (rules.Adam(), rules.Momentum(), rules.Lion())


def overriding(base: type[Part], name: str, calls: list[str]) -> type[Part]:
    """A subclass of which one method gives half of what it gave, or of what it wrote to."""

    def method(self: Any, *args: Any) -> Any:
        calls.append(name)
        found = getattr(base, name)(self, *args)
        if isinstance(found, tuple):
            return found[0] * 0.5, *found[1:]
        if found is None:
            next(arg for arg in args if isinstance(arg, Tensor)).mul_(0.5)
        return found if found is None else found * 0.5

    return dataclasses.dataclass(frozen=True)(type("Halving", (base,), {"__module__": __name__, name: method}))


def cases() -> Iterator[Any]:
    for slot, names in STEP.items():
        for base in BASES[slot]:
            for name in names:
                if inspect.isfunction(getattr(base, name, None)):
                    yield pytest.param(slot, base, name, id=f"{base.__name__}.{name}")


@pytest.mark.parametrize(("slot", "base", "name"), list(cases()))
def test_what_is_overridden_is_called_by_every_executor(slot: str, base: type[Part], name: str) -> None:
    calls: list[str] = []
    part = overriding(base, name, calls)()
    dtype = torch.bfloat16 if slot == "rounding" else torch.float64
    for rule in (None,) if slot == "rule" else RULES:
        for decay in ("decoupled", "l2", "after"):
            recipe = Recipe(**{slot: part, "decay": decay, **({} if rule is None else {"rule": rule})})
            if not legal(recipe, SHAPE):
                continue
            found = []
            for executor in executors(recipe, parameter(dtype)):
                calls.clear()
                found.append(run(recipe, parameter(dtype), executor, steps=2))
                idle = name == "shrink_" and decay == "l2"  # which shrinks nothing
                assert calls or idle, f"{recipe} by {executor.__name__}"
            for each in found:
                torch.testing.assert_close(each, found[-1], rtol=1e-9 if dtype == torch.float64 else 0.02, atol=1e-9)


@pytest.mark.parametrize("base", [cls for cls in kinds_of(norms.Norm) if cls.__module__.startswith("metrize.")])
def test_the_duality_map_of_a_norm_is_called_for_directions_and_lengths(base: type[norms.Norm]) -> None:
    calls: list[str] = []
    norm: Any = overriding(base, "dual", calls)()
    x = draw(1, (2, *SHAPE))
    expected, length = base().dual(x)
    torch.testing.assert_close(norm.direction(x), expected * 0.5)
    torch.testing.assert_close(norm.dual_norm(x).to(length.dtype), length)
    assert len(calls) == 2
    for executor in executors(Recipe(rule=rules.Steepest(norm)), parameter(torch.float64)):
        calls.clear()
        run(Recipe(rule=rules.Steepest(norm)), parameter(torch.float64), executor, steps=2)
        assert calls


def parameter(dtype: torch.dtype) -> nn.Parameter:
    return nn.Parameter(draw(99, SHAPE).to(dtype))


def test_the_sweep_compares_executors() -> None:
    recipe = Recipe(rounding=overriding(Nearest, "narrow_", [])())
    assert len(executors(recipe, parameter(torch.bfloat16))) > 1
    assert executors(recipe, parameter(torch.bfloat16))[-1] is Stacked
