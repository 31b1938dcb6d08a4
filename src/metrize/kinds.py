"""Which kind of bucket steps a parameter, and with whom."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from metrize.bucket import Bucket, Fused, Stacked
from metrize.frames import Identity
from metrize.moments import Dense
from metrize.recipe import Recipe
from metrize.spaces import Space
from metrize.spaces.base import compute_dtype
from metrize.state import drawn, real, slots, state_spec
from metrize.streamed import Streamed, passes_of, streamable

_SMALL = 2**18  # numbers of a tensor that is still worth copying into a batch


def kind_of(recipe: Recipe, space: Space, p: Tensor, group: dict[str, Any]) -> type[Bucket]:
    """The kind of bucket that steps a parameter."""
    if _fusable(recipe, space, p, group):
        return Fused
    return Streamed if streamable(recipe, space, p, group) else Stacked


def by_entry(recipe: Recipe, space: Space, p: Tensor, group: dict[str, Any]) -> bool:
    """Whether any part of this tensor can be stepped without the rest, but for the sums of its step size."""
    rule, dtype = recipe.rule, compute_dtype(p.dtype)
    plain = space.flat and isinstance(recipe.frame, Identity) and recipe.decay != "natural"
    if not plain or not recipe.step_size.by_entry or not (rule.fusable(group) or len(passes_of(rule, group)) == 1):
        return False
    kept = slots(recipe, space, real(p).shape, dtype, group).values()
    spec = state_spec(recipe, space, p, group)
    dense = all(isinstance(recipe.moments.of(slot.shape, slot.kind), Dense) for slot in kept)
    return dense and not any(map(drawn, spec))


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
