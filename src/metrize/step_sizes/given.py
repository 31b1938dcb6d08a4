"""The learning rate as it is given."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

from torch import Tensor

from metrize.step_sizes.base import StepSize


@dataclasses.dataclass(frozen=True)
class Given(StepSize):
    """``W = -lr * direction``, with the learning rate of the parameter group."""

    given: ClassVar[bool] = True

    @property
    def by_entry(self) -> bool:
        return True

    def rate(self, points: Tensor, state: dict[str, Tensor], hyper: dict[str, Any]) -> float | Tensor:
        return hyper["lr"]
