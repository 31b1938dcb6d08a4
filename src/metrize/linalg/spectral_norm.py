"""The largest singular value."""

from __future__ import annotations

import torch
from torch import Tensor

from metrize.linalg.unit import unit

_STARTS = 4
_ITERATIONS = 8


def spectral_norm(x: Tensor, exact: bool = False) -> Tensor:
    """The largest singular value of each matrix: exactly, or a bound from below by power iteration.

    The iteration starts from a few fixed vectors, so that the result is a function of x; it costs a few reads of x.

    Args:
        x: ``[..., m, n]`` in float32 or float64.
        exact: by singular value decomposition.

    Returns:
        ``[...]``
    """
    scaled, length = unit(x, (-2, -1))
    if exact:
        return torch.linalg.svdvals(scaled)[..., 0] * length[..., 0, 0]
    vectors = _fixed_vectors(x)
    for _ in range(_ITERATIONS):
        vectors = unit(scaled.mT @ (scaled @ vectors), -2)[0]
    found = torch.linalg.vector_norm(scaled @ vectors, dim=-2).amax(-1)
    return found * length[..., 0, 0]


def _fixed_vectors(x: Tensor) -> Tensor:
    """``[n, starts]`` in (-1/2, 1/2): squares modulo a prime, a pattern that no matrix is likely to be blind to."""
    index = torch.arange(1, x.shape[-1] * _STARTS + 1, device=x.device)
    return (index * index * 40503 % 65521 / 65521 - 0.5).view(-1, _STARTS).to(x.dtype)
