"""Steps of absurd length on a curved space."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

LONGEST = 64.0
"""Radians, ten times around: a longer velocity on a compact space says no more than its direction does."""


def frobenius(velocity: Tensor) -> Tensor:
    """Squared lengths of matrices ``[..., 1, 1]``."""
    return velocity.square().sum((-2, -1), keepdim=True)


def shortened(velocity: Tensor, longest: float = LONGEST, sq_norm: Callable[[Tensor], Tensor] = frobenius) -> Tensor:
    """Velocities of at most some length, in their own direction; shorter ones keep every bit.

    Beyond that, sines of large angles and solves with large blocks lose the digits that keep a point on its space.

    Args:
        velocity: ``[B, *batch, *point]``, which may be infinite.
        longest: the bound.
        sq_norm: squared lengths of the points, shaped to multiply them.
    """
    if velocity.device.type == "cpu" and float(torch.linalg.vector_norm(velocity)) <= longest / 2:
        return velocity  # of all points together: one read, where it waits for nothing
    finite = torch.nan_to_num(velocity, nan=float("nan"))
    scale = finite.abs().amax().clamp(min=1)  # squares must not overflow
    length = sq_norm(finite / scale).sqrt()
    return torch.where(length * scale <= longest, velocity, finite / scale * (longest / length))
