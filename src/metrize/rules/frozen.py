"""Adam whose second moment is measured at the start and then kept."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import torch

from metrize.moments import Averages
from metrize.part import choice
from metrize.rules.adam import Adam
from metrize.rules.base import number


@dataclasses.dataclass(frozen=True)
class FrozenAdam(Adam):
    """Adam with a v that stays as it is after the first T steps, to see what adaptivity is for (arXiv:2407.07972).

    ``v <- (t v + g^2) / (t + 1)`` as long as ``t <= T``, and v then. It is not corrected for its start; as it begins at
    0, it is ``t / (t + 1)`` times a mean. m is as in Adam. The study takes the first T steps with lr 0, which is a
    matter of the schedule. Numbers of the group: ``betas``, ``eps``, ``freeze_after`` (T).

    Args:
        second_moment: as `Adam`.
        bias_correction: of m, as `Adam`.
        normalized: as `Adam`.
        nesterov: as `Adam`.
        amsgrad: as `Adam`.
        then: ``"frozen"``, or ``"averaged"``: after T steps v goes on as an average with b2.

    Raises:
        ValueError: an unknown option; a number of the group out of range.
    """

    then: Literal["frozen", "averaged"] = "frozen"

    def __post_init__(self) -> None:
        super().__post_init__()
        choice(self, "then", ("frozen", "averaged"))

    def hyper(self) -> dict[str, Any]:
        return {**super().hyper(), "freeze_after": 1000}

    def check_hyper(self, hyper: dict[str, Any]) -> None:
        super().check_hyper(hyper)
        if not number(hyper["freeze_after"]) >= 1:
            raise ValueError(f"freeze_after={hyper['freeze_after']}: a number of steps, at least 1")

    def gain(self, step: torch.Tensor, hyper: dict[str, Any]) -> float | torch.Tensor:
        return 1 / (1 - number(hyper["betas"][0]) ** step) if self.bias_correction == "step" else 1.0

    def kernel(self, decay: str, hyper: dict[str, Any]) -> None:
        return None

    def _decays(self, averages: Averages, hyper: dict[str, Any]) -> tuple[Any, Any]:
        beta1, beta2 = super()._decays(averages, hyper)
        step = averages.step
        later = torch.full_like(step, 1.0 if self.then == "frozen" else beta2)
        return beta1, torch.where(step <= number(hyper["freeze_after"]), step / (step + 1), later)

    def _biases(self, averages: Averages, beta1: Any, beta2: Any) -> tuple[Any, Any]:
        return super()._biases(averages, beta1, 0.0)  # 1 - 0^t: nothing to correct
