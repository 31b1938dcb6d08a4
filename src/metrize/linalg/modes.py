"""Products with one mode of a tensor ``[B, *shape]``; modes are counted from 0, the first after the batch."""

from __future__ import annotations

import torch
from torch import Tensor


def mode_product(x: Tensor, matrix: Tensor, mode: int) -> Tensor:
    """``x ×_mode M``: every fibre of that mode multiplied by M.

    Args:
        x: ``[B, *shape]`` with ``shape[mode] = d``.
        matrix: M, ``[B, e, d]``.
        mode: which axis of the shape.
    """
    if mode == x.ndim - 2 and mode:
        return (x.flatten(1, -2) @ matrix.mT).view(*x.shape[:-1], -1)
    front = x.movedim(mode + 1, 1)
    product = matrix @ _fibres(front)
    return product.view(len(x), -1, *front.shape[2:]).movedim(1, mode + 1)


def mode_gram_(factor: Tensor, x: Tensor, mode: int, decay: float, gain: float) -> None:
    """``L <- decay L + gain U U^T`` in place, with U the unfolding of x along a mode: its fibres as columns.

    Args:
        factor: L, ``[B, d, d]``.
        x: ``[B, *shape]`` with ``shape[mode] = d``.
        mode: which axis of the shape.
        decay: a number.
        gain: a number.
    """
    if mode == x.ndim - 2 and mode:
        rows = x.flatten(1, -2)
        factor.baddbmm_(rows.mT, rows, beta=decay, alpha=gain)
    else:
        fibres = _fibres(x.movedim(mode + 1, 1))
        factor.baddbmm_(fibres, fibres.mT, beta=decay, alpha=gain)


def _fibres(front: Tensor) -> Tensor:
    """``[B, d, ...]`` as ``[B, d, -1]``."""
    return front.flatten(2) if front.ndim > 2 else front.unsqueeze(-1)


def finite_members(x: Tensor) -> Tensor:
    """Zero in place of a member whose squares are not finite, which would poison a sum of them for ever.

    Args:
        x: ``[B, *shape]``.
    """
    flat = x.flatten(1) if x.ndim > 1 else x.unsqueeze(1)
    finite = torch.linalg.vecdot(flat, flat).isfinite()
    if x.device.type == "cpu" and finite.all():  # elsewhere the question would wait for the device
        return x
    return torch.where(finite.reshape(-1, *(1,) * (x.ndim - 1)), x, 0)


def merged(shape: torch.Size, limit: float) -> torch.Size:
    """Neighbouring axes taken together, from left to right, as long as their product is at most `limit`.

    Axes of size 1 vanish. ``merged((4, 3, 2, 2), 12) == (12, 4)``.
    """
    sizes: list[int] = []
    for size in shape:
        if sizes and sizes[-1] * size <= limit:
            sizes[-1] *= size
        elif size != 1:
            sizes.append(size)
    return torch.Size(sizes or [1])
