"""Declared state: what a parameter keeps, its allocation, and equal states lying in one stack."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from metrize.frames import Identity
from metrize.framing import frame_spec
from metrize.moments import Slot
from metrize.part import Spec
from metrize.recipe import Recipe
from metrize.spaces import Space
from metrize.spaces.base import compute_dtype

State = dict[str, Tensor]

_COUNTS = ("step", "phase", "failures", "seed")


def on_host(key: str) -> bool:
    """Whether a state is a count that decides what to compute, so that reading it must not wait for a device."""
    return key.rpartition(".")[2] in _COUNTS


def state_spec(recipe: Recipe, space: Space, parameter: Tensor, hyper: dict[str, Any]) -> Spec:
    """Everything the optimizer keeps for one parameter: key -> (shape, dtype).

    Allocation, the memory report and the check of a checkpoint all read this one declaration.
    """
    shape, dtype = real(parameter).shape, compute_dtype(parameter.dtype)
    spec: Spec = {"step": ((), torch.float32)}
    if keeps_master(space, parameter):
        spec["master"] = (tuple(shape), dtype)
    if space.flat:
        spec |= recipe.rounding.state_spec(shape, parameter.dtype)
    spec |= space.state_spec(shape, parameter.dtype)
    spec |= frame_spec(recipe.frame, space, shape, dtype)
    for slot in slots(recipe, space, shape, dtype, hyper).values():
        storage = recipe.moments.of(slot.shape, slot.kind)
        spec |= storage.state_spec(slot.name, slot.shape, dtype, slot.kind)
    coords = recipe.frame.shape(points_shape(space, shape))
    return (
        spec
        | recipe.rule.small_spec(coords, space.batch_shape(shape), dtype, hyper)
        | recipe.step_size.state_spec(shape, dtype)
    )


def slots(
    recipe: Recipe, space: Space, shape: torch.Size, dtype: torch.dtype, hyper: dict[str, Any]
) -> dict[str, Slot]:
    """The averages of one parameter, by name.

    They have the parameter's shape and are seen through the space, or the shape that the frame gives them.
    """
    kept, points = shape, space.points
    if not isinstance(recipe.frame, Identity):
        kept, points = recipe.frame.shape(points_shape(space, shape)), _as_they_are
    kinds = recipe.rule.averages_of(kept, hyper)
    return {name: Slot(name, kind, kept, dtype, points) for name, kind in kinds.items()}


def points_shape(space: Space, shape: torch.Size) -> torch.Size:
    """The shape of a parameter seen as points: ``[*batch, *point]``."""
    return space.points(torch.empty(1, *shape, device="meta")).shape[1:]


def _as_they_are(stack: Tensor) -> Tensor:
    return stack


def keeps_master(space: Space, parameter: Tensor) -> bool:
    """A point rounded to 16 bits is off its space by a percent, so the point itself is kept apart."""
    return not space.flat and parameter.dtype != compute_dtype(parameter.dtype)


def real(tensor: Tensor) -> Tensor:
    """Complex numbers as pairs, which is what the arithmetic sees."""
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


def drawn(key: str) -> bool:
    """Whether a state is a seed, so that what it leads to depends on the place of every entry."""
    return key.rpartition(".")[2] == "seed"


@torch.no_grad()
def new_state(spec: Spec, recipe: Recipe, space: Space, parameter: Tensor, step_device: torch.device) -> State:
    """Allocate the declared state of one parameter and fill what starts from its value."""
    state: State = {}
    like = real(parameter.detach())
    for key, (shape, dtype) in spec.items():
        if on_host(key):
            state[key] = torch.zeros(shape, dtype=dtype, device=step_device)
        elif shape == tuple(like.shape):
            state[key] = torch.zeros_like(like, dtype=dtype)  # with the parameter's memory layout
        else:
            state[key] = torch.zeros(shape, dtype=dtype, device=parameter.device)
    if "master" in state:
        state["master"].copy_(like)  # and not its projection: a step of length zero must not change the parameter
    wide = {key: value.unsqueeze(0) for key, value in state.items()}
    start = state.get("master", like).unsqueeze(0)
    space.init_state(space.points(start), wide)
    recipe.step_size.init_state(start, wide)
    return state


def stacked(states: list[State], key: str) -> Tensor:
    """The tensors of one key as ``[B, *shape]``, and each state's own tensor a view of that stack.

    A single state is its own stack. States that already lie side by side in memory, as after a deepcopy, are not moved.
    """
    tensors = [state[key] for state in states]
    first = tensors[0]
    if len(tensors) == 1:
        return first.unsqueeze(0)
    if _side_by_side(tensors):
        return first.as_strided((len(tensors), *first.shape), (first.numel(), *first.stride()))
    stack = torch.stack(tensors)
    for state, row in zip(states, stack, strict=True):
        state[key] = row
    return stack


def _side_by_side(tensors: list[Tensor]) -> bool:
    first, size = tensors[0], tensors[0].numel()
    storage = first.untyped_storage().data_ptr()
    return first.is_contiguous() and all(
        t.untyped_storage().data_ptr() == storage
        and t.storage_offset() == first.storage_offset() + i * size
        and t.stride() == first.stride()
        for i, t in enumerate(tensors)
    )
