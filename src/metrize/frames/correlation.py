"""COAP's loss of a basis, and its gradient in closed form."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor


@dataclasses.dataclass
class Correlation:
    """How well a subspace keeps a gradient and agrees with the running average of gradients.

    ``L = mean((G^ - G)^2) (1 - mean_i cos(M^_i, G_i))``, where ``G^ = P0 G P1`` with ``P = Q Q^T``, ``M^ = Q0 M Q1^T``
    is the average expanded, and i counts vectors along dimension 1. Nothing of the size of G is made but a scaled copy.

    Args:
        grad: G, ``[d0, d1, ...]``.
        kept: M, in the coordinates of the bases.
        bases: Q ``[d, r]`` of dimension 0, of dimension 1 or of both.
        normalize: divide the first factor by ``mean(G^2)``, so that L does not depend on the unit of the gradient.

    Source: arXiv:2412.00071, equation 5.
    """

    grad: Tensor
    kept: Tensor
    bases: dict[int, Tensor]
    normalize: bool

    def __post_init__(self) -> None:
        unit = self.grad.abs().amax()
        self._g = _three(self.grad / unit)
        self._m = _three(self.kept / self.kept.abs().amax().clamp(min=torch.finfo(self.kept.dtype).tiny))
        self._seen = {dim: _contract(self._g, {d: q for d, q in self.bases.items() if d != dim}) for dim in self.bases}
        self._a = _contract(self._g, self.bases)
        energy = self._g.square().sum()
        self._size = energy if self.normalize else self._g.numel() / unit.square()  # mean((G^ - G)^2) is error / size
        self._grams = {dim: q.mT @ q for dim, q in self.bases.items()}
        self._rebuilt = _contract(self._a, self._grams)
        self._error = ((self._rebuilt - 2 * self._a) * self._a).sum() + energy
        self._cosine, self._toward = self._along_rows() if 1 in self.bases else self._across_rows()

    def loss(self) -> Tensor:
        """L."""
        return self._error / self._size * (1 - self._cosine)

    def gradient(self) -> dict[int, Tensor]:
        """dL/dQ of each basis."""
        return {
            dim: (self._error_gradient(dim) * (1 - self._cosine) - self._error * self._toward[dim]) / self._size
            for dim in self.bases
        }

    def _error_gradient(self, dim: int) -> Tensor:
        """Of ``||G^ - G||^2 = <A, B0 A B1> - 2 ||A||^2 + ||G||^2``, with ``A = Q0^T G Q1`` and ``B = Q^T Q``."""
        partly = _contract(self._a, {d: b for d, b in self._grams.items() if d != dim})
        through_a = _paired(self._seen[dim], self._rebuilt - 2 * self._a, dim)
        return 2 * (through_a + self.bases[dim] @ _paired(self._a, partly, dim))

    def _along_rows(self) -> tuple[Tensor, dict[int, Tensor]]:
        """The mean cosine and its gradients where dimension 1 is projected: ``M^_i = Q1 n_i``."""
        n = _contract(self._m, {d: q.mT for d, q in self.bases.items() if d == 0})
        seen = self._seen.get(0, self._a)
        nb = _contract(n, {1: self._grams[1]})
        cosine, w, v = self._weights((n * seen).sum(1, keepdim=True), (n * nb).sum(1, keepdim=True))
        toward = {1: _paired(self._g, w * n, 1) - self.bases[1] @ _paired(n, v * n, 1)}
        if 0 in self.bases:
            toward[0] = _paired(w * seen - v * nb, self._m, 0)
        return cosine, toward

    def _across_rows(self) -> tuple[Tensor, dict[int, Tensor]]:
        """The same where only dimension 0 is projected: ``M^_i`` is row i of ``Q0 M``."""
        q = self.bases[0].unsqueeze(-1)
        gm = torch.einsum("oik,aik->oak", self._g, self._m)
        qmm = torch.einsum("oa,aik,cik->ock", self.bases[0], self._m, self._m)
        cosine, w, v = self._weights((q * gm).sum(1, keepdim=True), (q * qmm).sum(1, keepdim=True))
        return cosine, {0: (w * gm - v * qmm).sum(-1)}

    def _weights(self, products: Tensor, squares: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mean cosine, and the factors of ``d<M^_i, G_i>`` and ``d||M^_i||^2 / 2`` in its change; 0 for zero rows."""
        squares = squares.clamp(min=0)
        lengths = squares.sqrt() * self._g.square().sum(1, keepdim=True).sqrt()
        w = torch.where(lengths > 0, 1 / lengths, 0.0)
        cosines = products * w
        v = torch.where(squares > 0, cosines / squares, 0.0)
        return cosines.mean(), w / w.numel(), v / w.numel()


def _three(tensor: Tensor) -> Tensor:
    return tensor.reshape(*tensor.shape[:2], -1)


def _contract(tensor: Tensor, matrices: dict[int, Tensor]) -> Tensor:
    for dim, matrix in matrices.items():
        tensor = torch.einsum("oik,oa->aik" if dim == 0 else "oik,ib->obk", tensor, matrix)
    return tensor


def _paired(left: Tensor, right: Tensor, dim: int) -> Tensor:
    """Summed over all but one dimension: ``[x, i, k], [y, i, k] -> [x, y]``."""
    return torch.einsum("xik,yik->xy" if dim == 0 else "oxk,oyk->xy", left, right)
