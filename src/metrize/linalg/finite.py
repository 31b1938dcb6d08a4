"""Is every number finite? One read of the data, no temporary."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def all_finite(tensors: Sequence[Tensor]) -> bool:
    """Whether no tensor holds a NaN or an infinity.

    A sum of squares is finite only if every number is, and the matrix library reads memory faster than any
    elementwise test. It may overflow on finite numbers, so that only its alarm is checked entry by entry.
    """
    alarms: dict[torch.device, list[Tensor]] = {}
    for tensor in tensors:
        alarms.setdefault(tensor.device, []).append(_energy(tensor))
    if all(math.isfinite(float(torch.stack(alarm).sum())) for alarm in alarms.values()):
        return True
    return all(bool(torch.isfinite(t).all()) for t in tensors)


def _energy(tensor: Tensor) -> Tensor:
    if tensor.dtype == torch.float32 and tensor.is_contiguous():
        flat = tensor.view(-1)
        return torch.dot(flat, flat)
    half = tensor.dtype == torch.float16  # whose sums overflow soon; all other dtypes are summed up without a copy
    total = tensor.sum(dtype=torch.float32 if half else None)
    return total.abs().float() if tensor.is_complex() else total.float()
