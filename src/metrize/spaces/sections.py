"""Sections: orthonormal complements Yp of a point Y, as operators.

A section maps a point to a rotation ``[Y, Yp]`` that takes the reference point to it. Lift and move need only
``Yp^T G`` (pull) and ``Yp B`` (push), so a section need not be a matrix.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from metrize.linalg import householder_signs


@dataclasses.dataclass(frozen=True)
class ClosedForm:
    """The complement as a function of the point: Householder's, in compact form.

    With ``Yb = Y diag(s)``, ``F = E + Yb`` and ``K`` its top block: ``Yp = [0; I] - F K^-T Yb_bot^T`` is orthonormal
    for every sign vector s with K invertible. Costs thin products only, and nothing is stored.
    """

    signed: Tensor
    lu: Tensor
    pivots: Tensor

    @classmethod
    def at(cls, y: Tensor) -> ClosedForm:
        """The section at points ``[..., N, n]`` with orthonormal columns."""
        n = y.shape[-1]
        signed = y * householder_signs(y[..., :n, :]).unsqueeze(-2)
        k = signed[..., :n, :].clone()
        k.diagonal(dim1=-2, dim2=-1).add_(1)
        lu, pivots, _ = torch.linalg.lu_factor_ex(k)
        return cls(signed, lu, pivots)

    def pull(self, g: Tensor) -> Tensor:
        """``Yp^T G``, ``[..., N - n, n]``."""
        n = self.signed.shape[-1]
        inner = torch.linalg.lu_solve(self.lu, self.pivots, g[..., :n, :] + self.signed.mT @ g)
        return g[..., n:, :] - self.signed[..., n:, :] @ inner

    def push(self, b: Tensor) -> Tensor:
        """``Yp B``, ``[..., N, n]``."""
        n = self.signed.shape[-1]
        inner = torch.linalg.lu_solve(self.lu, self.pivots, self.signed[..., n:, :].mT @ b, adjoint=True)
        pushed = (self.signed @ inner).neg_()
        pushed[..., :n, :] -= inner
        pushed[..., n:, :] += b
        return pushed


@dataclasses.dataclass(frozen=True)
class Stored:
    """A complement that is kept as a matrix and follows the point."""

    complement: Tensor

    def pull(self, g: Tensor) -> Tensor:
        """``Yp^T G``, ``[..., N - n, n]``."""
        return self.complement.mT @ g

    def push(self, b: Tensor) -> Tensor:
        """``Yp B``, ``[..., N, n]``."""
        return self.complement @ b


def dense_complement(y: Tensor) -> Tensor:
    """The closed-form complement as a matrix ``[..., N, N - n]``, the start of a transported section."""
    rows, n = y.shape[-2:]
    section = ClosedForm.at(y)
    lower = section.signed[..., n:, :].mT
    inner = torch.linalg.lu_solve(section.lu, section.pivots, lower, adjoint=True)
    complement = (section.signed @ inner).neg_()
    complement[..., :n, :] -= inner
    complement[..., n:, :] += torch.eye(rows - n, dtype=y.dtype, device=y.device)
    return complement


def random_complement(y: Tensor, generator: torch.Generator) -> Tensor:
    """A random complement ``[..., N, N - n]``, as the first versions of arXiv:2305.16901 drew one at every step."""
    rows, n = y.shape[-2:]
    gauss = torch.randn(*y.shape[:-2], rows, rows - n, generator=generator, dtype=torch.float64).to(y)
    for _ in range(2):  # once leaves errors of the size of the rounding times the condition number
        gauss = torch.linalg.qr(gauss - y @ (y.mT @ gauss))[0]
    return gauss
