"""Solves with n x n matrices that are safe in batches."""

from __future__ import annotations

import torch
from torch import Tensor

_BATCHED = 128  # rows of matrices that may be factored in a batch on the host


def lu_factor(k: Tensor) -> tuple[Tensor, Tensor]:
    """LU factors in one matrix and the rows exchanged, of ``[..., n, n]``; the host takes large matrices one by one.

    A batch of two matrices of 160 rows never returned, with oneMKL complaining about SLASWP, after
    ``torch.set_num_threads(2)`` (torch 2.13). One matrix does, and is large enough to pay for a call of its own.
    """
    if k.device.type != "cpu" or k.shape[-1] <= _BATCHED or k.ndim == 2:
        return torch.linalg.lu_factor_ex(k)[:2]
    each = [torch.linalg.lu_factor_ex(matrix)[:2] for matrix in k.flatten(0, -3)]
    factors, rows = (torch.stack(parts) for parts in zip(*each, strict=True))
    return factors.view(k.shape), rows.view(k.shape[:-1])


def solve(k: Tensor, right: Tensor) -> Tensor:
    """``K^-1 B`` for ``[..., n, n]`` and ``[..., n, m]``; a singular K gives numbers that are not finite."""
    return torch.linalg.lu_solve(*lu_factor(k), right)
