"""A row of a plan."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from metrize.recipe import Recipe
from metrize.roles.role import Role


@dataclasses.dataclass(frozen=True)
class PlanRow:
    """What a plan says about one parameter.

    Args:
        name: its first name in the model.
        names: all its names; a tied parameter has several.
        shape: of the tensor.
        role: what it does, how it is read, and how that is known.
        recipe: what trains it; None: it is left out.
        numbers: options of its parameter group.
        frozen: it asks for no gradient. Its group trains it as soon as it does.
    """

    name: str
    names: tuple[str, ...]
    shape: tuple[int, ...]
    role: Role
    recipe: Recipe | None
    numbers: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    frozen: bool = False
