"""A gradient with reduced variance."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import torch
from torch import Tensor

from metrize.moments import Averages, Kind
from metrize.part import choice
from metrize.rules.around import Around
from metrize.rules.base import Metric, number, per_point


@dataclasses.dataclass(frozen=True)
class Mars(Around):
    """The rule sees the gradient and a share of its change (MARS, arXiv:2411.10438).

    ``c = g_t + gamma b1 / (1 - b1) (g_t - g_(t-1))``, ``c <- c / max(1, ||c||)`` for each point, with the b1 of the
    rule inside: its ``betas[0]`` or ``momentum``. This is the approximate form, which needs one gradient a step.
    Numbers of the group: ``gamma``, and those of the rule. ``gamma=0`` leaves the clipping.

    Args:
        rule: the rule inside.
        first: what comes before the first gradient: ``"zero"``, as in the authors' code, or ``"itself"``, so that the
            first c is g as it comes.

    Raises:
        ValueError: an unknown option; a negative gamma; a rule that averages nothing.
    """

    first: Literal["zero", "itself"] = "zero"

    def __post_init__(self) -> None:
        choice(self, "first", ("zero", "itself"))

    def hyper(self) -> dict[str, Any]:
        return {**super().hyper(), "gamma": 0.025}

    def check_hyper(self, hyper: dict[str, Any]) -> None:
        super().check_hyper(hyper)
        if not number(hyper["gamma"]) >= 0:
            raise ValueError(f"gamma={hyper['gamma']}: a number of at least 0")
        if not {"betas", "momentum"} & hyper.keys():
            raise ValueError(f"{self}: {self.rule} has neither betas nor momentum, of which gamma is a multiple")

    def averages(self, hyper: dict[str, Any]) -> dict[str, Kind]:
        return {**super().averages(hyper), "last_grad": "linear"}

    def prepare(self, coords: Tensor, averages: Averages, hyper: dict[str, Any], metric: Metric) -> Tensor:
        beta = number(hyper["betas"][0] if "betas" in hyper else hyper["momentum"])
        share = number(hyper["gamma"]) * beta / (1 - beta)
        corrected = coords + share * (coords - averages.read("last_grad"))
        averages.update("last_grad", coords, 0.0, 1.0)
        corrected = corrected / per_point(metric.sq_norm(corrected).sqrt().clamp(min=1), corrected)
        if self.first == "zero":
            return corrected
        return torch.where(per_point(averages.step == 1, coords).bool(), coords, corrected)
