"""Polar factors: the nearest matrix with orthonormal columns."""

from __future__ import annotations

import torch
from torch import Tensor


def polar(x: Tensor) -> Tensor:
    """The orthogonal polar factor ``U V^T`` of ``X = U S V^T``, nearest to X in every unitarily invariant norm.

    Args:
        x: ``[..., N, n]`` with N >= n, in float32 or float64.
    """
    u, _, vh = torch.linalg.svd(x, full_matrices=False)
    return u @ vh


def newton_schulz_polish(y: Tensor) -> Tensor:
    """One Newton-Schulz step ``Y + Y (I - Y^T Y) / 2``: squares the distance of a nearly orthonormal Y to the manifold.

    Args:
        y: ``[..., N, n]`` with ``||Y^T Y - I|| < 1``.
    """
    return y + y @ residual(y).mul_(0.5)


def residual(y: Tensor) -> Tensor:
    """``I - Y^T Y`` for ``[..., N, n]``, in the dtype of y."""
    gram = (y.mT @ y).neg_()
    gram.diagonal(dim1=-2, dim2=-1).add_(1)
    return gram
