"""Equal tensors with equal counts on their journey as one batch ``[B, *shape]``."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from metrize.moments import Averages
from metrize.rules.base import direction_of
from metrize.step.assignment import Assignment, as_real
from metrize.step.framed import Framed
from metrize.step.journey import Trip, descent, journey, per_member, stack
from metrize.step.state import State


@dataclasses.dataclass
class Batch:
    """Members of a bucket that are stepped together as whole tensors.

    Args:
        assignment: of the members.
        numbers: of their group.
        params: the parameters.
        grad: their gradients, ``[B, *shape]``.
        state: of the members, stacked, ``[B, ...]`` each.
        is_part: whether they are parts of tensors, so that an empty one keeps the counts that all parts keep.
        in_one: whether scaling and moving may be one operation, which rounds once.
    """

    assignment: Assignment
    numbers: dict[str, Any]
    params: list[Tensor]
    grad: Tensor
    state: State
    is_part: bool = False
    in_one: bool = False

    def __post_init__(self) -> None:
        self.params = [as_real(p) for p in self.params]

    def step(self) -> None:
        """Take the journey."""
        a, state = self.assignment, self.state
        wide = self._widened()
        points = a.space.points(wide)
        state["step"].add_(1)
        if not wide.numel() and not self.is_part:
            return
        trip = self._trip(wide, points)
        coords = journey(trip, points, a.space.points(self.grad), warming_up=bool(trip.averages.step[0] <= 0))
        if float(self.numbers["lr"]) != 0:  # a step of length zero leaves every bit where it is
            a.space.polish_(points, state["step"], state)
        self._narrow(wide)
        if trip.framed is not None:
            trip.framed.close(coords)  # last, so that a basis that cannot be renewed leaves a finished step

    def measure(self) -> Tensor:
        """What the step size adds up over the model."""
        a, wide = self.assignment, self._widened()
        grad = descent(a, self.grad, wide, self.numbers)
        return a.recipe.step_size.measure(grad, wide, self.state, self.numbers)

    def _trip(self, wide: Tensor, points: Tensor) -> Trip:
        a, recipe = self.assignment, self.assignment.recipe
        averages = Averages(recipe.moments, self.state, a.slots, recipe.frame.delay, a.small)
        frame = recipe.frame.told(self.numbers)
        framed = None if frame.trivial else Framed(frame, a.space, a.batch, self.state, averages)
        rate = per_member(recipe.step_size.rate(wide, self.state, self.numbers), points)
        length = rate * per_member(recipe.rule.gain(averages.step, self.numbers), points) if a.gains else rate
        rule = direction_of(recipe.rule)
        fused = a.frame_moves if framed is not None else self.in_one and a.linear and not a.decay.after_step
        return Trip(a, self.numbers, self.state, averages, rule, rate, length, framed, fused)

    def _widened(self) -> Tensor:
        """``[B, *shape]`` in the dtype of the arithmetic: the parameters, or the masters of 16-bit ones."""
        a, now = self.assignment, stack(self.params)
        if not a.master:
            return a.rounding.widen(now, self.state.get("rounding.rest")) if a.narrow else now
        # where the parameter is no longer the rounded master, someone wrote to it, and what was written counts
        master = self.state["master"]
        return master.copy_(torch.where(master.to(now.dtype) == now, master, now.to(a.dtype)))

    def _narrow(self, wide: Tensor) -> None:
        """Write rows to the parameters they do not already share memory with."""
        if self.assignment.copies:
            if len(self.params) > 1 or self.params[0].data_ptr() != wide.data_ptr():
                torch._foreach_copy_(self.params, list(wide.unbind()))
            return
        rounding = self.assignment.rounding
        for i, (p, row) in enumerate(zip(self.params, wide, strict=True)):
            state = {key: value[i] for key, value in self.state.items()}
            rounding.narrow_(p, row, state.get("rounding.rest"), rounding.draw(state))
