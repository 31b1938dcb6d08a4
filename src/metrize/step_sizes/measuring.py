"""What step sizes share that measure all tensors together, each in a norm."""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Literal, Self

import torch

from metrize.norms import MaxEntry, Norm
from metrize.part import choice
from metrize.step_sizes.base import StepSize


@dataclasses.dataclass(frozen=True)
class Measuring(StepSize, abstract=True):
    """A step size that depends on a sum of norms over many tensors.

    Args:
        norm: of each parameter; None: that of the recipe's rule, and `MaxEntry` where the rule is not in a norm.
        over: ``"all"`` parameters with this step size, or each ``"group"``.

    Raises:
        ValueError: an unknown scope.
        SpaceError: (when used) a tensor that does not live in a vector space.
    """

    norm: Norm | None = None
    over: Literal["all", "group"] = "all"

    flat_only: ClassVar[bool] = True

    def __post_init__(self) -> None:
        choice(self, "over", ("all", "group"))

    def beside(self, norm: Norm | None) -> Self:
        return self if self.norm is not None else self.replace(norm=norm or MaxEntry())

    @property
    def measured_in(self) -> Norm:
        return self.norm or MaxEntry()

    @property
    def scope(self) -> str:
        return self.over

    @property
    def by_entry(self) -> bool:
        return self.measured_in.elementwise

    def check_shape(self, shape: torch.Size) -> None:
        self.measured_in.check(shape)
