"""Random matrices that are remembered by a seed, and chains of seeds."""

from __future__ import annotations

import torch
from torch import Tensor

_LARGEST = 2**63 - 1


def gaussian(shape: tuple[int, ...], seed: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Independent normal numbers, drawn with a seed on the device; every kind of device draws its own."""
    generator = torch.Generator(device).manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=dtype, device=device)


def next_seed(seed: int) -> int:
    """The seed after this one: the 15th number drawn with it."""
    return _drawn(seed, 15)[-1]


def split_seed(seed: int) -> tuple[int, int]:
    """Two seeds made of one: the first two numbers drawn with it."""
    first, second = _drawn(seed, 2)
    return first, second


def _drawn(seed: int, count: int) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return [int(x) for x in torch.randint(0, _LARGEST, (count,), generator=generator)]
