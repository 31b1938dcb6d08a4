"""Adafactor whose average is clipped, and not what enters it."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from typing import Any

from torch import Tensor

from metrize.moments import Averages
from metrize.rules.base import Metric, Pass, number, per_point
from metrize.rules.whitened import Whitened


@dataclasses.dataclass(frozen=True)
class ClippedAverage(Whitened):
    """As `Whitened`, but clipped last: ``m <- b1 m + (1 - b1) g / sqrt(v)``, ``D = m / max(1, RMS(m) / clip)``.

    That is the order of Flora (arXiv:2402.03293). Without an average or without a clip it is `Whitened`.

    Args:
        second_moment: as `Whitened`.
        floor: as `Whitened`.

    Raises:
        ValueError: an unknown option; a number of the group out of range.
    """

    def passes(self, hyper: dict[str, Any], ahead: Collection[str] = ()) -> tuple[Pass, ...]:
        if hyper["clip"] is None or not self.variant(hyper)[0]:
            return super().passes(hyper, ahead)
        look = (self._look,) if "exp_avg_sq" in ahead else ()
        return (*look, self._average, self._clip_average)

    def revisits(self, hyper: dict[str, Any]) -> tuple[str, ...]:
        return (*super().revisits(hyper), "exp_avg")

    def _average(self, coords: Tensor, averages: Averages, hyper: dict[str, Any], metric: Metric) -> None:
        momentum = number(hyper["momentum"])
        averages.observe("exp_avg", self._whiten(coords, averages, hyper), momentum, 1 - momentum)
        averages.add("average", metric.sq_norm(averages.again("exp_avg")))

    def _clip_average(self, coords: Tensor, averages: Averages, hyper: dict[str, Any], metric: Metric) -> Tensor:
        excess = (averages.total("average") / metric.dim).sqrt() / number(hyper["clip"])
        average = averages.again("exp_avg")
        return average / per_point(excess.clamp(min=1), average)
