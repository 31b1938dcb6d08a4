"""What a parameter group says about its members."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from metrize.linalg import is_flat_piece
from metrize.recipe import Recipe, parse_recipe
from metrize.spaces import Space, Vector
from metrize.spaces.base import parse_space


def name_of(group: dict[str, Any], index: int) -> str:
    """The parameter's name, or its place in the group where names were not given."""
    names = group.get("param_names") or []
    return str(names[index]) if index < len(names) else f"#{index} of its group"


def trains(p: Tensor) -> bool:
    """Whether a parameter needs state: a frozen one does not, until it is thawed or handed a gradient."""
    return p.requires_grad or p.grad is not None


def numbers_of(group: dict[str, Any]) -> dict[str, Any]:
    """The group as rules and step sizes see it in this step: 0-d tensors of schedules as plain numbers.

    What a step size has shown stays as it is: it may be on a device, and nobody computes with it.
    """
    shown = parse_recipe(group["recipe"]).step_size.shown()
    numbers: dict[str, Any] = {
        key: value.item() if isinstance(value, Tensor) and key not in shown else value for key, value in group.items()
    }
    if "betas" in numbers:
        numbers["betas"] = tuple(map(float, numbers["betas"]))
    return numbers


def space_of(group: dict[str, Any], index: int, recipe: Recipe) -> Space:
    """Where a parameter lives: as the recipe says, else as it was declared, else in a vector space."""
    if recipe.space is not None:
        return recipe.space
    text = group["spaces"][index]
    return parse_space(text) if text else Vector()


def is_flat_piece_of(group: dict[str, Any], index: int) -> bool:
    """Whether a parameter was put in the place of matrices after the group was made, as a vector of no known shape."""
    p, shapes = group["params"][index], group["shapes"]
    strange = p.ndim == 1 and tuple(p.shape) not in shapes and len(group["params"]) <= len(shapes)
    return is_flat_piece(p) or (strange and any(len(shape) > 1 for shape in shapes))
