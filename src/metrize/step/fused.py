"""The executor for updates that torch has a one-pass kernel for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from metrize.step.assignment import Assignment, as_real
from metrize.step.bucket import Bucket
from metrize.step.sizes import chunk_size
from metrize.step.windows import by_windows


class Fused(Bucket):
    """Vector spaces whose update is exactly one of torch's one-pass kernels; shapes may differ."""

    @classmethod
    def accepts(cls, assignment: Assignment) -> bool:
        recipe, device = assignment.recipe, assignment.device
        if assignment.kernel is None or not assignment.given or device not in ("cpu", "cuda", "meta"):
            return False
        lie = recipe.moments.in_place(assignment.dtype) and assignment.in_place >= assignment.slots.keys()
        return lie and assignment.memory != "gaps"

    @classmethod
    def together(cls, assignment: Assignment) -> Any:
        return assignment.space, assignment.stored, assignment.variant

    @classmethod
    def temporary(cls, assignment: Assignment) -> tuple[int, int]:
        """Wide copies of 16-bit parameters and gradients; one chunk is made while the last one goes."""
        each = 2 * assignment.dtype.itemsize if assignment.narrow else 0
        return each * assignment.numel, 2 * each * chunk_size(assignment.device)

    @classmethod
    def counts_on(cls, assignment: Assignment, target: Tensor) -> torch.device:
        # where the kernel reads them, unless each seeds random numbers that are drawn in the step
        read = assignment.recipe.rule.kernel_counts and assignment.copies
        return target.device if read else super().counts_on(assignment, target)

    def arrange(self) -> None:
        for p, state in zip(self.params, self.states, strict=True):
            like = as_real(p.detach())
            for key in self.keys:
                value = state[key]
                if value.shape == like.shape and value.stride() != like.stride():
                    state[key] = torch.empty_like(like, dtype=value.dtype).copy_(value)
        self._state = {key: [state[key] for state in self.states] for key in self.keys}

    def apply(self) -> None:
        if not self.present:
            return
        params = [as_real(self.params[i]) for i in self.present]
        grads = [_like(grad, p) for grad, p in zip(self.gradients, params, strict=True)]
        state = {key: [values[i] for i in self.present] for key, values in self._state.items()}
        self.gradients = []
        torch._foreach_add_(state["step"], 1)
        step = self._widened if self.assignment.narrow else self._kernel
        if self.spans:
            by_windows([self.spans[i] for i in self.present], params, grads, state, step)
        else:
            step(params, grads, state)
        torch.autograd.graph.increment_version([self.params[i] for i in self.present])

    def _kernel(self, params: list[Tensor], grads: list[Tensor], state: dict[str, list[Tensor]]) -> None:
        assert self.assignment.kernel is not None
        device = params[0].device
        if self.recipe.rule.kernel_counts and state["step"][0].device != device:
            counts = torch.stack(state["step"]).to(device, non_blocking=True)
            state = {**state, "step": list(counts.unbind())}
        self.assignment.kernel(params, grads, state, self.group)

    def _widened(self, params: list[Tensor], grads: list[Tensor], state: dict[str, list[Tensor]]) -> None:
        """16-bit parameters: the same kernel on float32 copies of a chunk at a time, rounded once."""
        counts = {"step": state["step"]} | {key: state[key] for key in self.assignment.seeds}
        alike = {key: [_flat(value) for value in values] for key, values in state.items() if key not in counts}
        flat, steep = [_flat(p) for p in params], [_flat(grad) for grad in grads]
        for chunk in _chunks([p.numel() for p in params], chunk_size(self.assignment.device)):
            own = {key: [values[i][cut] for i, _, cut in chunk] for key, values in alike.items()}
            own |= {key: [values[i] for i, _, _ in chunk] for key, values in counts.items()}
            stored = [flat[i][cut] for i, _, cut in chunk]
            self._step_wide(stored, [steep[i][cut] for i, _, cut in chunk], own, [piece for _, piece, _ in chunk])

    def _step_wide(
        self, stored: list[Tensor], grads: list[Tensor], state: dict[str, list[Tensor]], pieces: list[int]
    ) -> None:
        rounding, rests = self.assignment.rounding, state.get("rounding.rest", [None] * len(stored))
        if self.assignment.copies:
            wide = _as_float(stored)
        else:
            wide = [rounding.widen(p, rest) for p, rest in zip(stored, rests, strict=True)]
        self._kernel(wide, _as_float(grads), state)
        if self.assignment.copies:
            torch._foreach_copy_(stored, wide)
            return
        for at, (p, piece) in enumerate(zip(stored, pieces, strict=True)):
            single = {key: values[at] for key, values in state.items()}
            rounding.narrow_(p, wide[at], rests[at], rounding.draw(single, piece))


def _chunks(sizes: list[int], most: int) -> Iterator[list[tuple[int, int, slice]]]:
    """Tensors or parts of them, at most so many numbers together: which tensor, which of its parts, and where."""
    chunk: list[tuple[int, int, slice]] = []
    room = most
    for i, size in enumerate(sizes):
        for piece, at in enumerate(range(0, size, most)):
            length = min(most, size - at)
            if length > room:
                yield chunk
                chunk, room = [], most
            chunk.append((i, piece, slice(at, at + length)))
            room -= length
    if chunk:
        yield chunk


def _as_float(tensors: list[Tensor]) -> list[Tensor]:
    wide = [torch.empty_like(tensor, dtype=torch.float32) for tensor in tensors]
    torch._foreach_copy_(wide, tensors)
    return wide


def _like(grad: Tensor, parameter: Tensor) -> Tensor:
    """The gradient in the parameter's memory layout, which the one-pass kernels take for granted.

    Its own dtype is kept where the step is taken on wide copies: a float32 gradient of a 16-bit parameter is not
    rounded first.
    """
    narrow = parameter.dtype in (torch.bfloat16, torch.float16)
    dtype = grad.dtype if narrow else parameter.dtype
    if grad.stride() == parameter.stride() and grad.dtype == dtype:
        return grad
    return torch.empty_like(parameter, dtype=dtype).copy_(grad)


def _flat(tensor: Tensor) -> Tensor:
    """All numbers in memory order; a view, for tensors without gaps."""
    return tensor.as_strided((tensor.numel(),), (1,))
