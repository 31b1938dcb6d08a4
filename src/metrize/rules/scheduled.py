"""Adam with decays that change from step to step."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

from metrize.moments import Averages, Kind
from metrize.rules.adam import Adam
from metrize.rules.base import number


@dataclasses.dataclass(frozen=True)
class ScheduledAdam(Adam):
    """Adam with ``b1_t = momentum growth_rate^(t-1)`` and ``b2_t = 1 - t^decay_rate`` (SMMF, arXiv:2412.08894).

    ``D = m / (sqrt(v) + eps)``: v starts as the first square, as b2_1 = 0, and nothing is corrected. Numbers of the
    group: ``momentum`` (0 keeps no first moment, and m is g), ``growth_rate``, ``decay_rate``, ``eps``.

    Args:
        second_moment: as `Adam`.
        bias_correction: as `Adam`, but not ``"step"``.

    Raises:
        ValueError: an unknown option; a number of the group out of range.
    """

    bias_correction: bool | Literal["step"] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.bias_correction == "step":
            raise ValueError(f"{self}: bias_correction='step' is about betas that stay; True or False")

    def hyper(self) -> dict[str, Any]:
        return {"momentum": 0.9, "growth_rate": 0.999, "decay_rate": -0.5, "eps": 1e-8}

    def variant(self, hyper: dict[str, Any]) -> bool:
        return number(hyper["momentum"]) != 0

    def check_hyper(self, hyper: dict[str, Any]) -> None:
        if not 0 <= number(hyper["momentum"]) < 1:
            raise ValueError(f"momentum={hyper['momentum']}: a number from 0 to less than 1")
        if not 0 < number(hyper["growth_rate"]) <= 1:
            raise ValueError(f"growth_rate={hyper['growth_rate']}: a number above 0 and at most 1")
        if not -1 <= number(hyper["decay_rate"]) <= 0:
            raise ValueError(f"decay_rate={hyper['decay_rate']}: a number from -1 to 0")
        if not number(hyper["eps"]) >= 0:
            raise ValueError(f"eps={hyper['eps']}: a number of at least 0")

    def averages(self, hyper: dict[str, Any]) -> dict[str, Kind]:
        both = super().averages(hyper)
        return both if self.variant(hyper) else {name: kind for name, kind in both.items() if name != "exp_avg"}

    def kernel(self, decay: str, hyper: dict[str, Any]) -> None:
        return None

    def _decays(self, averages: Averages, hyper: dict[str, Any]) -> tuple[Any, Any]:
        step, momentum = averages.count, number(hyper["momentum"])
        first = momentum * number(hyper["growth_rate"]) ** (step - 1) if momentum else None
        return first, 1 - step ** number(hyper["decay_rate"])
