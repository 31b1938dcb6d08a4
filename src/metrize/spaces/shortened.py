"""Steps of absurd length on a curved space."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

LONGEST = 64.0
"""Radians, ten times around: a longer velocity on a compact space says no more than its direction does."""


def sq_reach(velocity: Tensor) -> Tensor:
    """About the square of the largest angle of velocities ``[..., N, n]``: ``||V^T V||_F``, ``[..., 1, 1]``.

    Not less than that of the largest singular value, and near it where that one stands out; small, unlike the squared
    length, where many directions turn by little.
    """
    return torch.linalg.matrix_norm(velocity.mT @ velocity, keepdim=True)


def shortened(
    velocity: Tensor,
    longest: float = LONGEST,
    sq_norm: Callable[[Tensor], Tensor] = sq_reach,
    axes: tuple[int, ...] = (-2, -1),
) -> Tensor:
    """Velocities of at most some length, in their own direction; shorter ones keep every bit.

    Beyond that, sines of large angles and solves with large blocks lose the digits that keep a point on its space.

    Args:
        velocity: ``[B, *batch, *point]``, which may be infinite.
        longest: the bound.
        sq_norm: squared lengths of the points, not above those of Frobenius' norm, shaped to multiply them.
        axes: the dimensions of one point.
    """
    if velocity.device.type == "cpu" and float(torch.linalg.vector_norm(velocity)) <= longest / 2:
        return velocity  # of all points together: one read, where it waits for nothing
    finite = torch.nan_to_num(velocity, nan=float("nan"))
    scale = finite.abs().amax(axes, keepdim=True).clamp(min=1)  # squares must not overflow
    length = sq_norm(finite / scale).sqrt()
    return torch.where(length * scale <= longest, velocity, finite / scale * (longest / length))
