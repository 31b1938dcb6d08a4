"""Norms of a whole parameter, whatever its shape."""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar

import torch
from torch import Tensor

from metrize.linalg import in_rows, unit
from metrize.norms.base import Norm, check_eps, damped, widened


@dataclasses.dataclass(frozen=True)
class MaxEntry(Norm):
    """``max |a_ij|``, the norm l1 -> linf; direction ``sign(G)``, dual norm ``sum |g_ij|``.

    The geometry of sign descent, Lion and Adam. Of a diagonal map ``diag(a)``, as the gain of a normalisation layer is,
    it is the norm RMS -> RMS.

    Source: arXiv:2409.20325.
    """

    elementwise: ClassVar[bool] = True

    def dual(self, x: Tensor) -> tuple[Tensor, Tensor]:
        direction = MaxEntry.direction(self, x)  # those of a subclass may be made of its `dual`
        return direction, MaxEntry.dual_norm(self, x).to(direction.dtype)

    def direction(self, x: Tensor) -> Tensor:
        return (x if x.dtype == torch.float32 else widened(x)).sign()

    def dual_norm(self, x: Tensor) -> Tensor:
        return in_rows(widened(x)).abs().sum(-1).double().sum(-1)

    def norm(self, x: Tensor) -> Tensor:
        return torch.linalg.vector_norm(_flat(x), torch.inf, -1)


@dataclasses.dataclass(frozen=True)
class Frobenius(Norm):
    """``sqrt(sum a_ij^2)``; direction ``G / ||G||_F``, dual norm ``||G||_F``: the geometry of gradient descent."""

    def dual(self, x: Tensor) -> tuple[Tensor, Tensor]:
        direction, length = unit(_flat(x), -1)
        return direction.view(x.shape), length.squeeze(-1)

    def norm(self, x: Tensor) -> Tensor:
        return self.dual(x)[1]


@dataclasses.dataclass(frozen=True)
class RMS(Norm):
    """Root mean square ``||a||_2 / sqrt(k)`` of k entries; direction ``g / RMS(g)``, dual norm ``sqrt(k) ||g||_2``.

    For biases: the change of an output whose entries have size 1.

    Args:
        eps: added to the root mean square that the direction is divided by; above 0, tiny gradients make shorter steps.

    Raises:
        ValueError: a negative eps.

    Source: arXiv:2502.07529.
    """

    eps: float = 0.0

    def __post_init__(self) -> None:
        check_eps(self)

    def dual(self, x: Tensor) -> tuple[Tensor, Tensor]:
        direction, length = unit(_flat(x), -1)
        direction = damped(direction, length, self.eps, direction.shape[-1])
        return direction.mul_(_root_size(x)).view(x.shape), length.squeeze(-1) * _root_size(x)

    def norm(self, x: Tensor) -> Tensor:
        return Frobenius().norm(x) / _root_size(x)


def _flat(x: Tensor) -> Tensor:
    """``[B, entries]``."""
    return widened(x).reshape(len(x), -1)


def _root_size(x: Tensor) -> float:
    return math.sqrt(math.prod(x.shape[1:]))
