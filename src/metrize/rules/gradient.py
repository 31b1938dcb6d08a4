"""Plain gradient descent."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from metrize.moments import Averages, Moments
from metrize.part import Spec
from metrize.rules.base import Metric, Rule


@dataclasses.dataclass(frozen=True)
class Gradient(Rule):
    """The direction is the gradient, ``D = g``: steepest in the metric of the space. Keeps nothing."""

    def state_spec(
        self, moments: Moments, shape: torch.Size, batch: tuple[int, ...], dtype: torch.dtype, hyper: dict[str, Any]
    ) -> Spec:
        return {}

    def direction(self, coords: Tensor, averages: Averages, hyper: dict[str, Any], metric: Metric) -> Tensor:
        return coords
