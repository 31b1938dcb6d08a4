"""The plain case."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, ClassVar

import torch
from torch import Tensor

from metrize.spaces.base import Space


@dataclasses.dataclass(frozen=True)
class Vector(Space):
    """Vector space: the lift is the identity, a move is an addition, every tensor is a point."""

    flat: ClassVar[bool] = True

    def check_shape(self, shape: torch.Size) -> None:
        pass

    def batch_shape(self, shape: torch.Size) -> tuple[int, ...]:
        return ()

    def dim(self, shape: torch.Size) -> int:
        return math.prod(shape)

    def points(self, stack: Tensor) -> Tensor:
        return stack

    def lift(self, points: Tensor, grad: Tensor, section: Any) -> Tensor:
        return grad

    def move_(self, points: Tensor, velocity: Tensor, section: Any, state: dict[str, Tensor]) -> None:
        points.add_(velocity)

    def sq_norm(self, coords: Tensor) -> Tensor:
        return torch.linalg.vector_norm(coords.flatten(1), dim=1).square() if coords.ndim > 1 else coords.square()

    def project(self, points: Tensor) -> Tensor:
        return points

    def error(self, points: Tensor) -> Tensor:
        return points.new_zeros(points.shape[0])

    def tensors(self, points: Tensor) -> Tensor:
        return points

    def _inner_at(self, y: Tensor, u: Tensor, v: Tensor) -> Tensor:
        return (u * v.conj()).real.flatten(1).sum(1) if v.is_complex() else (u * v).flatten(1).sum(1)

    def _dist_at(self, y: Tensor, z: Tensor) -> Tensor:
        return torch.linalg.vector_norm((z - y).flatten(1), dim=1)

    def _tangent_at(self, y: Tensor, v: Tensor) -> Tensor:
        return v

    def _exp_at(self, y: Tensor, v: Tensor) -> Tensor:
        return y + v

    def _log_at(self, y: Tensor, z: Tensor) -> Tensor:
        return z - y

    def _transport_at(self, y: Tensor, z: Tensor, v: Tensor) -> Tensor:
        return v
