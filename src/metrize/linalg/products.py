"""Batched products that write their result once."""

from __future__ import annotations

import torch
from torch import Tensor


def addmm(base: Tensor, left: Tensor, right: Tensor, alpha: float = 1.0) -> Tensor:
    """``base + alpha left right`` for any leading dimensions, without the product in between.

    Args:
        base: ``[..., m, n]``.
        left: ``[..., m, k]``.
        right: ``[..., k, n]``.
        alpha: factor of the product.
    """
    if base.ndim == 2:
        return torch.addmm(base, left, right, alpha=alpha)
    flat = (t.flatten(0, -3) for t in (base, left, right))
    return torch.baddbmm(*flat, alpha=alpha).view(base.shape)
