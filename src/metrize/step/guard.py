"""Which gradients a step can be taken with."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from metrize.linalg import all_usable, fault_of, held
from metrize.recipe import parse_recipe
from metrize.step.group import name_of

Groups = Sequence[dict[str, Any]]
Versions = list[tuple[int, int]]


def usable(groups: Groups, left: Versions | None) -> bool:
    """Whether the gradients that this process holds can be squared, with what weight decay adds to them.

    Args:
        groups: those that ask for it are looked at.
        left: the `versions` after the last step: weights that nobody wrote to since are not looked at again.
    """
    guarded = [group for group in groups if group["skip_nonfinite"]]
    grads = (p.grad for group in guarded for p in group["params"])
    fine = all_usable([held(grad) for grad in grads if grad is not None and grad.layout == torch.strided])
    if not fine or versions(groups) == left:
        return fine
    return all(all_usable(_decayed(group), float(group["weight_decay"])) for group in guarded if _adds(group["recipe"]))


def versions(groups: Groups) -> Versions:
    """How often the weights were written to whose decay is squared."""
    return [(id(p), p._version) for group in groups if _adds(group["recipe"]) for p in _decayed(group)]


def fault(group: dict[str, Any], index: int, grad: Tensor | None) -> str | None:
    """Why no step can be taken with this gradient of a parameter, as a clause; None where one can."""
    name, weight = name_of(group, index), held(group["params"][index].detach())
    if grad is not None and not all_usable([held(grad)]):
        return f"the gradient of {name!r} {fault_of(held(grad))}"
    factor = float(group["weight_decay"])
    if _squares_decay(group) and not all_usable([weight], factor):
        return f"the weight decay of {name!r} {fault_of(weight, factor)}"
    return None


def _decayed(group: dict[str, Any]) -> list[Tensor]:
    return [held(p.detach()) for p in group["params"] if p.grad is not None] if _squares_decay(group) else []


@functools.lru_cache
def _adds(recipe: str) -> bool:
    """Whether weight decay joins the gradient; the first question to every group in every step."""
    return parse_recipe(recipe).convention.adds


def _squares_decay(group: dict[str, Any]) -> bool:
    """Whether weight decay joins the gradient, of which the rule takes more than sums."""
    recipe = parse_recipe(group["recipe"])
    if not (recipe.convention.adds and recipe.convention.acts(group)):
        return False
    plain = recipe.frame.trivial and recipe.step_size.scope is None and recipe.rule.elementwise(group)
    return not plain or "square" in recipe.rule.averages(group).values()
