"""Full steepest descent of a whole model."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import torch
from torch import Tensor

from metrize.part import Spec
from metrize.step_sizes.measuring import Measuring


@dataclasses.dataclass(frozen=True)
class DualNorm(Measuring):
    """The rate is ``lr * sum_k ||g_k||_dual``: one number for all tensors that are measured together.

    With normalised directions ``dual_l(g_l)`` it makes the minimiser of ``<g, d> + ||d||^2 / (2 lr)`` under the norm
    ``max_l ||d_l||_l`` of a whole model, in which the tensors are coupled by this one number alone (arXiv:2409.20325).
    For one tensor under `Frobenius` it is gradient descent.

    Args:
        norm: of each parameter; None: that of the recipe's rule, and `MaxEntry` where the rule is not in a norm.
        over: ``"all"`` parameters with this step size, or each ``"group"``.

    Raises:
        ValueError: an unknown scope.
        SpaceError: (when used) a tensor that does not live in a vector space.
    """

    sums: ClassVar[int] = 1

    def state_spec(self, shape: torch.Size, dtype: torch.dtype) -> Spec:
        return {"dual_norm": ((), torch.float64)}

    def measure(self, grad: Tensor, points: Tensor, state: dict[str, Tensor], hyper: dict[str, Any]) -> Tensor:
        return self.measured_in.dual_norm(grad).double().sum().reshape(1)

    def receive(self, total: Tensor, state: dict[str, Tensor], hyper: dict[str, Any]) -> None:
        state["dual_norm"].copy_(total.expand_as(state["dual_norm"]))

    def rate(self, points: Tensor, state: dict[str, Tensor], hyper: dict[str, Any]) -> Tensor:
        return state["dual_norm"] * float(hyper["lr"])
