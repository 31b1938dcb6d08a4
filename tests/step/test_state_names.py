"""State belongs to its part: no two parts keep one key, and none sees another's counts."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from sentences import FRAMES, MOMENTS, RULES, SHAPE, SPACES, STEP_SIZES, legal
from torch import nn

import metrize
from metrize import Compensated, Recipe, Stochastic, Vector, frames, rules
from metrize.step.assignment import assignment_of


def keys_of(recipe: Recipe, dtype: torch.dtype = torch.bfloat16) -> list[str]:
    like = torch.empty(SHAPE, dtype=dtype, device="meta")
    found = assignment_of(recipe, recipe.space or Vector(), like, {**recipe.hyper(), "lr": 0.1, "weight_decay": 0.0})
    return [key for spec in found.declared.values() for key in spec]


def test_no_recipe_has_a_key_twice() -> None:
    count = 0
    for space in SPACES:
        for frame in FRAMES:
            for rule in RULES:
                for step_size in STEP_SIZES if space.flat else STEP_SIZES[:1]:
                    for moments in MOMENTS if frame == FRAMES[0] else MOMENTS[:3]:
                        recipe = Recipe(space, frame, moments, rule, step_size)
                        if legal(recipe):
                            keys = keys_of(recipe)
                            assert len(keys) == len(set(keys)), recipe
                            count += 1
    assert count > 2000


def test_a_failure_of_the_rule_is_none_of_the_frame() -> None:
    """The incident: both counted failures in one place, and a weight stood still for a whole period."""
    ends = []
    for rule in (rules.Adam(bias_correction="step"), rules.Shampoo()):
        torch.manual_seed(0)
        p = nn.Parameter(torch.randn(16, 12))
        optimizer = metrize.Optimizer([p], Recipe(frame=frames.GaLore(rank=4, period=200), rule=rule), lr=0.01)
        p.grad = torch.zeros(16, 12)
        optimizer.step()
        start = p.detach().clone()
        for seed in range(5):
            p.grad = torch.randn(16, 12, generator=torch.Generator().manual_seed(seed))
            optimizer.step()
        ends.append(float((p.detach() - start).abs().max()))
    assert all(end > 1e-3 for end in ends)


TAKEN: list[tuple[str, dict[str, Any]]] = [
    ("step", {}),
    ("phase", {}),
    ("failures", {}),
    ("seed", {}),
    ("exp_avg.step", {}),
    ("section", {"space": metrize.Stiefel(section="transported")}),
    ("master", {"space": metrize.Stiefel()}),
    ("basis_1", {"frame": frames.GaLore(rank=2)}),
    ("factor_0", {"frame": frames.Eigenbasis()}),
    ("d", {"step_size": metrize.step_sizes.Prodigy()}),
    ("start", {"step_size": metrize.step_sizes.Prodigy()}),
    ("rounding.rest", {"rounding": Compensated()}),
    ("rounding.seed", {"rounding": Stochastic()}),
]


@pytest.mark.parametrize(("key", "parts"), TAKEN, ids=[key for key, _ in TAKEN])
def test_an_average_that_is_called_like_something_else_is_refused(key: str, parts: dict[str, Any]) -> None:
    @dataclasses.dataclass(frozen=True)
    class Clashing(rules.Rule):
        def averages(self, hyper: dict[str, Any]) -> dict[str, Any]:
            return {key: "linear"}

        def direction(self, coords: Any, averages: Any, hyper: Any, metric: Any) -> Any:
            return averages.update(key, coords, 0.9, 0.1)

    recipe = Recipe(rule=Clashing(), **parts)
    space = recipe.space or Vector()
    p = space.random_(torch.empty(8, 4), torch.Generator().manual_seed(1)).to(torch.bfloat16)
    with pytest.raises(metrize.SpaceError, match=rf"(?s)parameter 'w'.*'{key}'.*(another name|give it another one)"):
        metrize.Optimizer([("w", nn.Parameter(p))], recipe)
