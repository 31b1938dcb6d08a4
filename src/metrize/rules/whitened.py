"""The gradient over the root of its mean square, averaged afterwards."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from metrize.moments import Averages, Kind
from metrize.norms import MaxEntry, Norm
from metrize.part import choice
from metrize.rules.base import Metric, Pass, Rule, number


@dataclasses.dataclass(frozen=True)
class Whitening(Rule, abstract=True):
    """What rules share that begin with ``U = g / sqrt(v)``, ``U <- U / max(1, RMS(U) / clip)``."""

    def in_norm(self) -> Norm:
        return MaxEntry()

    def direction(self, coords: Tensor, averages: Averages, hyper: dict[str, Any], metric: Metric) -> Tensor:
        direction = coords
        for work in self.passes(hyper):
            direction = work(coords, averages, hyper, metric)
        return direction

    def passes(self, hyper: dict[str, Any], ahead: Collection[str] = ()) -> tuple[Pass, ...]:
        if hyper["clip"] is not None:
            return (self._look, self._measure, self._finish)
        return (self._look, self._finish) if "exp_avg_sq" in ahead else (self._finish,)

    def variant(self, hyper: dict[str, Any]) -> Any:
        return hyper["clip"] is None

    def elementwise(self, hyper: dict[str, Any]) -> bool:
        return hyper["clip"] is None

    def revisits(self, hyper: dict[str, Any]) -> tuple[str, ...]:
        return () if hyper["clip"] is None else ("exp_avg_sq",)

    def _look(self, coords: Tensor, averages: Averages, hyper: dict[str, Any], metric: Metric) -> None:
        averages.observe("exp_avg_sq", coords, *self._weights(averages, hyper))

    def _measure(self, coords: Tensor, averages: Averages, hyper: dict[str, Any], metric: Metric) -> None:
        averages.add("update", metric.sq_norm(self._whiten(coords, averages, hyper)))

    def _finish(self, coords: Tensor, averages: Averages, hyper: dict[str, Any], metric: Metric) -> Any:
        """The rest of the rule, behind U."""
        raise NotImplementedError

    def _clipped(self, coords: Tensor, averages: Averages, hyper: dict[str, Any], metric: Metric) -> Tensor:
        """``U / max(1, RMS(U) / clip)``, a fresh tensor."""
        if hyper["clip"] is None:
            return self._whiten(coords, averages, hyper)

        def shrink() -> Tensor:
            excess = (averages.total("update") / metric.dim).sqrt() / number(hyper["clip"])
            return excess.clamp(min=1).reciprocal()

        return self._scaled(coords, averages, hyper, averages.once("update", shrink))

    def _whiten(self, coords: Tensor, averages: Averages, hyper: dict[str, Any]) -> Tensor:
        """``U = g / sqrt(v)``, a fresh tensor."""
        return self._scaled(coords, averages, hyper, 1.0)

    def _scaled(self, coords: Tensor, averages: Averages, hyper: dict[str, Any], scale: float | Tensor) -> Tensor:
        """``scale g / sqrt(v)``, a fresh tensor."""
        if not averages.observed("exp_avg_sq"):
            averages.observe("exp_avg_sq", coords, *self._weights(averages, hyper))
        return averages.whiten("exp_avg_sq", coords, *self._floor(coords, hyper), scale)

    def _floor(self, coords: Tensor, hyper: dict[str, Any]) -> tuple[float, bool]:
        """What keeps v away from 0, and whether it is a bound instead of a summand."""
        raise NotImplementedError

    def _weights(self, averages: Averages, hyper: dict[str, Any]) -> tuple[float | Tensor, float | Tensor]:
        """Decay and gain of v."""
        raise NotImplementedError

    def _check_clip(self, hyper: dict[str, Any]) -> None:
        if hyper["clip"] is not None and not number(hyper["clip"]) > 0:
            raise ValueError(f"clip={hyper['clip']}: a number above 0, or None")


@dataclasses.dataclass(frozen=True)
class Whitened(Whitening):
    """Divide by the root of v first, average then: Adafactor (arXiv:1804.04235), SM3 (arXiv:1901.11150).

    ``v <- b2_t v + (1 - b2_t) g^2``, ``U = g / sqrt(v + eps)``, ``U <- U / max(1, RMS(U) / clip)``,
    ``D = m <- b1 m + (1 - b1) U``. Nothing is corrected for its start. Numbers of the group: ``momentum`` (b1; 0 keeps
    no m, and D is U), ``clip`` (None: not clipped), ``eps``, and ``decay_rate`` where there is a schedule.

    Args:
        second_moment: ``"scheduled"``, with ``b2_t = 1 - t^decay_rate``, or the ``"sum"`` of all squares.
        floor: ``"added"`` as above, or ``"clamped"``: ``U = g / max(sqrt(v), eps)``. An eps of None is the machine
            epsilon of the arithmetic.

    Raises:
        ValueError: an unknown option; a number of the group out of range.
    """

    second_moment: Literal["scheduled", "sum"] = "scheduled"
    floor: Literal["added", "clamped"] = "added"

    fixed: ClassVar[tuple[str, ...]] = ("second_moment",)

    def __post_init__(self) -> None:
        choice(self, "second_moment", ("scheduled", "sum"))
        choice(self, "floor", ("added", "clamped"))

    optional: ClassVar[tuple[str, ...]] = ("clip", "eps")

    def hyper(self) -> dict[str, Any]:
        numbers: dict[str, Any] = {"momentum": 0.0, "clip": 1.0, "eps": 1e-30}
        return numbers if self.second_moment == "sum" else {**numbers, "decay_rate": -0.8}

    def variant(self, hyper: dict[str, Any]) -> tuple[bool, bool]:
        return number(hyper["momentum"]) != 0, hyper["clip"] is None

    def check_hyper(self, hyper: dict[str, Any]) -> None:
        self._check_clip(hyper)
        if not 0 <= number(hyper["momentum"]) < 1:
            raise ValueError(f"momentum={hyper['momentum']}: a number from 0 to less than 1")
        if hyper["eps"] is not None and not number(hyper["eps"]) > 0:
            raise ValueError(f"eps={hyper['eps']}: a number above 0, or None for the machine epsilon")
        if self.second_moment == "scheduled" and not number(hyper["decay_rate"]) <= 0:
            raise ValueError(f"decay_rate={hyper['decay_rate']}: a number of at most 0")

    def averages(self, hyper: dict[str, Any]) -> dict[str, Kind]:
        square: dict[str, Kind] = {"exp_avg_sq": "square"}
        return {"exp_avg": "linear", **square} if self.variant(hyper)[0] else square

    def _finish(self, coords: Tensor, averages: Averages, hyper: dict[str, Any], metric: Metric) -> Tensor:
        update = self._clipped(coords, averages, hyper, metric)
        momentum = number(hyper["momentum"])
        return averages.update("exp_avg", update, momentum, 1 - momentum) if momentum else update

    def _floor(self, coords: Tensor, hyper: dict[str, Any]) -> tuple[float, bool]:
        eps = torch.finfo(coords.dtype).eps if hyper["eps"] is None else number(hyper["eps"])
        floor = eps**2 if self.floor == "clamped" else eps
        return max(floor, torch.finfo(coords.dtype).tiny), self.floor == "clamped"  # 0 / 0 must be 0

    def _weights(self, averages: Averages, hyper: dict[str, Any]) -> tuple[float | Tensor, float | Tensor]:
        if self.second_moment == "sum":
            return 1.0, 1.0
        gain = averages.count ** number(hyper["decay_rate"])
        return 1 - gain, gain
