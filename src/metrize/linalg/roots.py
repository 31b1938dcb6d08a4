"""Negative powers of symmetric matrices."""

from __future__ import annotations

from torch import Tensor

from metrize.linalg.eigenbasis import eigh, highest_precision


def inverse_power(matrix: Tensor, exponent: float, eps: float) -> Tensor:
    """``(A + eps I)^-e`` for a positive semidefinite A ``[d, d]``.

    Rounding may leave an eigenvalue of ``A + eps I`` below eps, or below zero; all are shifted then, so that the least
    one is eps again.

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
        if values[0] < eps:
            values = values - values[0] + eps  # in this order: eps may vanish beside what rounding left
        return vectors * values.pow(-exponent) @ vectors.mT
