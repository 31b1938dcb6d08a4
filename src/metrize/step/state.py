"""State of parameters: its allocation, and equal states lying in one stack."""

from __future__ import annotations

import torch
from torch import Tensor

from metrize.part import Spec
from metrize.step.assignment import Assignment, as_real, on_host

State = dict[str, Tensor]


@torch.no_grad()
def new_state(assignment: Assignment, parameter: Tensor, counts: torch.device) -> State:
    """Allocate the declared state of one parameter and fill what starts from its value.

    Args:
        assignment: of the parameter.
        parameter: whose state it is.
        counts: the device of counts.
    """
    space = assignment.space
    state: State = {}
    like = as_real(parameter.detach())
    for key, (shape, dtype) in assignment.spec.items():
        if key in assignment.counts:
            state[key] = torch.zeros(shape, dtype=dtype, device=counts)
        elif shape == tuple(like.shape):
            state[key] = torch.zeros_like(like, dtype=dtype)  # with the parameter's memory layout
        else:
            state[key] = torch.zeros(shape, dtype=dtype, device=parameter.device)
    if "master" in state:
        state["master"].copy_(like)  # and not its projection: a step of length zero must not change the parameter
    if not (assignment.declared["space"] or assignment.declared["step_size"]):
        return state
    wide = {key: value.unsqueeze(0) for key, value in state.items()}
    start = state.get("master", like).unsqueeze(0)
    space.init_state(space.points(start), wide)
    assignment.recipe.step_size.init_state(start, wide)
    return state


def placeholder(spec: Spec) -> State:
    """The state of a process that does not step a parameter: the keys, which frameworks look at, and the counts."""
    return {key: torch.zeros(shape if on_host(key) else (0,), dtype=dtype) for key, (shape, dtype) in spec.items()}


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


def end_to_end(states: list[State], key: str) -> Tensor:
    """The tensors of one key, of any shapes, in one buffer, and each state's own tensor a view of it.

    A single state is its own buffer. States that already lie so are not moved.
    """
    tensors = [state[key] for state in states]
    sizes = [tensor.numel() for tensor in tensors]
    if _end_to_end(tensors):
        return tensors[0].as_strided((sum(sizes),), (1,))
    buffer = torch.cat([tensor.reshape(-1) for tensor in tensors])
    for state, tensor, part in zip(states, tensors, torch.split(buffer, sizes), strict=True):
        state[key] = part.view(tensor.shape)
    return buffer


def _end_to_end(tensors: list[Tensor]) -> bool:
    storage, at = tensors[0].untyped_storage().data_ptr(), tensors[0].storage_offset()
    for tensor in tensors:
        elsewhere = tensor.untyped_storage().data_ptr() != storage or tensor.storage_offset() != at
        if elsewhere or not tensor.is_contiguous():
            return False
        at += tensor.numel()
    return True


def _side_by_side(tensors: list[Tensor]) -> bool:
    first, size = tensors[0], tensors[0].numel()
    storage = first.untyped_storage().data_ptr()
    return first.is_contiguous() and all(
        t.untyped_storage().data_ptr() == storage
        and t.storage_offset() == first.storage_offset() + i * size
        and t.stride() == first.stride()
        for i, t in enumerate(tensors)
    )
