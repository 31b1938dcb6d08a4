"""Unit vectors that neither overflow nor underflow."""

from __future__ import annotations

import torch
from torch import Tensor

_SAFE = (1e-15, 1e15)  # lengths whose squares keep their digits in float32, with those of all entries that matter


def unit(x: Tensor, dim: int | tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """``(x / ||x||_2, ||x||_2)`` over `dim`, which is kept with size 1; zero stays zero.

    Where squares might overflow or underflow, a power of two is divided out first, so that entries of 1e-30 or 1e30
    keep their digits in float32 and the result is the same to the last bit.
    """
    length = torch.linalg.vector_norm(x, 2, dim, keepdim=True)
    if x.device.type == "cpu" and length.numel() and _SAFE[0] < length.min() and length.max() < _SAFE[1]:
        return x / length, length  # elsewhere the question would wait for the device
    top = x.abs().amax(dim, keepdim=True)  # three times as fast on the CPU as the norm of order infinity
    exponent = torch.frexp(top).exponent
    scaled = torch.ldexp(torch.ldexp(x, -exponent // 2), -exponent - -exponent // 2)  # 2^127 is the largest there is
    length = torch.linalg.vector_norm(scaled, 2, dim, keepdim=True)
    # an entry of 1/2 makes every length but zero's at least that
    return scaled.div_(length.clamp(min=0.5)), torch.ldexp(length, exponent)
