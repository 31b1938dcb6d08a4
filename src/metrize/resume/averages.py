"""The averages in a saved state, in full."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from metrize.step.assignment import Assignment


def stacked_alone(kept: dict[str, Any]) -> dict[str, Tensor]:
    """The state of one parameter as a stack of one, sharing its memory."""
    return {key: value.unsqueeze(0) for key, value in kept.items() if isinstance(value, Tensor)}


def averages_of(assignment: Assignment, kept: dict[str, Any]) -> dict[str, Tensor]:
    """Every average of one parameter as its storage reads it, ``[1, *shape]``.

    Args:
        assignment: of the recipe that wrote the state.
        kept: the state.
    """
    wide = stacked_alone(kept)
    return {name: storage.read(assignment.slots[name], wide) for name, storage in assignment.storages.items()}
