"""Symplectic matrices: ``U^T J U = J`` with ``J = [[0, I], [-I, 0]]``, positions above momenta.

The adjoint ``X^+ = J^T X^T J`` plays the part that the transpose plays for orthonormal columns: ``U^+ U = I``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from metrize.linalg.polar import polar

_STEPS = 12  # of Newton's iteration: each squares the error, and 0.95 is 1e-16 after nine


def quarters(x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The blocks a, b, c, d of ``X = [[a, b], [c, d]]``, equal in size, as views."""
    top, bottom = x.tensor_split(2, -2)
    (a, b), (c, d) = top.tensor_split(2, -1), bottom.tensor_split(2, -1)
    return a, b, c, d


def from_quarters(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    """``[[a, b], [c, d]]``."""
    return torch.cat([torch.cat([a, b], -1), torch.cat([c, d], -1)], -2)


def adjoint(x: Tensor) -> Tensor:
    """``X^+ = J^T X^T J``, ``[..., 2n, 2N]`` for ``[..., 2N, 2n]``."""
    a, b, c, d = quarters(x)
    return from_quarters(d.mT, -b.mT, -c.mT, a.mT)


def times_j(x: Tensor) -> Tensor:
    """``J X``."""
    positions, momenta = x.tensor_split(2, -2)
    return torch.cat([momenta, -positions], -2)


def hamiltonian(x: Tensor) -> Tensor:
    """The nearest Hamiltonian matrix ``(X - X^+) / 2``; one that is Hamiltonian keeps every bit."""
    return (x - adjoint(x)) / 2


def symplectic_residual(u: Tensor) -> Tensor:
    """``I - U^+ U`` for ``[..., 2N, 2n]``."""
    gram = (adjoint(u) @ u).neg_()
    gram.diagonal(dim1=-2, dim2=-1).add_(1)
    return gram


def symplectic_polish(u: Tensor) -> Tensor:
    """One Newton step ``U + U (I - U^+ U) / 2``: squares the distance of a nearly symplectic U from being so.

    Args:
        u: ``[..., 2N, 2n]`` with ``||U^+ U - I|| < 1``.
    """
    return u + u @ symplectic_residual(u).mul_(0.5)


def symplectic_polar(x: Tensor) -> Tensor:
    """The symplectic factor ``X (X^+ X)^(-1/2)``, by Newton's iteration.

    Args:
        x: ``[..., 2N, 2n]`` with ``||X^+ X - I|| < 0.95``; for others it may diverge.
    """
    for _ in range(_STEPS):
        x = symplectic_polish(x)
    return x


def complex_part(x: Tensor) -> Tensor:
    """The matrix ``A + i C``, twice, of the nearest ``[[A, -C], [C, A]]``: ``[..., N, n]`` for ``[..., 2N, 2n]``."""
    a, b, c, d = quarters(x)
    return torch.complex(a + d, c - b)


def orthosymplectic_polar(x: Tensor) -> Tensor:
    """The nearest matrix that is symplectic and has orthonormal columns, ``[[A, -C], [C, A]]``.

    Such matrices are the complex matrices ``A + i C`` with orthonormal columns, so a complex polar factor finds it.

    Args:
        x: ``[..., 2N, 2n]``.
    """
    z = polar(complex_part(x))
    return symplectic_polish(from_quarters(z.real, -z.imag, z.imag, z.real))


def symplectic_complement(u: Tensor, toward: Tensor) -> Tensor:
    """Up with ``[U, Up]`` (columns reordered) symplectic, of the least Frobenius norm there is.

    With Q an orthonormal basis of the orthogonal complement of U, ``J Q`` spans its symplectic one. In the plane of
    each pair of eigenvectors of the skew form ``Q^T J Q``, with eigenvalues ``+- i s``, division by ``sqrt(s)`` makes
    it symplectic. So ``||Up||_2 <= ||U||_2``: the section is about as well conditioned as its point, and
    orthosymplectic where that is.

    Args:
        u: ``[..., 2N, 2n]`` symplectic, N > n.
        toward: ``[..., 2N, 2(N - n)]``; of all Up of that norm, the one with columns nearest to these.
    """
    columns = u.shape[-1]
    q = torch.linalg.qr(u, mode="complete")[0][..., columns:]
    basis = times_j(q)
    form = q.mT @ basis
    values, vectors = torch.linalg.eigh(torch.complex(torch.zeros_like(form), form))
    half = form.shape[-1] // 2  # eigenvalues come as -s and s, in ascending order
    pairs = vectors[..., half:] * (2 / values[..., half:]).sqrt().unsqueeze(-2)
    complement = basis @ torch.cat([pairs.imag, pairs.real], -1)
    complement = complement @ orthosymplectic_polar(complement.mT @ toward)
    return symplectic_polish(complement - u @ (adjoint(u) @ complement))


def condition(parts: list[Tensor]) -> Tensor:
    """The condition number of a symplectic matrix, ``[...]``: the square of its largest singular value.

    Args:
        parts: its columns in pieces, ``[..., 2N, m]`` each.
    """
    return torch.linalg.matrix_norm(torch.cat(parts, -1), ord=2).square()


def condition_bound(parts: list[Tensor]) -> Tensor:
    """A bound of `condition` that takes no singular values.

    They come in pairs ``s, 1 / s``, so that the largest has ``s^2 + s^-2 <= ||L||_F^2 - 2 (N - 1)``.
    """
    square = torch.stack([part.square().sum((-2, -1)) for part in parts]).sum(0)
    pair = (square - (parts[0].shape[-2] - 2)).clamp(min=2)
    return (pair + (pair.square() - 4).sqrt()) / 2
