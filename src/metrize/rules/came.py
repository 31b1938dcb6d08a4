"""CAME: steps are long where they agree with the steps before."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor

from metrize.moments import Averages, Kind
from metrize.rules.base import Metric, Pass, number
from metrize.rules.whitened import Whitening


@dataclasses.dataclass(frozen=True)
class CAME(Whitening):
    """Confidence-guided Adafactor (arXiv:2307.02047).

    ``v <- b2 v + (1 - b2) g^2``, ``U = g / sqrt(v + eps1)``, ``U <- U / max(1, RMS(U) / clip)``,
    ``m <- b1 m + (1 - b1) U``, ``S <- b3 S + (1 - b3) (U - m)^2``, ``D = m / sqrt(S + eps2)``; tensors with fewer than
    two dimensions keep no S, and ``D = m``. Nothing is corrected for its start. Numbers of the group: ``betas``,
    ``eps`` (of v and of S), ``clip`` (None: not clipped).

    Raises:
        ValueError: a number of the group out of range.
    """

    def hyper(self) -> dict[str, Any]:
        return {"betas": (0.9, 0.999, 0.9999), "eps": (1e-30, 1e-16), "clip": 1.0}

    def check_hyper(self, hyper: dict[str, Any]) -> None:
        self._check_clip(hyper)
        if len(hyper["betas"]) != 3 or not all(0 <= number(beta) < 1 for beta in hyper["betas"]):
            raise ValueError(f"betas={hyper['betas']}: three numbers from 0 to less than 1")
        if len(hyper["eps"]) != 2 or not all(number(eps) > 0 for eps in hyper["eps"]):
            raise ValueError(f"eps={hyper['eps']}: two numbers above 0")

    def averages(self, hyper: dict[str, Any]) -> dict[str, Kind]:
        return {"exp_avg": "linear", "exp_avg_sq": "square", "exp_avg_res": "square"}

    def averages_of(self, shape: torch.Size, hyper: dict[str, Any]) -> dict[str, Kind]:
        kept = self.averages(hyper)
        return kept if len(shape) > 1 else {name: kind for name, kind in kept.items() if name != "exp_avg_res"}

    def passes(self, hyper: dict[str, Any], ahead: Collection[str] = ()) -> tuple[Pass, ...]:
        return (*super().passes(hyper, ahead), self._trust)

    def elementwise(self, hyper: dict[str, Any]) -> bool:
        return False  # what it keeps depends on the dimensions of the whole

    def revisits(self, hyper: dict[str, Any]) -> tuple[str, ...]:
        return (*super().revisits(hyper), "exp_avg", "exp_avg_res")

    def _finish(self, coords: Tensor, averages: Averages, hyper: dict[str, Any], metric: Metric) -> None:
        update = self._clipped(coords, averages, hyper, metric)
        beta1, _, beta3 = (number(beta) for beta in hyper["betas"])
        averages.observe("exp_avg", update, beta1, 1 - beta1)
        if "exp_avg_res" in averages.slots:
            averages.observe("exp_avg_res", update.sub_(averages.again("exp_avg")), beta3, 1 - beta3)

    def _trust(self, coords: Tensor, averages: Averages, hyper: dict[str, Any], metric: Metric) -> Tensor:
        """``m / sqrt(S + eps2)``."""
        exp_avg = averages.again("exp_avg")
        if "exp_avg_res" not in averages.slots:
            return exp_avg
        return averages.whiten("exp_avg_res", exp_avg, number(hyper["eps"][1]))

    def _floor(self, coords: Tensor, hyper: dict[str, Any]) -> tuple[float, bool]:
        return number(hyper["eps"][0]), False

    def _weights(self, averages: Averages, hyper: dict[str, Any]) -> tuple[float | Tensor, float | Tensor]:
        beta2 = number(hyper["betas"][1])
        return beta2, 1 - beta2
