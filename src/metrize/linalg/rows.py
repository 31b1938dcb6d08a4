"""Sums that do not depend on how a tensor is cut by rows."""

from __future__ import annotations

from torch import Tensor


def in_rows(stack: Tensor) -> Tensor:
    """``[B, *shape]`` as ``[B, rows, rest]``, the first dimension being the rows.

    A sum over the rest in the tensor's own dtype, and over rows in float64, is as fast as a plain sum, and a process
    that holds some of the rows can make its share of it.
    """
    rows = stack.shape[1] if stack.ndim > 1 else 1
    return stack.reshape(len(stack), rows, stack[0, 0].numel() if stack.ndim > 1 and rows else 1)
