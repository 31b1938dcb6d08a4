"""The contract of a step size, and the learning rate as it is given."""

from __future__ import annotations

import dataclasses
from typing import Any

from torch import Tensor

from metrize.part import Part


@dataclasses.dataclass(frozen=True)
class StepSize(Part):
    """Turns a direction into a velocity."""

    def velocity(self, direction: Tensor, hyper: dict[str, Any]) -> Tensor:
        """The direction of descent times the length of the step; may change `direction` in place."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Given(StepSize):
    """``W = -lr * direction``, with the learning rate of the parameter group."""

    def velocity(self, direction: Tensor, hyper: dict[str, Any]) -> Tensor:
        return direction * (-hyper["lr"])
