"""Bases made of a gradient: leading singular vectors, exactly or by a sketch, and random ones."""

from __future__ import annotations

import torch
from torch import Tensor

_SWEEPS = 100
_TOLERANCE = 1e-4  # change of the relative error at which the sweeps end


def leading(grad: Tensor, rank: int, dims: list[int]) -> dict[int, Tensor]:
    """The first singular vectors of a matrix, ``[d, r]`` for each dimension wanted, by a full decomposition."""
    u, _, vh = torch.linalg.svd(_scaled(grad), full_matrices=False)
    vectors = {0: u, 1: vh.mT}
    return {dim: vectors[dim][:, :rank] for dim in dims}


def sketched(grad: Tensor, dim: int, start: Tensor) -> Tensor:
    """About the first singular vectors of one dimension of a matrix, from where `start` points.

    ``Y = G W``, ``P = qr(Y)``, then the singular vectors of ``P^T G``, which lie in the range of ``G^T P``: a power
    step and a small eigenproblem (arXiv:0909.4061). Started with the basis before, it follows a subspace that moves
    slowly.

    Args:
        grad: ``[m, n]``.
        dim: whose vectors are wanted.
        start: W, ``[d, r]``.
    """
    wide = _scaled(grad if dim == 1 else grad.mT)
    range_, _ = torch.linalg.qr(wide @ start)
    basis, r = torch.linalg.qr(wide.mT @ range_)
    _, vectors = torch.linalg.eigh(r @ r.mT)
    return basis @ vectors.flip(-1)


def tucker(grad: Tensor, ranks: dict[int, int]) -> dict[int, Tensor]:
    """Orthonormal factors of the first dimensions that keep the most of a tensor: higher-order orthogonal iteration.

    Starts with the singular vectors of each unfolding, then improves one factor with the others applied, until the
    relative error changes by less than 1e-4, at most 100 times.

    Args:
        grad: ``[d0, d1, ...]``.
        ranks: of the dimensions wanted.

    Source: De Lathauwer, De Moor and Vandewalle 2000, SIAM J. Matrix Anal. Appl. 21(4).
    """
    grad = _scaled(grad)
    total = grad.norm()
    factors = {dim: _unfolded_vectors(grad, dim, rank) for dim, rank in ranks.items()}
    errors: list[float] = []
    for _ in range(_SWEEPS):
        for dim, rank in ranks.items():
            factors[dim] = _unfolded_vectors(_contracted(grad, factors, skip=dim), dim, rank)
        errors.append(float((total.square() - _contracted(grad, factors).norm().square()).abs().sqrt() / total))
        if len(errors) > 2 and abs(errors[-2] - errors[-1]) < _TOLERANCE:
            break
    return factors


def aligned(basis: Tensor, before: Tensor) -> Tensor:
    """The same vectors with those signs that turn each toward the one it replaces.

    The signs of singular vectors are arbitrary, and averages that are kept in their coordinates must not depend on
    them.
    """
    toward = (basis * before).sum(0)
    return basis * torch.where(toward < 0, -1.0, 1.0)


def _scaled(grad: Tensor) -> Tensor:
    """Entries of at most 1, so that no square overflows."""
    return grad / grad.abs().amax()


def _unfolded_vectors(tensor: Tensor, dim: int, rank: int) -> Tensor:
    """The first left singular vectors of an unfolding, through its Gram matrix."""
    unfolded = tensor.movedim(dim, 0).flatten(1)
    _, vectors = torch.linalg.eigh(unfolded @ unfolded.mT)
    return vectors.flip(-1)[:, :rank]


def _contracted(tensor: Tensor, factors: dict[int, Tensor], skip: int | None = None) -> Tensor:
    for dim, factor in factors.items():
        if dim != skip:
            tensor = torch.tensordot(tensor, factor, dims=([dim], [0])).movedim(-1, dim)
    return tensor
