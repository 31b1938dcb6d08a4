"""The contract of a storage, and the handle a rule works with."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from metrize.part import Part, Spec

Kind = Literal["linear", "square"]
"""What an average is of: the gradient, and so it has signs and turns with the coordinates; or its squares."""


@dataclasses.dataclass(frozen=True)
class Slot:
    """Which average is meant, and how its storage and the rule see it.

    Args:
        name: such as ``exp_avg``; keys of the state begin with it.
        kind: ``"linear"`` or ``"square"``.
        shape: of the average of one parameter.
        dtype: of the arithmetic.
        points: the rule's view of a stack ``[B, *shape]``.
    """

    name: str
    kind: Kind
    shape: torch.Size
    dtype: torch.dtype
    points: Callable[[Tensor], Tensor]

    def stored(self, value: Tensor) -> Tensor:
        """A value in the rule's view, as the stack ``[B, *shape]`` that the storage sees."""
        if value.shape[1:] == self.shape:
            return value
        stack = value.new_empty(value.shape[0], *self.shape)
        self.points(stack).copy_(value)
        return stack


@dataclasses.dataclass(frozen=True)
class Moments(Part):
    """A storage for averages."""

    def state_spec(self, name: str, shape: torch.Size, dtype: torch.dtype, kind: Kind) -> Spec:
        """What one average called `name` keeps for a parameter whose averages have this logical shape and dtype."""
        raise NotImplementedError

    def in_place(self, dtype: torch.dtype) -> bool:
        """Whether `read` hands out the stored tensor itself, in this dtype."""
        return False

    def read(self, slot: Slot, state: dict[str, Tensor]) -> Tensor:
        """The average in the dtype of the arithmetic, stacked ``[B, *shape]``; may be the stored tensor itself."""
        raise NotImplementedError

    def write(self, slot: Slot, state: dict[str, Tensor], value: Tensor) -> None:
        """Keep a value ``[B, *shape]``, which may be what `read` returned, changed in place."""
        raise NotImplementedError

    def update(
        self, slot: Slot, state: dict[str, Tensor], value: Tensor, decay: float | Tensor, gain: float | Tensor
    ) -> Tensor:
        """``a <- decay a + gain x``, with ``x^2`` in place of x where the average is of squares.

        Args:
            slot: which average.
            state: stacked, ``[B, ...]`` each.
            value: x in the rule's view.
            decay: a number, or one for each parameter that broadcasts against `value`.
            gain: as `decay`.

        Returns:
            The average as the rule shall use it in this step, in the rule's view: what was stored may know less.
        """
        stack = self.read(slot, state)
        average = slot.points(stack)
        accumulate_(average, value, decay, gain, slot.kind)
        self.write(slot, state, stack)
        return average


def accumulate_(average: Tensor, value: Tensor, decay: float | Tensor, gain: float | Tensor, kind: Kind) -> None:
    """``a <- decay a + gain x`` in place, or with ``x^2``; tensors broadcast."""
    if isinstance(gain, Tensor):
        average.mul_(decay)
        average.add_(value * gain) if kind == "linear" else average.addcmul_(value * gain, value)
    elif kind == "square":
        average.mul_(decay).addcmul_(value, value, value=gain)
    elif not isinstance(decay, Tensor) and decay == 1 - gain:
        average.lerp_(value, gain)
    else:
        average.mul_(decay).add_(value, alpha=gain)


@dataclasses.dataclass
class Averages:
    """What a rule sees of its state: averages by name, shaped like the coordinates, however they are stored.

    Args:
        moments: the storage.
        state: stacked state of a bucket, ``[B, ...]`` each.
        slots: the averages of the rule, by name.
        delay: first steps in which the frame only looks, and which the rule does not count.
    """

    moments: Moments
    state: dict[str, Tensor]
    slots: dict[str, Slot]
    delay: int = 0

    def update(self, name: str, value: Tensor, decay: float | Tensor, gain: float | Tensor) -> Tensor:
        """``a <- decay a + gain x`` (``x^2`` for squares); the average to use now, not to be changed in place.

        Args:
            name: of the average.
            value: x, ``[B, *coordinates]``.
            decay: a number, or ``[B]``.
            gain: a number, or ``[B]``.
        """
        wide = [_per_member(x, value) if isinstance(x, Tensor) else x for x in (decay, gain)]
        return self.moments.update(self.slots[name], self.state, value, *wide)

    def read(self, name: str) -> Tensor:
        """The average as it was kept, in the rule's view; not to be changed in place."""
        slot = self.slots[name]
        return slot.points(self.moments.read(slot, self.state))

    def turn(self, kind: Kind, turn: Callable[[Tensor], Tensor]) -> None:
        """Change the coordinates of all averages of one kind."""
        for slot in self.slots.values():
            if slot.kind == kind:
                stack = self.moments.read(slot, self.state)
                average = slot.points(stack)
                average.copy_(turn(average))
                self.moments.write(slot, self.state, stack)

    def small(self, name: str) -> Tensor:
        """State that is kept as it is, such as one number for each point: ``[B, *batch]``."""
        return self.state[name]

    @property
    def step(self) -> Tensor:
        """Steps the rule has taken for each parameter, this one included: ``[B]`` in float64."""
        return self.state["step"].double() - self.delay


def _per_member(value: Tensor, like: Tensor) -> Tensor:
    return value.to(like).reshape(-1, *(1,) * (like.ndim - 1))
