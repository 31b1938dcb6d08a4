"""The gradient over the root of its mean square, unclipped, and averaged afterwards: ADOPT and LaProp."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor

from metrize.moments import Averages, Kind
from metrize.norms import MaxEntry, Norm
from metrize.rules.base import Metric, Pass, Rule, number, per_point


@dataclasses.dataclass(frozen=True)
class NormalizedFirst(Rule, abstract=True):
    """What rules share that average a normalised gradient. Numbers of the group: ``betas``, ``eps``."""

    def in_norm(self) -> Norm:
        return MaxEntry()

    def check_hyper(self, hyper: dict[str, Any]) -> None:
        if len(hyper["betas"]) != 2 or not all(0 <= number(beta) < 1 for beta in hyper["betas"]):
            raise ValueError(f"betas={hyper['betas']}: two numbers from 0 to less than 1")
        if not number(hyper["eps"]) >= 0:
            raise ValueError(f"eps={hyper['eps']}: a number of at least 0")

    def averages(self, hyper: dict[str, Any]) -> dict[str, Kind]:
        return {"exp_avg": "linear", "exp_avg_sq": "square"}

    def elementwise(self, hyper: dict[str, Any]) -> bool:
        return True


@dataclasses.dataclass(frozen=True)
class LaProp(NormalizedFirst):
    """Momentum of the normalised gradient (LaProp, arXiv:2002.04839).

    ``v <- b2 v + (1 - b2) g^2``, ``n = g / (sqrt(v / (1 - b2^t)) + eps)``, ``m <- b1 m + (1 - b1) n``,
    ``D = m / (1 - b1^t)``. The authors' code averages lr n and divides by the average of lr, which is the same at a
    constant learning rate. Numbers of the group: ``betas``, ``eps``.

    Raises:
        ValueError: a number of the group out of range.
    """

    def hyper(self) -> dict[str, Any]:
        return {"betas": (0.9, 0.999), "eps": 1e-15}

    def direction(self, coords: Tensor, averages: Averages, hyper: dict[str, Any], metric: Metric) -> Tensor:
        (beta1, beta2), count = (number(beta) for beta in hyper["betas"]), averages.count
        square = averages.update("exp_avg_sq", coords, beta2, 1 - beta2)
        root = averages.root("exp_avg_sq", square).div_(per_point((1 - beta2**count) ** 0.5, coords))
        normalized = coords / root.add_(max(number(hyper["eps"]), torch.finfo(coords.dtype).tiny))
        return averages.update("exp_avg", normalized, beta1, 1 - beta1) / per_point(1 - beta1**count, coords)

    def passes(self, hyper: dict[str, Any], ahead: Collection[str] = ()) -> tuple[Pass, ...]:
        return (self._look, self.direction) if "exp_avg_sq" in ahead else (self.direction,)

    def _look(self, coords: Tensor, averages: Averages, hyper: dict[str, Any], metric: Metric) -> None:
        beta2 = number(hyper["betas"][1])
        averages.observe("exp_avg_sq", coords, beta2, 1 - beta2)


@dataclasses.dataclass(frozen=True)
class ADOPT(NormalizedFirst):
    """Normalised by the squares of the gradients before, and averaged then (ADOPT, arXiv:2411.02853).

    ``c = g / max(sqrt(v), eps)``, held to ``[-(t - 1)^clip, (t - 1)^clip]``, ``D = m <- b1 m + (1 - b1) c``, and then
    ``v <- b2 v + (1 - b2) g^2``. The first step makes ``v = g^2`` and moves nothing. Nothing is corrected for its
    start. Numbers of the group: ``betas``, ``eps``, ``clip`` (None: not clipped, and a first gradient of 0 explodes).

    Raises:
        ValueError: a number of the group out of range.
    """

    def hyper(self) -> dict[str, Any]:
        return {"betas": (0.9, 0.9999), "eps": 1e-6, "clip": 0.25}

    def check_hyper(self, hyper: dict[str, Any]) -> None:
        super().check_hyper(hyper)
        if hyper["clip"] is not None and not number(hyper["clip"]) >= 0:
            raise ValueError(f"clip={hyper['clip']}: an exponent of at least 0, or None")

    def direction(self, coords: Tensor, averages: Averages, hyper: dict[str, Any], metric: Metric) -> Tensor:
        (beta1, beta2), first = (number(beta) for beta in hyper["betas"]), (averages.step == 1).double()
        floor = max(number(hyper["eps"]), torch.finfo(coords.dtype).tiny)
        whitened = coords / averages.read("exp_avg_sq").sqrt().clamp(min=floor)
        if hyper["clip"] is not None:
            bound = per_point((averages.step - 1) ** number(hyper["clip"]), coords)
            whitened = torch.maximum(torch.minimum(whitened, bound), -bound)
        moved = whitened.nan_to_num() * per_point(1 - first, coords)
        averages.update("exp_avg_sq", coords, beta2, first + (1 - first) * (1 - beta2))
        return averages.update("exp_avg", moved, beta1, 1 - beta1)

    def passes(self, hyper: dict[str, Any], ahead: Collection[str] = ()) -> tuple[Pass, ...]:
        return () if "exp_avg_sq" in ahead else (self.direction,)
