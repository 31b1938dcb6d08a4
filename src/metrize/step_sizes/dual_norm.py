"""Full steepest descent of a whole model."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from metrize.norms import MaxEntry, Norm
from metrize.part import Spec, choice
from metrize.step_sizes.base import StepSize


@dataclasses.dataclass(frozen=True)
class DualNorm(StepSize):
    """The rate is ``lr * sum_k ||g_k||_dual``: one number for all tensors that are measured together.

    With normalised directions ``dual_l(g_l)`` it makes the minimiser of ``<g, d> + ||d||^2 / (2 lr)`` under the norm
    ``max_l ||d_l||_l`` of a whole model, in which the tensors are coupled by this one number alone (arXiv:2409.20325).
    For one tensor under `Frobenius` it is gradient descent.

    Args:
        norm: of each parameter; the same as that of the rule.
        over: ``"all"`` parameters with this step size, or each ``"group"``.

    Raises:
        ValueError: an unknown scope.
        SpaceError: (when used) a tensor that does not live in a vector space.
    """

    norm: Norm = dataclasses.field(default_factory=MaxEntry)
    over: Literal["all", "group"] = "all"

    flat_only: ClassVar[bool] = True
    sums: ClassVar[int] = 1

    def __post_init__(self) -> None:
        choice(self, "over", ("all", "group"))

    def check_shape(self, shape: torch.Size) -> None:
        self.norm.check(shape)

    @property
    def scope(self) -> str:
        return self.over

    @property
    def by_entry(self) -> bool:
        return self.norm.elementwise

    def state_spec(self, shape: torch.Size, dtype: torch.dtype) -> Spec:
        return {"dual_norm": ((), torch.float64)}

    def measure(self, grad: Tensor, points: Tensor, state: dict[str, Tensor], hyper: dict[str, Any]) -> Tensor:
        return self.norm.dual_norm(grad).double().sum().reshape(1)

    def receive(self, total: Tensor, state: dict[str, Tensor], hyper: dict[str, Any]) -> None:
        state["dual_norm"].copy_(total.expand_as(state["dual_norm"]))

    def rate(self, points: Tensor, state: dict[str, Tensor], hyper: dict[str, Any]) -> Tensor:
        return state["dual_norm"] * float(hyper["lr"])
