"""The entire function behind the low-rank exponential."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def phi(x: Tensor) -> Tensor:
    """``phi(X) = (e^X - I) X^-1 = sum_k X^k / (k+1)!``, accurate at every norm.

    The raw series loses all digits beyond ``||X||`` of a few hundred (arXiv:2305.16901's reference reaches
    ``||Y^T Y - I|| = 8e10``). Here X is scaled by ``2^-s`` and the result doubled s times by ``V <- 2V + V X V``.
    The number of doublings is read from the data: one small read from the device.

    Args:
        x: ``[..., k, k]`` in float32 or float64.
    """
    norm = float(torch.linalg.matrix_norm(x.detach(), 1).max()) if x.numel() else 0.0
    doublings = max(0, math.ceil(math.log2(norm)) + 1) if norm > 0 else 0
    small = x * 2.0**-doublings
    v = _series(small) * 2.0**-doublings
    for _ in range(doublings):
        v = 2 * v + v @ x @ v
    return v


def _series(x: Tensor) -> Tensor:
    """Horner's scheme; with ``||X|| <= 1/2`` the last term is below the rounding of the dtype."""
    terms = 15 if x.dtype == torch.float64 else 9
    eye = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
    total = eye.expand_as(x)
    for k in range(terms, 1, -1):
        total = eye + x @ total / k
    return total
