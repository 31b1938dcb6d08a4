"""Negative powers of symmetric matrices."""

from __future__ import annotations

import torch
from torch import Tensor

from metrize.linalg.eigenbasis import eigh, highest_precision


def inverse_power(matrix: Tensor, exponent: float, eps: float) -> Tensor:
    """``(A + eps I)^-e`` for a positive semidefinite A ``[d, d]``.

    An eigenvalue below ``d u max(A)``, with u the unit of rounding, is nothing but rounding of the others: it may be of
    any sign, and its negative power would be the largest of all. Such ones count as much as that bound.

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
        noise = len(values) * torch.finfo(values.dtype).eps * values[-1:].clamp(min=0)
        values = torch.maximum(values, noise.clamp(min=eps))
        return vectors * values.pow(-exponent) @ vectors.mT
