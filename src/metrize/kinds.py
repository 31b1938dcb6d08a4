"""Which kind of bucket steps a parameter, and with whom."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from metrize.bucket import Bucket, Fused, Stacked
from metrize.recipe import Recipe
from metrize.spaces import Space
from metrize.spaces.base import compute_dtype
from metrize.streamed import Streamed, streamable

_SMALL = 2**18  # numbers of a tensor that is still worth copying into a batch


def kind_of(recipe: Recipe, space: Space, p: Tensor, group: dict[str, Any]) -> type[Bucket]:
    """The kind of bucket that steps a parameter."""
    if _fusable(recipe, space, p, group):
        return Fused
    return Streamed if streamable(recipe, space, p, group) else Stacked


def _fusable(recipe: Recipe, space: Space, p: Tensor, group: dict[str, Any]) -> bool:
    """Whether torch has a one-pass kernel for exactly this update of exactly this kind of tensor."""
    dense = torch.empty_like(p, device="meta").stride() == p.stride()
    plain = space.flat and recipe.in_place(compute_dtype(p.dtype)) and recipe.rule.fusable(group)
    return plain and dense and p.device.type in ("cpu", "cuda", "meta")


def alone(kind: type[Bucket], p: Tensor, index: int) -> tuple[Any, ...]:
    """Small equal tensors share a batch; large ones are updated where they lie."""
    if kind is Fused:
        return ()
    return (p.shape,) if p.numel() <= _SMALL else (p.shape, index)
