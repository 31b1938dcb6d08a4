"""The Grassmann manifold."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from metrize.spaces.base import SpaceError
from metrize.spaces.orthonormal import Orthonormal
from metrize.spaces.retractions import HORIZONTAL, Drag


@dataclasses.dataclass(frozen=True)
class Grassmann(Orthonormal):
    """Grassmann manifold ``Gr(n, N)`` of n-dimensional subspaces of R^N, each given by an orthonormal basis Y.

    It assumes that the loss knows the subspace only, ``f(Y Q) = f(Y)`` for every orthogonal n x n matrix Q: whatever
    would turn Y within its span is no part of the gradient here. A weight behind which anything tells its columns
    apart (a bias, a softmax, an elementwise nonlinearity) belongs on `Stiefel`. The metric is ``tr(D^T D)`` on
    horizontal D (``Y^T D = 0``), the gradient ``G - Y Y^T G``, and its lift ``A = 0``, ``B = Yp^T G``. Coordinates
    keep the shape of Y, with zeros for A. Compare points by their projectors ``Y Y^T``.

    Args:
        rows: as for `Stiefel`: True: the rows of each matrix are the basis; False: its columns; None: whichever is
            shorter.
        blocks: treat the first matrix dimension as this many equal matrices stacked.
        retraction: ``"cayley"`` (one n x n solve) or ``"geodesic"`` (one n x n eigendecomposition).
        section: how Yp is chosen: ``"closed-form"``, ``"transported"`` or ``"redrawn"``, as for `Stiefel`.
        polish_every: steps between two Newton-Schulz steps that remove rounding; 0 never polishes.

    Raises:
        ValueError: an unknown option or a number out of range.
        SpaceError: (when used) a tensor that is not a batch of such matrices, or of square ones, whose span is always
            the whole space.

    Source: arXiv:2305.16901; increment form and closed-form section are ours.
    """

    def check_shape(self, shape: torch.Size) -> None:
        super().check_shape(shape)
        if len(set(self._matrix(shape))) == 1:
            raise SpaceError(
                f"the columns of a square {self._block(shape)} matrix span the whole space, so that its Grassmann "
                "manifold is a single point and nothing could be trained; use Stiefel() or Orthogonal()"
            )

    def dim(self, shape: torch.Size) -> int:
        rows, n = self._matrix(shape)
        return (rows - n) * n

    def lift(self, points: Tensor, grad: Tensor, section: Any) -> Tensor:
        coords, n = torch.empty_like(grad), grad.shape[-1]
        coords[..., :n, :].zero_()
        section.pull(grad, out=coords[..., n:, :])
        return coords

    def sq_norm(self, coords: Tensor) -> Tensor:
        return coords[..., coords.shape[-1] :, :].square().sum((-2, -1))

    def _inner_at(self, y: Tensor, u: Tensor, v: Tensor) -> Tensor:
        return (u * v).sum((-2, -1))

    def _tangent_at(self, y: Tensor, v: Tensor) -> Tensor:
        return v - y @ (y.mT @ v)

    def _retract(self, y: Tensor, pushed: Tensor | None, a: Tensor, b: Tensor | None) -> tuple[Tensor, Drag]:
        assert pushed is not None  # no point is square
        assert b is not None
        return HORIZONTAL[self.retraction](y, pushed, b)
