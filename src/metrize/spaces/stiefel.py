"""The Stiefel manifold."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from metrize.spaces.orthonormal import Orthonormal


@dataclasses.dataclass(frozen=True)
class Stiefel(Orthonormal):
    """Stiefel manifold ``St(n, N) = {Y : Y^T Y = I}`` with the canonical metric ``tr(D^T (I - Y Y^T / 2) D)``.

    The gradient G is lifted straight into the fixed space ``g_hor`` of matrices ``[[A, -B^T], [B, 0]]``:
    ``A = Y^T G - G^T Y``, ``B = Yp^T G``. Averages are kept there, and need no transport; A (skew, n x n)
    above B ((N - n) x n) has the shape of Y. Square points have no B, points with n = 1 no A.

    Args:
        rows: True: the rows of each matrix are orthonormal (``Y Y^T = I``); False: its columns; None: whichever is
            shorter (columns, where the matrix is square).
        blocks: treat the first matrix dimension as this many equal matrices stacked, as in a fused attention weight.
        retraction: ``"cayley"`` (one n x n solve) or ``"geodesic"`` (the exponential of the group).
        section: how Yp is chosen. ``"closed-form"``: computed from Y and n kept signs. ``"transported"``: an
            ``N x (N - n)`` matrix that follows Y, as in the paper's third version. ``"redrawn"``: a new random one
            at every step, only to reproduce the paper's first versions.
        polish_every: steps between two Newton-Schulz steps that remove rounding; 0 never polishes.

    Raises:
        ValueError: an unknown option or a number out of range.
        SpaceError: (when used) a tensor that is not a batch of such matrices.

    Source: arXiv:2305.16901; increment form and closed-form section are ours.
    """

    def dim(self, shape: torch.Size) -> int:
        rows, n = self._matrix(shape)
        return n * (n - 1) // 2 + (rows - n) * n

    def lift(self, points: Tensor, grad: Tensor, section: Any) -> Tensor:
        a = points.mT @ grad
        a = a - a.mT
        return a if section is None else torch.cat([a, section.pull(grad)], -2)

    def sq_norm(self, coords: Tensor) -> Tensor:
        n = coords.shape[-1]
        squares = coords.square()
        return squares[..., n:, :].sum((-2, -1)) + squares[..., :n, :].sum((-2, -1)) / 2

    def _inner_at(self, y: Tensor, u: Tensor, v: Tensor) -> Tensor:
        return (u * v).sum((-2, -1)) - ((y.mT @ u) * (y.mT @ v)).sum((-2, -1)) / 2
