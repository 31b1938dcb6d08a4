"""The averages in a saved state, in full."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from metrize.recipe import Recipe
from metrize.spaces import Space
from metrize.state import slots


def stacked_alone(kept: dict[str, Any]) -> dict[str, Tensor]:
    """The state of one parameter as a stack of one, sharing its memory."""
    return {key: value.unsqueeze(0) for key, value in kept.items() if isinstance(value, Tensor)}


def averages_of(
    recipe: Recipe, space: Space, shape: torch.Size, dtype: torch.dtype, hyper: dict[str, Any], kept: dict[str, Any]
) -> dict[str, Tensor]:
    """Every average of one parameter as its storage reads it, ``[1, *shape]``.

    Args:
        recipe: that wrote the state.
        space: where the parameter lives.
        shape: of the parameter; complex numbers count as pairs.
        dtype: of the arithmetic.
        hyper: numbers of the group.
        kept: the state.
    """
    wide = stacked_alone(kept)
    return {
        name: recipe.moments.of(slot.shape, slot.kind).read(slot, wide)
        for name, slot in slots(recipe, space, shape, dtype, hyper).items()
    }
