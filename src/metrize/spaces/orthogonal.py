"""The orthogonal group."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from metrize.linalg import newton_schulz_polish, phi, skew
from metrize.linalg.polar import rank_deficient
from metrize.spaces.base import SpaceError
from metrize.spaces.stiefel import Stiefel


@dataclasses.dataclass(frozen=True)
class Orthogonal(Stiefel):
    """Orthogonal group ``O(n) = {Y : Y^T Y = I}`` of square matrices, or the rotations SO(n), ``det Y = 1``.

    The square case of `Stiefel`: coordinates are ``A = Y^T G - G^T Y`` alone, a step is ``Y' = Y R(A)``, and no step
    changes the sign of the determinant. It costs 3.3 products of n x n matrices.

    Args:
        rows: True: average the coordinates of ``Y^T`` instead, so that a step is ``Y' = R(A)^T Y``.
        blocks: treat the first matrix dimension as this many equal matrices stacked.
        retraction: ``"cayley"`` (one n x n solve) or ``"geodesic"`` (the exponential of the group).
        section: without effect, as a square point has no complement.
        polish_every: steps between two Newton-Schulz steps that remove rounding; 0 never polishes.
        special: a point is a rotation: `project_` goes to the nearest one, and a reflection is refused.

    Raises:
        ValueError: an unknown option or a number out of range.
        SpaceError: (when used) a tensor that is not a batch of square matrices.

    Source: arXiv:2305.16901.
    """

    special: bool = False

    def check_shape(self, shape: torch.Size) -> None:
        super().check_shape(shape)
        if len(set(self._matrix(shape))) != 1:
            raise SpaceError(f"a {self._block(shape)} matrix is not square; use Stiefel() or another number of blocks")

    def _travel_(self, points: Tensor, velocity: Tensor, section: Any, state: dict[str, Tensor]) -> None:
        if self.retraction == "geodesic":
            a = skew(velocity)
            points.add_(points @ (a @ phi(a)))  # e^A - I, without the 2n x 2n matrix of the tall case
        else:
            super()._travel_(points, velocity, section, state)

    def project(self, points: Tensor) -> Tensor:
        if not self.special:
            return super().project(points)
        u, _, vh = torch.linalg.svd(points)
        u[..., -1] *= torch.linalg.slogdet(u @ vh).sign.unsqueeze(-1)  # gives up the smallest singular value
        return newton_schulz_polish(u @ vh)

    def torn(self, points: Tensor) -> Tensor:
        return rank_deficient(points, 1 if self.special else 0)  # the determinant decides about the last one

    def error(self, points: Tensor) -> Tensor:
        """``||Y^T Y - I||_F``, and 2 more for a reflection where a rotation is asked for."""
        error = super().error(points)
        return error + 1 - torch.linalg.slogdet(points).sign if self.special else error
