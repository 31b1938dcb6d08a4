"""AdaGrad."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor

from metrize.moments import Averages, Kind
from metrize.norms import MaxEntry, Norm
from metrize.rules.base import Kernel, Metric, Pass, Rule, at_least, number


@dataclasses.dataclass(frozen=True)
class AdaGrad(Rule):
    """The gradient over the root of the sum of all squares: ``h <- h + g^2``, ``D = g / (sqrt(h0 + h) + eps)``.

    Numbers of the group: ``initial_accumulator_value`` (h0), ``eps``.

    Raises:
        ValueError: a number of the group out of range.

    Source: Duchi, Hazan and Singer, JMLR 12 (2011).
    """

    def in_norm(self) -> Norm:
        return MaxEntry()

    def hyper(self) -> dict[str, Any]:
        return {"initial_accumulator_value": 0.0, "eps": 1e-10}

    def check_hyper(self, hyper: dict[str, Any]) -> None:
        for key in self.hyper():
            if not number(hyper[key]) >= 0:
                raise ValueError(f"{key}={hyper[key]}: a number of at least 0")

    def averages(self, hyper: dict[str, Any]) -> dict[str, Kind]:
        return {"sum": "square"}

    def direction(self, coords: Tensor, averages: Averages, hyper: dict[str, Any], metric: Metric) -> Tensor:
        total = averages.update("sum", coords, 1.0, 1.0)
        eps = at_least(number(hyper["eps"]), torch.finfo(coords.dtype).tiny)  # 0 / 0 must be 0 without an eps
        return coords / (total + number(hyper["initial_accumulator_value"])).sqrt_().add_(eps)

    def passes(self, hyper: dict[str, Any], ahead: Collection[str] = ()) -> tuple[Pass, ...]:
        return (self._look, self.direction) if "sum" in ahead else (self.direction,)

    def _look(self, coords: Tensor, averages: Averages, hyper: dict[str, Any], metric: Metric) -> None:
        averages.observe("sum", coords, 1.0, 1.0)

    def variant(self, hyper: dict[str, Any]) -> bool:
        return number(hyper["initial_accumulator_value"]) == 0

    def elementwise(self, hyper: dict[str, Any]) -> bool:
        return True

    def kernel(self, decay: str, hyper: dict[str, Any]) -> Kernel | None:
        if not self.variant(hyper) or decay not in ("decoupled", "l2"):
            return None
        return functools.partial(self._fused, decay == "l2")

    def _fused(
        self,
        penalised: bool,
        params: list[Tensor],
        grads: list[Tensor],
        state: dict[str, list[Tensor]],
        hyper: dict[str, Any],
    ) -> None:
        lr, decay = number(hyper["lr"]), number(hyper["weight_decay"])
        if decay and not penalised:
            torch._foreach_mul_(params, 1 - lr * decay)
        torch._fused_adagrad_(
            params,
            grads,
            state["sum"],
            state["step"],
            lr=lr,
            lr_decay=0.0,
            weight_decay=decay if penalised else 0.0,
            eps=number(hyper["eps"]),
            maximize=bool(hyper["maximize"]),
        )
