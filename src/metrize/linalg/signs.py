"""Signs that make ``I + X diag(s)`` safe to invert, the way Householder's method picks them."""

from __future__ import annotations

import torch
from torch import Tensor

_BLOCK = 32
_FLIP = -0.75  # a pivot entry below this wants the other sign


def householder_signs(x: Tensor) -> Tensor:
    """Signs s with ``I + X diag(s)`` well conditioned, for any X with ``||X||_2 <= 1``.

    Elimination without pivoting on ``X + diag(s)``, each sign chosen when its pivot is met so that
    ``|pivot| >= 1/4``. A sign is +1 unless the pivot entry is below -3/4, where -1 leaves a pivot beyond 7/4: whoever
    multiplies the columns of X by the signs of last time and asks again gets +1 for all that still serve, and a sign
    just changed does not change back. If the symmetric part of X is above -3/4 every sign is +1 (all Schur complements
    inherit the bound); on the host one Cholesky factorisation proves that and the elimination, which is sequential,
    is left out.

    Args:
        x: ``[..., n, n]``, the top block of a matrix with orthonormal columns.

    Returns:
        ``[..., n]`` of -1 and +1 in the dtype of x.
    """
    flat = x.flatten(0, -3) if x.ndim > 2 else x.unsqueeze(0)
    if x.device.type != "cpu":  # the shortcut would wait for the device
        return _eliminate(flat.clone()).view(x.shape[:-1])
    signs = torch.ones(flat.shape[:-1], dtype=x.dtype)
    unsafe = (_certificate(flat) != 0).nonzero().flatten()
    if len(unsafe):
        signs[unsafe] = _eliminate(flat[unsafe])
    return signs.view(x.shape[:-1])


def _certificate(x: Tensor) -> Tensor:
    """Zero where the symmetric part of X is above the entry at which a sign flips."""
    symmetric = (x + x.mT).mul_(0.5)
    symmetric.diagonal(dim1=-2, dim2=-1).sub_(_FLIP)
    return torch.linalg.cholesky_ex(symmetric).info


def _eliminate(x: Tensor) -> Tensor:
    """Blocked right-looking elimination in place; returns the signs."""
    signs = torch.empty(x.shape[:-1], dtype=x.dtype, device=x.device)
    for start in range(0, x.shape[-1], _BLOCK):
        stop = min(start + _BLOCK, x.shape[-1])
        _panel(x, signs, start, stop)
        left, upper = x[:, stop:, start:stop], x[:, start:stop, stop:]
        corner = x[:, start:stop, start:stop]
        upper = torch.linalg.solve_triangular(corner, upper, upper=False, unitriangular=True)
        x[:, stop:, stop:].sub_(left @ upper)
    return signs


def _panel(x: Tensor, signs: Tensor, start: int, stop: int) -> None:
    for i in range(start, stop):
        pivot = x[:, i, i]
        signs[:, i] = torch.where(pivot < _FLIP, -1.0, 1.0)
        multipliers = x[:, i + 1 :, i].div_((pivot + signs[:, i]).unsqueeze(-1))
        x[:, i + 1 :, i + 1 : stop].sub_(multipliers.unsqueeze(-1) * x[:, i, i + 1 : stop].unsqueeze(-2))
