"""AdaBelief."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor

from metrize.moments import Averages
from metrize.rules.base import Metric, Pass, number, per_point
from metrize.rules.normalized_first import NormalizedFirst


@dataclasses.dataclass(frozen=True)
class AdaBelief(NormalizedFirst):
    """Adam that divides by how far the gradient is from its average (AdaBelief, arXiv:2010.07468).

    ``m <- b1 m + (1 - b1) g``, ``s <- b2 s + (1 - b2) (g - m)^2 + eps``,
    ``D = (m / (1 - b1^t)) / (sqrt(s / (1 - b2^t)) + eps)``. What eps adds to s over the steps is a closed form and no
    part of the state. Numbers of the group: ``betas``, ``eps``.

    Args:
        rectify: the variance of the first steps is rectified (arXiv:1908.03265):
            ``D = r_t (m / (1 - b1^t)) / (sqrt(s) + eps)`` once ``rho_t >= 5``, with
            ``r_t^2 = (1 - b2^t) (rho_t - 4) (rho_t - 2) rho / ((rho - 4) (rho - 2) rho_t)``,
            ``rho = 2 / (1 - b2) - 1`` and ``rho_t = rho - 2 t b2^t / (1 - b2^t)``, and ``m / (1 - b1^t)`` before.

    Raises:
        ValueError: a number of the group out of range.
    """

    rectify: bool = False

    def hyper(self) -> dict[str, Any]:
        return {"betas": (0.9, 0.999), "eps": 1e-16}

    def direction(self, coords: Tensor, averages: Averages, hyper: dict[str, Any], metric: Metric) -> Tensor:
        (beta1, beta2), step = (number(beta) for beta in hyper["betas"]), averages.step
        eps = number(hyper["eps"])
        exp_avg = averages.update("exp_avg", coords, beta1, 1 - beta1)
        belief = averages.update("exp_avg_sq", coords - exp_avg, beta2, 1 - beta2)
        bias = 1 - beta2**step
        root = (belief + per_point(eps * bias / (1 - beta2), coords)).sqrt_()
        corrected = exp_avg / per_point(1 - beta1**step, coords)
        floor = max(eps, torch.finfo(coords.dtype).tiny)
        if not self.rectify:
            return corrected / root.div_(per_point(bias.sqrt(), coords)).add_(floor)
        factor, known = _rectified(step, bias, beta2)
        return torch.where(
            per_point(known, coords) > 0, corrected / root.add_(floor) * per_point(factor, coords), corrected
        )

    def passes(self, hyper: dict[str, Any], ahead: Collection[str] = ()) -> tuple[Pass, ...]:
        return () if "exp_avg_sq" in ahead else (self.direction,)


def _rectified(step: Tensor, bias: Tensor, beta2: float) -> tuple[Tensor, Tensor]:
    """r_t, and where it is defined."""
    most = 2 / (1 - beta2) - 1
    rho = most - 2 * step * beta2**step / bias
    known = rho >= 5
    safe = torch.where(known, rho, 5.0)
    square = bias * (safe - 4) * (safe - 2) * most / ((most - 4) * (most - 2) * safe)
    return square.clamp(min=0).sqrt(), known
