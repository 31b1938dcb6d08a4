"""Steepest descent in a norm: momentum, then the duality map."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from typing import Any, Literal, Self

import torch
from torch import Tensor

from metrize.moments import Averages, Kind
from metrize.norms import MaxEntry, Norm
from metrize.part import choice
from metrize.rules.base import Metric, Pass, Rule, number, per_point


@dataclasses.dataclass(frozen=True)
class Dualized(Rule, abstract=True):
    """What rules share whose direction is the duality map of a norm, ``D = radius * dual(u)`` for some average u.

    Args:
        norm: in which the step is steepest.
        length: ``"normalised"``: D has norm ``radius`` whatever the size of the gradient (the linear minimization
            oracle of the ball, as in sign descent, Muon and Scion); ``"full"``: D also has the factor ``||u||_dual``,
            the minimiser of ``<u, D> + ||D||^2 / 2`` (as in gradient descent and PolarGrad).

    Raises:
        ValueError: an unknown length; a number of the group out of range.
    """

    norm: Norm = dataclasses.field(default_factory=MaxEntry)
    length: Literal["normalised", "full"] = "normalised"

    def __post_init__(self) -> None:
        choice(self, "length", ("normalised", "full"))

    def in_norm(self) -> Norm:
        return self.norm

    @property
    def norm_of_steps(self) -> Norm:
        return self.norm

    def with_norm(self, norm: Norm) -> Self:
        return self.replace(norm=norm)

    def check_shape(self, shape: torch.Size) -> None:
        self.norm.check(shape)

    def check_hyper(self, hyper: dict[str, Any]) -> None:
        if not number(hyper["radius"]) >= 0:
            raise ValueError(f"radius={hyper['radius']}: the size of the ball, a number of at least 0")

    @property
    def _by_entry(self) -> bool:
        """Whether the duality map takes each entry by itself."""
        return self.norm.elementwise and self.length == "normalised"

    def direction(self, coords: Tensor, averages: Averages, hyper: dict[str, Any], metric: Metric) -> Tensor:
        return self._dual(self._average(coords, averages, hyper), hyper)

    def toward(self, coords: Tensor, averages: Averages, hyper: dict[str, Any], metric: Metric) -> Tensor:
        u = self._average(coords, averages, hyper)
        return self._dual(u, hyper) if self._by_entry else u

    def mapped(self, toward: Tensor, averages: Averages, hyper: dict[str, Any], metric: Metric) -> Tensor:
        return toward if self._by_entry else self._dual(toward, hyper)

    def _average(self, coords: Tensor, averages: Averages, hyper: dict[str, Any]) -> Tensor:
        """u, not to be changed in place."""
        raise NotImplementedError

    def _dual(self, u: Tensor, hyper: dict[str, Any]) -> Tensor:
        radius = hyper["radius"]
        if self.length == "normalised":
            direction = self.norm.direction(u)
            return direction if radius == 1 else direction * radius
        direction, dual_norm = self.norm.dual(u)
        return direction * per_point(dual_norm * radius, direction)


@dataclasses.dataclass(frozen=True)
class Steepest(Dualized):
    """Momentum, then the duality map: ``m <- b m + (1 - b) g``, ``D = radius * dual(m)``.

    With ``nesterov``, ``D = radius * dual(b m + (1 - b) g)`` of the m just made. Under `MaxEntry` this is Signum, under
    `Spectral` Muon and Scion. Numbers of the group: ``momentum`` (b; 0 keeps no state), ``nesterov``, ``radius``.

    Args:
        norm: in which the step is steepest.
        length: ``"normalised"`` or ``"full"``.

    Raises:
        ValueError: an unknown length; a number of the group out of range.

    Source: arXiv:2409.20325.
    """

    def hyper(self) -> dict[str, Any]:
        return {"momentum": 0.9, "nesterov": False, "radius": 1.0}

    def variant(self, hyper: dict[str, Any]) -> bool:
        return number(hyper["momentum"]) != 0

    def check_hyper(self, hyper: dict[str, Any]) -> None:
        super().check_hyper(hyper)
        if not 0 <= number(hyper["momentum"]) < 1:
            raise ValueError(f"momentum={hyper['momentum']}: a number from 0 to less than 1")

    def averages(self, hyper: dict[str, Any]) -> dict[str, Kind]:
        return {"exp_avg": "linear"} if self.variant(hyper) else {}

    def elementwise(self, hyper: dict[str, Any]) -> bool:
        return self._by_entry

    def passes(self, hyper: dict[str, Any], ahead: Collection[str] = ()) -> tuple[Pass, ...]:
        return (self.direction,) if self.elementwise(hyper) else ()

    def _average(self, coords: Tensor, averages: Averages, hyper: dict[str, Any]) -> Tensor:
        momentum = hyper["momentum"]
        if not momentum:
            return coords
        exp_avg = averages.update("exp_avg", coords, momentum, 1 - momentum)
        return coords.lerp(exp_avg, momentum) if hyper["nesterov"] else exp_avg


@dataclasses.dataclass(frozen=True)
class Lion(Dualized):
    """Lion (arXiv:2302.06675), in any norm: ``D = radius * dual(b1 m + (1 - b1) g)``, then ``m <- b2 m + (1 - b2) g``.

    Under `MaxEntry`, whose duality map is the sign, it is Lion itself. Numbers of the group: ``betas``, ``radius``.

    Args:
        norm: in which the step is steepest.
        length: ``"normalised"`` or ``"full"``.

    Raises:
        ValueError: an unknown length; a number of the group out of range.
    """

    def hyper(self) -> dict[str, Any]:
        return {"betas": (0.9, 0.99), "radius": 1.0}

    def check_hyper(self, hyper: dict[str, Any]) -> None:
        super().check_hyper(hyper)
        if len(hyper["betas"]) != 2 or not all(0 <= number(beta) < 1 for beta in hyper["betas"]):
            raise ValueError(f"betas={hyper['betas']}: two numbers from 0 to less than 1")

    def averages(self, hyper: dict[str, Any]) -> dict[str, Kind]:
        return {"exp_avg": "linear"}

    def elementwise(self, hyper: dict[str, Any]) -> bool:
        return self._by_entry

    def passes(self, hyper: dict[str, Any], ahead: Collection[str] = ()) -> tuple[Pass, ...]:
        return (self.direction,) if self.elementwise(hyper) else ()

    def _average(self, coords: Tensor, averages: Averages, hyper: dict[str, Any]) -> Tensor:
        beta1, beta2 = hyper["betas"]
        u = averages.read("exp_avg").lerp(coords, 1 - beta1)
        averages.update("exp_avg", coords, beta2, 1 - beta2)
        return u
