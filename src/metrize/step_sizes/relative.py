"""Adafactor's relative step size."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import torch
from torch import Tensor

from metrize.linalg import alongside
from metrize.part import choice
from metrize.step_sizes.base import StepSize

_PIECE = 2**18


@dataclasses.dataclass(frozen=True)
class Relative(StepSize):
    """The step relative to the parameter's size (Adafactor, arXiv:1804.04235).

    The rate is ``rho_t max(least, RMS(p))``, with ``rho_t = min(lr, 1 / sqrt(t))``, t the parameter's count of steps.

    Args:
        schedule: of rho: ``"capped"`` as above; ``"warmup"``, ``min(1e-6 t, 1 / sqrt(t))``, which of lr knows only
            that 0 is no step; ``"given"``, lr alone.
        scaled_by_parameter: False leaves out the factor ``max(least, RMS(p))``.
        least: where the parameter is small, or zero.

    Raises:
        ValueError: an unknown schedule, or a number out of range.
    """

    schedule: Literal["capped", "warmup", "given"] = "capped"
    scaled_by_parameter: bool = True
    least: float = 1e-3

    def __post_init__(self) -> None:
        choice(self, "schedule", ("capped", "warmup", "given"))
        if not self.least > 0:
            raise ValueError(f"Relative(least={self.least}): a number above 0")

    @property
    def piecewise(self) -> bool:
        return True

    def rate(self, points: Tensor, state: dict[str, Tensor], hyper: dict[str, Any]) -> Tensor:
        rho = self._rho(state["step"].double(), float(hyper["lr"]))
        if not self.scaled_by_parameter:
            return rho
        wide = torch.promote_types(points.dtype, torch.float32)
        # 16-bit numbers are widened before they are summed
        rows = points.reshape(len(points), -1)
        parts = torch.split(rows, _PIECE, 1) if points.device.type == "cpu" else [rows]
        norms = [torch.linalg.vector_norm(part, dim=1, dtype=wide) for part in parts]
        norm = torch.linalg.vector_norm(torch.stack(norms), dim=0)
        return alongside(rho, norm) * (norm / max(1, points[0].numel()) ** 0.5).clamp(min=self.least)

    def _rho(self, step: Tensor, lr: float) -> Tensor:
        if self.schedule == "given" or lr == 0:
            return torch.full_like(step, lr)
        cap = torch.full_like(step, lr) if self.schedule == "capped" else 1e-6 * step
        return torch.minimum(cap, step.rsqrt())
