"""The contract of a frame, and the one that changes nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor

from metrize.part import Part, Spec, stands_for


class Carry(Protocol):
    """Takes all averages of one kind (of the gradient, of its squares) along when the coordinates change.

    Those of one member, as a stack of one, or of all; a `turn` that answers None has only looked.
    """

    def __call__(
        self, kind: Literal["linear", "square"], turn: Callable[[Tensor], Tensor | None], member: int | None = None
    ) -> None: ...


@dataclasses.dataclass(frozen=True)
class Frame(Part, abstract=True):
    """A linear change of coordinates in which the averages are kept, and when it changes.

    One step calls `open`, `enter`, the rule, `leave` and `close`, in this order. Tensors are stacked, ``[B, *shape]``;
    ``state["step"]``, ``[B]`` on the host, counts the running step.
    """

    matrices: ClassVar[bool] = True

    flat_only: ClassVar[bool] = True
    """Whether the averages change their shape, so that only tensors in a vector space can have this frame."""

    trivial: ClassVar[bool] = False
    """Whether coordinates stay as they are, so that nothing has to be done."""

    moves: ClassVar[bool] = False
    """Whether `move_` does in a vector space what `leave`, the step size and the space do, at a lower price."""

    def told(self, hyper: Mapping[str, Any]) -> Frame:
        """This frame with the numbers that a parameter group has now."""
        return self

    @property
    def delay(self) -> int:
        """First steps in which the frame only looks at the gradient and the parameter stays where it is."""
        return 0

    @property
    def period(self) -> int:
        """Steps between two refreshes, which are spread over the parameters of a model; 0: it never refreshes.

        Where it is above 0 the declared state has a ``phase``, an int64 number that is added to the count of steps.
        """
        return 0

    def cost(self, shape: torch.Size) -> float:
        """Work of one refresh of a parameter with coordinates of this shape, in any unit."""
        return 0.0

    def work(self, shape: torch.Size) -> float:
        """Multiplications of a step of a parameter with coordinates of this shape, refreshes averaged; roughly."""
        return 0.0

    def shape(self, shape: torch.Size) -> torch.Size:
        """The shape of one parameter's averages, where its coordinates have `shape`."""
        return shape

    def state_spec(self, shape: torch.Size, dtype: torch.dtype) -> Spec:
        """State the frame keeps for one parameter with coordinates of this shape."""
        return {}

    def open(self, coords: Tensor, state: dict[str, Tensor], carry: Carry) -> None:
        """Look at the gradient before the rule does: a basis that is made from it is refreshed here."""

    def enter(self, coords: Tensor, state: dict[str, Tensor]) -> Tensor:
        """Coordinates of the space ``[B, *shape]`` -> coordinates of the averages."""
        raise NotImplementedError

    def leave(self, direction: Tensor, state: dict[str, Tensor], coords: Tensor) -> Tensor:
        """A direction in the coordinates of the averages -> in those of the space.

        Args:
            direction: what the rule made.
            state: of the frame.
            coords: the gradient's coordinates in the space.
        """
        raise NotImplementedError

    def move_(
        self, points: Tensor, direction: Tensor, rate: float | Tensor, state: dict[str, Tensor], coords: Tensor
    ) -> None:
        """``points <- points - rate leave(direction)`` in a vector space.

        Args:
            points: ``[B, *shape]``, changed in place.
            direction: what the rule made.
            rate: a number, or one for each member, shaped to multiply the points.
            state: of the frame.
            coords: the gradient.
        """
        raise NotImplementedError

    def turned(
        self, turn: Callable[[Tensor], Tensor], shape: torch.Size, state: dict[str, Tensor], carry: Carry
    ) -> None:
        """Follow a change of the space's own axes: with the averages, or with a basis that spares them.

        Args:
            turn: coordinates of the step before, ``[B, *shape]`` -> coordinates of this one; linear.
            shape: of the coordinates of one point.
            state: of the frame.
            carry: takes averages along.
        """
        carry("linear", turn)

    def close(self, coords: Tensor, state: dict[str, Tensor], carry: Carry) -> None:
        """Look at the gradient after the rule did: a basis that must not know the current one is refreshed here."""


@dataclasses.dataclass(frozen=True)
class Identity(Frame):
    """The coordinates of the space itself."""

    matrices: ClassVar[bool] = False
    flat_only: ClassVar[bool] = False
    trivial: ClassVar[bool] = True

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        own: Any = cls
        cls.trivial = stands_for(own, "trivial", "open", "enter", "leave", "move_", "close")

    def enter(self, coords: Tensor, state: dict[str, Tensor]) -> Tensor:
        return coords

    def leave(self, direction: Tensor, state: dict[str, Tensor], coords: Tensor) -> Tensor:
        return direction
