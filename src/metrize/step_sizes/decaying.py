"""A learning rate that falls with the count of steps."""

from __future__ import annotations

import dataclasses
from typing import Any

from torch import Tensor

from metrize.step_sizes.base import StepSize
from metrize.step_sizes.given import Given


@dataclasses.dataclass(frozen=True)
class Decaying(StepSize):
    """The rate is ``lr / (1 + decay (t - 1))^power``, t the parameter's count of steps.

    ``lr / sqrt(t)`` is the rate of the regret bounds of AMSGrad and AdamNC (arXiv:1904.09237), and with a power of 1 it
    is the ``lr_decay`` of ``torch.optim.Adagrad``.

    Args:
        decay: how fast it falls; 0 leaves the learning rate as it is.
        power: of the time.

    Raises:
        ValueError: a number below 0.
    """

    decay: float = 1.0
    power: float = 0.5

    def __post_init__(self) -> None:
        if not (self.decay >= 0 and self.power >= 0):
            raise ValueError(f"{self}: decay and power are at least 0")

    @property
    def by_entry(self) -> bool:
        return True

    def rate(self, points: Tensor, state: dict[str, Tensor], hyper: dict[str, Any]) -> Tensor:
        return float(hyper["lr"]) / (1 + self.decay * (state["step"].double() - 1)) ** self.power


def falling(decay: float, power: float) -> StepSize:
    """The step size with these arguments; a learning rate that does not fall is `Given`."""
    return Decaying(decay, power) if decay and power else Given()
