"""Sections: orthonormal complements Yp of a point Y, as operators.

A section maps a point to a rotation ``[Y, Yp]`` that takes the reference point to it. Lift and move need only
``Yp^T G`` (pull) and ``Yp B`` (push), so a section need not be a matrix.
"""

from __future__ import annotations

import contextlib
import dataclasses

import torch
from torch import Tensor

from metrize.linalg import LinAlgError, addmm, all_finite, householder_signs
from metrize.spaces.solves import lu_factor

_LEAST_PIVOT = 0.25  # below it `householder_signs` changes a sign


@dataclasses.dataclass(frozen=True)
class ClosedForm:
    """The complement as a function of the point and of n signs: Householder's, in compact form.

    With ``Yb = Y diag(s)``, ``F = E + Yb`` and ``K`` its top block: ``Yp = [0; I] - F K^-T Yb_bot^T`` is orthonormal
    for every sign vector s with K invertible. Costs thin products only. No section is continuous on the whole
    manifold: signs are kept until K comes near singular, and `turn` takes coordinates along when one changes. Signs
    that were a function of the point alone, under averages that stayed, let momentum stall where a pivot hovered at
    its threshold, far from the optimum.

    Args:
        signs: ``[..., n]`` of -1 and +1.
        signed: ``Yb``, ``[..., N, n]``.
        inverse: ``K^-1``; K is so far from singular that nothing is lost by forming it.
        before: the section of the same points with the signs of the step before, where they changed.
    """

    signs: Tensor
    signed: Tensor
    inverse: Tensor
    before: ClosedForm | None = None

    @classmethod
    def at(cls, y: Tensor, signs: Tensor) -> ClosedForm:
        """The section at orthonormal ``[..., N, n]``, with these signs ``[..., n]`` where they serve."""
        kept, serve = cls.with_signs(y, signs)
        if serve:
            return kept
        changes = householder_signs(kept.signed[..., : y.shape[-1], :])
        if y.device.type == "cpu" and not (changes < 0).any():  # elsewhere the question would wait for the device
            return kept
        return dataclasses.replace(cls.with_signs(y, signs * changes)[0], before=kept)

    @classmethod
    def with_signs(cls, y: Tensor, signs: Tensor) -> tuple[ClosedForm, bool]:
        """The section at points ``[..., N, n]`` with just these signs, and whether the host saw that all serve."""
        n, host = y.shape[-1], y.device.type == "cpu"
        # the host sees at a glance that nothing is to be done
        signed = y if host and bool((signs > 0).all()) else y * signs.unsqueeze(-2)
        k = signed[..., :n, :].clone()
        k.diagonal(dim1=-2, dim2=-1).add_(1)
        lu, rows = lu_factor(k)
        inverse = torch.linalg.lu_solve(lu, rows, torch.eye(n, dtype=y.dtype, device=y.device).expand_as(k))
        return cls(signs, signed, inverse), host and _no_sign_changes(lu, rows)

    def turn(self, coords: Tensor) -> Tensor:
        """Coordinates ``[A; B]`` in terms of `before` -> the same tangent vector in terms of this section.

        The K of `before` may be so near singular that nothing can be said; such coordinates stay as they are, as do
        those of points whose signs did not change, to the last bit.
        """
        assert self.before is not None
        n = self.signed.shape[-1]
        old = coords[..., n:, :]
        new = self.pull(self.before.push(old))
        sizes = torch.linalg.matrix_norm(torch.stack([old, new]), keepdim=True)
        isometric = (sizes[1] - sizes[0]).abs() <= 1e-2 * sizes[0]
        changed = (self.signs != self.before.signs).any(-1)[..., None, None]
        return torch.cat([coords[..., :n, :], torch.where(isometric & changed, new, old)], -2)

    def pull(self, g: Tensor, out: Tensor | None = None) -> Tensor:
        """``Yp^T G``, ``[..., N - n, n]``, written to `out` if given."""
        n = self.signed.shape[-1]
        inner = self.inverse @ addmm(g[..., :n, :], self.signed.mT, g)
        product = self.signed[..., n:, :] @ inner
        return torch.sub(g[..., n:, :], product, out=product if out is None else out)

    def push(self, b: Tensor) -> Tensor:
        """``Yp B``, ``[..., N, n]``."""
        n = self.signed.shape[-1]
        inner = (self.inverse.mT @ (self.signed[..., n:, :].mT @ b)).neg_()
        pushed = self.signed @ inner
        pushed[..., :n, :] += inner
        pushed[..., n:, :] += b
        return pushed


def _no_sign_changes(lu: Tensor, rows: Tensor) -> bool:
    """Whether elimination exchanged no rows, so that these are the pivots `householder_signs` looks at, all kept."""
    in_order = torch.arange(1, lu.shape[-1] + 1, dtype=rows.dtype)
    return bool((lu.diagonal(dim1=-2, dim2=-1) >= _LEAST_PIVOT).all()) and bool((rows == in_order).all())


@dataclasses.dataclass(frozen=True)
class Stored:
    """A complement that is kept as a matrix and follows the point."""

    complement: Tensor

    def pull(self, g: Tensor, out: Tensor | None = None) -> Tensor:
        """``Yp^T G``, ``[..., N - n, n]``, written to `out` if given."""
        return torch.matmul(self.complement.mT, g, out=out)

    def push(self, b: Tensor) -> Tensor:
        """``Yp B``, ``[..., N, n]``."""
        return self.complement @ b


def dense_complement(y: Tensor) -> Tensor:
    """The closed-form complement as a matrix ``[..., N, N - n]``, the start of a transported section."""
    rows, n = y.shape[-2:]
    section = ClosedForm.at(y, y.new_ones(n))
    lower = section.signed[..., n:, :].mT
    inner = section.inverse.mT @ lower
    complement = (section.signed @ inner).neg_()
    complement[..., :n, :] -= inner
    complement[..., n:, :] += torch.eye(rows - n, dtype=y.dtype, device=y.device)
    return complement


def random_complement(y: Tensor, generator: torch.Generator) -> Tensor:
    """A random complement ``[..., N, N - n]``, as the first versions of arXiv:2305.16901 drew one at every step.

    Where the decomposition fails, the closed-form one takes its place: any complement will do.
    """
    rows, n = y.shape[-2:]
    gauss = torch.randn(*y.shape[:-2], rows, rows - n, generator=generator, dtype=torch.float64).to(y)
    with contextlib.suppress(LinAlgError):
        for _ in range(2):  # once leaves errors of the size of the rounding times the condition number
            gauss = torch.linalg.qr(gauss - y @ (y.mT @ gauss))[0]
        if all_finite([gauss]):
            return gauss
    return dense_complement(y)
