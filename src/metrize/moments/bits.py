"""Signs at one bit each."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

_WORD = 16  # bits summed up as one small number, which float32 holds exactly


def packed(positive: Tensor) -> Tensor:
    """Pack ones and zeros ``[B, N]``, given as floating point numbers, into bytes ``[B, ceil(N / 8)]``.

    Bit ``i % 8`` of byte ``i // 8`` is the i-th number, and bits behind the last one are 0.
    """
    batch, count = positive.shape
    if count % _WORD:
        positive = torch.nn.functional.pad(positive, (0, -count % _WORD))
    words = positive.view(-1, _WORD).mv(_powers(positive.dtype, positive.device))
    return words.to(torch.int16).view(torch.uint8).view(batch, -1)[:, : -(-count // 8)]


def signs(codes: Tensor, count: int, dtype: torch.dtype) -> Tensor:
    """The signs that bytes ``[B, ceil(count / 8)]`` stand for, ``[B, count]``: 1 for a set bit, -1 for any other."""
    wide = _table(dtype, codes.device).index_select(0, codes.flatten().to(torch.int32))
    return wide.view(codes.shape[0], -1)[:, :count]


@functools.lru_cache
def _powers(dtype: torch.dtype, device: torch.device) -> Tensor:
    """What the bits of a signed word are worth."""
    powers = 2.0 ** torch.arange(_WORD, dtype=dtype, device=device)
    powers[-1] *= -1
    return powers


@functools.lru_cache
def _table(dtype: torch.dtype, device: torch.device) -> Tensor:
    """The eight signs of every byte."""
    bits = torch.arange(256, device=device).unsqueeze(1) >> torch.arange(8, device=device) & 1
    return (2 * bits - 1).to(dtype)
