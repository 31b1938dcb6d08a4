"""Products and parts that need one new tensor."""

from __future__ import annotations

import torch
from torch import Tensor


def addmm(base: Tensor, left: Tensor, right: Tensor, alpha: float = 1.0) -> Tensor:
    """``base + alpha left right`` for any leading dimensions.

    Args:
        base: ``[..., m, n]``.
        left: ``[..., m, k]``.
        right: ``[..., k, n]``.
        alpha: factor of the product.
    """
    product = left @ right
    recorded = base.requires_grad or product.requires_grad  # by autograd, which takes no `out`
    return torch.add(base, product, alpha=alpha, out=None if recorded else product)


def skew(x: Tensor) -> Tensor:
    """The nearest skew matrix ``(X - X^T) / 2``; one that is skew keeps every bit."""
    return (x - x.mT).mul_(0.5)
