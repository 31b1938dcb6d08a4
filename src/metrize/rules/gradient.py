"""Plain gradient descent."""

from __future__ import annotations

import dataclasses
from typing import Any

from torch import Tensor

from metrize.moments import Averages
from metrize.rules.base import Metric, Rule


@dataclasses.dataclass(frozen=True)
class Gradient(Rule):
    """The direction is the gradient, ``D = g``: steepest in the metric of the space. Keeps nothing."""

    def direction(self, coords: Tensor, averages: Averages, hyper: dict[str, Any], metric: Metric) -> Tensor:
        return coords

    def elementwise(self, hyper: dict[str, Any]) -> bool:
        return True
