"""Heavy-ball momentum."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Collection
from typing import Any, ClassVar

import torch
from torch import Tensor

from metrize.moments import Averages, Kind
from metrize.rules.base import Kernel, Metric, Pass, Rule, number


@dataclasses.dataclass(frozen=True)
class Momentum(Rule):
    """Momentum as in ``torch.optim.SGD``: ``P <- momentum P + (1 - dampening) g``, the first P is g itself.

    Numbers of the group: ``momentum`` (0 keeps no state), ``dampening``, ``nesterov``. The direction is P, or
    ``g + momentum P`` with Nesterov's look-ahead.
    """

    kernel_counts: ClassVar[bool] = False

    def hyper(self) -> dict[str, Any]:
        return {"momentum": 0.9, "dampening": 0.0, "nesterov": False}

    def variant(self, hyper: dict[str, Any]) -> bool:
        return number(hyper["momentum"]) != 0

    def check_hyper(self, hyper: dict[str, Any]) -> None:
        if not 0 <= number(hyper["momentum"]) < 1:
            raise ValueError(f"momentum={hyper['momentum']}: a number from 0 to less than 1")
        if hyper["nesterov"] and (number(hyper["momentum"]) == 0 or number(hyper["dampening"]) != 0):
            raise ValueError("nesterov=True needs a momentum above 0 and dampening=0")

    def averages(self, hyper: dict[str, Any]) -> dict[str, Kind]:
        return {"momentum_buffer": "linear"} if self.variant(hyper) else {}

    def direction(self, coords: Tensor, averages: Averages, hyper: dict[str, Any], metric: Metric) -> Tensor:
        momentum = number(hyper["momentum"])
        if not momentum:
            return coords
        share = 1 - number(hyper["dampening"]) * (averages.step != 1).double()
        gain = share if number(hyper["dampening"]) else 1.0
        buffer = averages.update("momentum_buffer", coords, momentum, gain)
        return torch.add(coords, buffer, alpha=momentum) if hyper["nesterov"] else buffer

    def passes(self, hyper: dict[str, Any], ahead: Collection[str] = ()) -> tuple[Pass, ...]:
        return (self.direction,)

    def elementwise(self, hyper: dict[str, Any]) -> bool:
        return True

    def kernel(self, decay: str, hyper: dict[str, Any]) -> Kernel | None:
        return functools.partial(self._fused, decay == "l2") if decay in ("decoupled", "l2") else None

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
        first = (torch.stack(state["step"]) == 1).tolist()
        for is_first in {*first}:  # the kernel takes one answer for its whole list
            chosen = [i for i, f in enumerate(first) if f == is_first]
            torch._fused_sgd_(
                [params[i] for i in chosen],
                [grads[i] for i in chosen],
                [state["momentum_buffer"][i] for i in chosen] if self.variant(hyper) else [],
                weight_decay=decay if penalised else 0.0,
                momentum=number(hyper["momentum"]),
                lr=lr,
                dampening=number(hyper["dampening"]),
                nesterov=bool(hyper["nesterov"]),
                maximize=bool(hyper["maximize"]),
                is_first_step=is_first,
            )
