"""From what a user hands over to parameter groups with names and spaces."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from metrize.linalg import is_flat_piece
from metrize.recipe import Recipe
from metrize.spaces import Space, SpaceError, Vector
from metrize.spaces.base import parse_space
from metrize.spaces.declare import check_point, declared_space, naming, remind

Params = nn.Module | Iterable[Tensor] | Iterable[tuple[str, Tensor]] | Iterable[dict[str, Any]]
"""What every optimizer takes: a module, parameters, named parameters, or groups of any of these."""


def named_members(params: Any) -> Any:
    """A module as its named parameters, each once; anything else as it is.

    The module's declared spaces are written on its parameters, which lose them when a module is copied.
    """
    if not isinstance(params, nn.Module):
        return params
    remind(params)
    return list(params.named_parameters())


def name_of(group: dict[str, Any], index: int) -> str:
    """The parameter's name, or its place in the group where names were not given."""
    names = group.get("param_names") or []
    return str(names[index]) if index < len(names) else f"#{index} of its group"


def space_of(group: dict[str, Any], index: int, recipe: Recipe) -> Space:
    """Where a parameter lives: as the recipe says, else as it was declared, else in a vector space."""
    if recipe.space is not None:
        return recipe.space
    sentence = group["spaces"][index]
    return parse_space(sentence) if sentence else Vector()


def settle(group: dict[str, Any], recipe: Recipe) -> None:
    """Check every parameter of a group and record declared spaces and shapes under ``"spaces"`` and ``"shapes"``.

    The records outlive the parameter objects, which frameworks exchange after construction.

    Raises:
        SpaceError: a tensor its space cannot hold, a point off its space, or two different spaces for one tensor.
    """
    recorded = group.get("spaces") or (None,) * len(group["params"])
    if len(recorded) != len(group["params"]):
        raise ValueError(f"the group records {len(recorded)} spaces for {len(group['params'])} parameters")
    spaces = []
    for index, (parameter, known) in enumerate(zip(group["params"], recorded, strict=True)):
        with naming(name_of(group, index)):
            declared = declared_space(parameter) or known
            _agree(recipe, declared)
            space = recipe.space or (parse_space(declared) if declared else Vector())
            if parameter.is_complex() and space.flat:
                recipe.check_complex(parameter.dtype)
            recipe.check(space, torch.view_as_real(parameter).shape if parameter.is_complex() else parameter.shape)
            space.check(parameter)
            if space.flat or parameter.device.type != "meta":
                check_point(space, parameter)
            spaces.append(declared)
    group["spaces"] = tuple(spaces)
    group["shapes"] = tuple(tuple(p.shape) for p in group["params"])


def is_flat_piece_of(group: dict[str, Any], index: int) -> bool:
    """Whether a parameter was put in the place of matrices after the group was made, as a vector of no known shape."""
    p, shapes = group["params"][index], group["shapes"]
    strange = p.ndim == 1 and tuple(p.shape) not in shapes and len(group["params"]) <= len(shapes)
    return is_flat_piece(p) or (strange and any(len(shape) > 1 for shape in shapes))


def newly_declared(group: dict[str, Any]) -> list[int]:
    """Parameters whose declaration came to light after the group was settled (a copied module's first forward)."""
    return [
        i
        for i, (p, known) in enumerate(zip(group["params"], group["spaces"], strict=True))
        if (declared := declared_space(p)) is not None and declared != known
    ]


def _agree(recipe: Recipe, declared: str | None) -> None:
    if recipe.space is not None and declared is not None and repr(recipe.space) != declared:
        raise SpaceError(
            f"declared to live on {parse_space(declared)} with metrize.constrain, and this optimizer was told "
            f"{recipe.space}; leave out `space`, or change the declaration"
        )
