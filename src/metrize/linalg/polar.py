"""Polar factors: the nearest matrix with orthonormal columns."""

from __future__ import annotations

import torch
from torch import Tensor


def polar(x: Tensor, rtol: float | None = None) -> Tensor:
    """The orthogonal polar factor ``U V^T`` of ``X = U S V^T``, nearest to X in every unitarily invariant norm.

    Args:
        x: ``[..., N, n]`` in float32 or float64.
        rtol: drop the directions whose singular value is not above this share of the largest one. None keeps all and
            so completes a matrix of less than full rank in some way.
    """
    u, s, vh = torch.linalg.svd(x, full_matrices=False)
    if rtol is not None:
        u = u * (s > rtol * s[..., :1]).unsqueeze(-2)
    return u @ vh


def rank_deficient(x: Tensor, missing: int = 0) -> Tensor:
    """Whether more singular values than `missing` are lost in rounding, so that the polar factor is a matter of choice.

    Args:
        x: ``[..., N, n]`` with N >= n, real or complex.
        missing: how many may be.

    Returns:
        ``[...]``, truth values.
    """
    s = torch.linalg.svdvals(x.to(torch.promote_types(x.dtype, torch.float64)))
    return s[..., -1 - missing] <= torch.finfo(x.dtype).eps * s[..., 0]


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
