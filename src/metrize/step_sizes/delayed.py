"""A learning rate that waits."""

from __future__ import annotations

import dataclasses
from typing import Any

from torch import Tensor

from metrize.step_sizes.base import StepSize


@dataclasses.dataclass(frozen=True)
class Delayed(StepSize):
    """The learning rate as given, after the first `steps` of each parameter, in which it neither moves nor decays.

    Args:
        steps: in which averages are made and nothing else.

    Raises:
        ValueError: a negative number of steps.
    """

    steps: int = 1

    def __post_init__(self) -> None:
        if self.steps < 0:
            raise ValueError(f"Delayed(steps={self.steps}): a number of at least 0")

    @property
    def by_entry(self) -> bool:
        return True

    def rate(self, points: Tensor, state: dict[str, Tensor], hyper: dict[str, Any]) -> Tensor:
        step = state["step"].double()
        return (step > self.steps).to(step) * float(hyper["lr"])
