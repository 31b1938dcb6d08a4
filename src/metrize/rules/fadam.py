"""FAdam: Adam as natural gradient descent under the empirical Fisher information."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from typing import Any, Literal

import torch
from torch import Tensor

from metrize.moments import Averages, Kind
from metrize.part import choice
from metrize.rules.base import Metric, Pass, number, per_point
from metrize.rules.whitened import Whitening


@dataclasses.dataclass(frozen=True)
class FAdam(Whitening):
    """Adam as natural gradient descent under a diagonal Fisher information (arXiv:2405.12807).

    ``F <- b2 F + (1 - b2) g^2``, ``S = (F / (1 - b2^t))^power + e^(2 power)`` with ``e = min(eps, eps2 RMS(g))``,
    ``n = g / S``, ``n <- n / max(1, RMS(n) / clip)``, ``D = m <- b1 m + (1 - b1) n``. m is the average of the natural
    gradient and not corrected for its start, which warms the first steps up. Under ``decay="natural"`` weight decay is
    the natural gradient of a Gaussian prior, ``p / S``, clipped likewise. Numbers of the group: ``betas``, ``eps``,
    ``eps2``, ``power`` (1/2 is that of Adam, 1 that of the inverse Fisher information), ``clip`` (None: not clipped).

    Args:
        form: ``"paper"`` as above; ``"published"`` as in the published port, with ``e = eps max(1, RMS(g))``,
            ``S = (F / (1 - b2^t))^power + e`` and ``n <- clip n / max(1, RMS(n))``, which scales by `clip` what it does
            not clip; there is no eps2.

    Raises:
        ValueError: an unknown form; a number of the group out of range.
    """

    form: Literal["paper", "published"] = "paper"

    def __post_init__(self) -> None:
        choice(self, "form", ("paper", "published"))

    def hyper(self) -> dict[str, Any]:
        numbers: dict[str, Any] = {"betas": (0.9, 0.999), "eps": 1e-8, "power": 0.5, "clip": 1.0}
        return {**numbers, "eps2": 0.01} if self.form == "paper" else numbers

    def check_hyper(self, hyper: dict[str, Any]) -> None:
        self._check_clip(hyper)
        if len(hyper["betas"]) != 2 or not all(0 <= number(beta) < 1 for beta in hyper["betas"]):
            raise ValueError(f"betas={hyper['betas']}: two numbers from 0 to less than 1")
        if not number(hyper["power"]) > 0:
            raise ValueError(f"power={hyper['power']}: a number above 0")
        for key in {"eps", "eps2"} & self.hyper().keys():
            if not number(hyper[key]) >= 0:
                raise ValueError(f"{key}={hyper[key]}: a number of at least 0")

    def averages(self, hyper: dict[str, Any]) -> dict[str, Kind]:
        return {"exp_avg": "linear", "exp_avg_sq": "square"}

    def passes(self, hyper: dict[str, Any], ahead: Collection[str] = ()) -> tuple[Pass, ...]:
        return (self._look, self._finish) if hyper["clip"] is None else (self._look, self._measure, self._finish)

    def elementwise(self, hyper: dict[str, Any]) -> bool:
        return False  # the floor of S is measured on the whole gradient

    def revisits(self, hyper: dict[str, Any]) -> tuple[str, ...]:
        return ("exp_avg_sq",)

    def prior(self, points: Tensor, averages: Averages, hyper: dict[str, Any], metric: Metric) -> Tensor:
        natural = points / self._scale(averages, hyper)
        return self._bound(natural, metric.sq_norm(natural), hyper, metric)

    def _look(self, coords: Tensor, averages: Averages, hyper: dict[str, Any], metric: Metric) -> None:
        super()._look(coords, averages, hyper, metric)
        averages.add("gradient", metric.sq_norm(coords) / metric.dim)

    def _finish(self, coords: Tensor, averages: Averages, hyper: dict[str, Any], metric: Metric) -> Tensor:
        natural = self._clipped(coords, averages, hyper, metric)
        beta1 = number(hyper["betas"][0])
        return averages.update("exp_avg", natural, beta1, 1 - beta1)

    def _clipped(self, coords: Tensor, averages: Averages, hyper: dict[str, Any], metric: Metric) -> Tensor:
        natural = self._whiten(coords, averages, hyper)
        return natural if hyper["clip"] is None else self._bound(natural, averages.total("update"), hyper, metric)

    def _bound(self, natural: Tensor, sq_norm: Tensor, hyper: dict[str, Any], metric: Metric) -> Tensor:
        """``n / max(1, RMS(n) / clip)``, in place."""
        if hyper["clip"] is None:
            return natural
        size, clip = (sq_norm / metric.dim).sqrt(), number(hyper["clip"])
        excess = size.clamp(min=1) / clip if self.form == "published" else (size / clip).clamp(min=1)
        return natural.div_(per_point(excess, natural))

    def _whiten(self, coords: Tensor, averages: Averages, hyper: dict[str, Any]) -> Tensor:
        return coords / self._scale(averages, hyper)

    def _scale(self, averages: Averages, hyper: dict[str, Any]) -> Tensor:
        """S, a fresh tensor."""
        fisher, power = averages.again("exp_avg_sq"), number(hyper["power"])
        bias = 1 - number(hyper["betas"][1]) ** averages.count
        scale = (fisher / per_point(bias, fisher)).pow_(power).add_(per_point(self._eps(averages, hyper), fisher))
        # where there is no gradient, p / S must not overflow: its entries are 0 then, and not NaN
        return scale.clamp_(min=torch.finfo(scale.dtype).tiny ** 0.5)

    def _eps(self, averages: Averages, hyper: dict[str, Any]) -> Tensor:
        """What is added in S, ``[B, *batch]``."""
        size, eps = averages.total("gradient").sqrt(), number(hyper["eps"])
        if self.form == "published":
            return eps * size.clamp(min=1)
        relative = (number(hyper["eps2"]) * size).clamp(max=eps)
        return torch.where(size > 0, relative, eps) ** (2 * number(hyper["power"]))

    def _weights(self, averages: Averages, hyper: dict[str, Any]) -> tuple[float | Tensor, float | Tensor]:
        beta2 = number(hyper["betas"][1])
        return beta2, 1 - beta2
