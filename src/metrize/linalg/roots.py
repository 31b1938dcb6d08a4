"""Negative powers of symmetric matrices."""

from __future__ import annotations

import torch
from torch import Tensor

from metrize.linalg.eigenbasis import eigh, highest_precision


def inverse_power(matrix: Tensor, exponent: float, eps: float) -> Tensor:
    """``(A + eps I)^-e`` for a positive semidefinite A ``[d, d]``.

    An eigenvalue below ``d u`` times the largest, with u the distance from 1 to the next number of the dtype, is what
    rounding made of anything from zero up to there. It counts as that much: a power of the noise itself could be as
    large as ``eps^-e``, in directions that mean nothing.

    Args:
        matrix: A.
        exponent: e, above 0.
        eps: above 0.

    Raises:
        LinAlgError: A has no eigenvectors, or is not finite.
    """
    shifted = matrix.clone()
    shifted.diagonal().add_(eps)
    with highest_precision():
        values, vectors = eigh(shifted)
        resolved = len(values) * torch.finfo(values.dtype).eps * values[-1]
        return vectors * values.clamp(min=resolved.clamp(min=eps)).pow(-exponent) @ vectors.mT
