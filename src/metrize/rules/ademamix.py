"""AdEMAMix."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor

from metrize.moments import Averages, Kind
from metrize.norms import MaxEntry, Norm
from metrize.rules.base import Metric, Pass, Rule, number, per_point


@dataclasses.dataclass(frozen=True)
class AdEMAMix(Rule):
    """Adam with a second, slow average of the gradient (AdEMAMix, arXiv:2409.03137).

    ``m1 <- b1 m1 + (1 - b1) g``, ``m2 <- b3(t) m2 + (1 - b3(t)) g``, ``v <- b2 v + (1 - b2) g^2``,
    ``D = (m1 / (1 - b1^t) + alpha(t) m2) / (sqrt(v / (1 - b2^t)) + eps)``; m2 is not corrected for its start. Over the
    first ``alpha_warmup`` steps alpha(t) grows linearly from 0, and over the first ``beta3_warmup`` the half-life of m2
    grows linearly from that of m1. Numbers of the group: ``betas`` (b1, b2, b3), ``alpha``, ``eps``, ``alpha_warmup``,
    ``beta3_warmup`` (0: none). A change of the warm-ups in a run makes b3 jump.

    Raises:
        ValueError: a number of the group out of range.
    """

    def in_norm(self) -> Norm:
        return MaxEntry()

    def hyper(self) -> dict[str, Any]:
        return {"betas": (0.9, 0.999, 0.9999), "alpha": 5.0, "eps": 1e-8, "alpha_warmup": 0, "beta3_warmup": 0}

    def check_hyper(self, hyper: dict[str, Any]) -> None:
        if len(hyper["betas"]) != 3 or not all(0 <= number(beta) < 1 for beta in hyper["betas"]):
            raise ValueError(f"betas={hyper['betas']}: three numbers from 0 to less than 1")
        for name in ("alpha", "eps", "alpha_warmup", "beta3_warmup"):
            if not number(hyper[name]) >= 0:
                raise ValueError(f"{name}={hyper[name]}: a number of at least 0")

    def averages(self, hyper: dict[str, Any]) -> dict[str, Kind]:
        return {"exp_avg": "linear", "exp_avg_slow": "linear", "exp_avg_sq": "square"}

    def direction(self, coords: Tensor, averages: Averages, hyper: dict[str, Any], metric: Metric) -> Tensor:
        beta1, beta2 = (number(beta) for beta in hyper["betas"][:2])
        beta3, count = self._beta3(averages, hyper), averages.count
        fast = averages.update("exp_avg", coords, beta1, 1 - beta1)
        slow = averages.update("exp_avg_slow", coords, beta3, 1 - beta3)
        alpha = number(hyper["alpha"]) * _share(count, hyper["alpha_warmup"])
        mixed = fast / per_point(1 - beta1**count, coords) + slow * per_point(alpha, coords)
        square = averages.update("exp_avg_sq", coords, beta2, 1 - beta2)
        root = averages.root("exp_avg_sq", square).div_(per_point((1 - beta2**count) ** 0.5, coords))
        return mixed / root.add_(max(number(hyper["eps"]), torch.finfo(coords.dtype).tiny))

    def _beta3(self, averages: Averages, hyper: dict[str, Any]) -> float | Tensor:
        """``1 / ln b3(t)`` goes linearly from ``1 / ln b1`` to ``1 / ln b3``."""
        beta1, _, beta3 = (number(beta) for beta in hyper["betas"])
        if not 0 < beta1 < beta3:
            return beta3
        share = _share(averages.count, hyper["beta3_warmup"])
        return math.e ** (1 / (share / math.log(beta3) + (1 - share) / math.log(beta1)))

    def passes(self, hyper: dict[str, Any], ahead: Collection[str] = ()) -> tuple[Pass, ...]:
        return (self._look, self.direction) if "exp_avg_sq" in ahead else (self.direction,)

    def _look(self, coords: Tensor, averages: Averages, hyper: dict[str, Any], metric: Metric) -> None:
        beta2 = number(hyper["betas"][1])
        averages.observe("exp_avg_sq", coords, beta2, 1 - beta2)

    def elementwise(self, hyper: dict[str, Any]) -> bool:
        return True


def _share(count: float | Tensor, warmup: Any) -> Any:
    """How much of a warm-up is over, from 0 to 1."""
    steps = number(warmup)
    if not steps:
        return 1.0
    return (count / steps).clamp(max=1) if isinstance(count, Tensor) else min(count / steps, 1.0)
