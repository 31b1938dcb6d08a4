"""A frame at work on a batch of parameters: it sees single points, in those coordinates that are its business."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import torch
from torch import Tensor

from metrize.frames import Frame
from metrize.moments import Averages, Kind
from metrize.spaces import Space
from metrize.step.assignment import OF_PARAMETER


@dataclasses.dataclass
class Framed:
    """One step of a frame on a batch.

    Args:
        frame: the frame.
        space: whose coordinates they are.
        batch: points in one parameter, as the space counts them.
        state: stacked, ``[B, ...]`` each.
        averages: of the rule, to be taken along.
    """

    frame: Frame
    space: Space
    batch: tuple[int, ...]
    state: dict[str, Tensor]
    averages: Averages

    def __post_init__(self) -> None:
        self.idle = self.frame.trivial
        self._state = (
            self.state if self.idle or not self.batch else {k: self._each(k, v) for k, v in self.state.items()}
        )

    def open(self, coords: Tensor) -> None:
        """See `Frame.open`."""
        if not self.idle:
            self.frame.open(self._points(coords), self._state, self._carry)

    def enter(self, coords: Tensor) -> Tensor:
        """See `Frame.enter`."""
        return self._within(coords, lambda x: self.frame.enter(x, self._state))

    def leave(self, direction: Tensor, coords: Tensor) -> Tensor:
        """See `Frame.leave`."""
        return self._within(direction, lambda x: self.frame.leave(x, self._state, self._points(coords)))

    def close(self, coords: Tensor) -> None:
        """See `Frame.close`."""
        if not self.idle:
            self.frame.close(self._points(coords), self._state, self._carry)

    def turned(self, turn: Callable[[Tensor], Tensor], like: Tensor) -> None:
        """See `Frame.turned`; `turn` is of whole coordinates, of the shape of `like`."""
        if self.idle:
            self.averages.turn("linear", turn)
            return

        def within(part: Tensor) -> Tensor:
            whole = torch.zeros_like(like)
            framed = self.space.framed(whole)
            framed.copy_(part.view(framed.shape))
            return self._points(turn(whole))

        self.frame.turned(within, self._points(like).shape[1:], self._state, self._carry)

    def _carry(self, kind: Kind, turn: Callable[[Tensor], Tensor | None], member: int | None = None) -> None:
        def within(average: Tensor) -> Tensor | None:
            turned = turn(self._points(average))
            return None if turned is None else self._within(average, lambda _: turned)

        self.averages.turn(kind, turn if self.space.flat else within, member)

    def _within(self, coords: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
        """Apply `change` to those coordinates that are the frame's business."""
        if self.idle:
            return coords
        if self.space.flat:
            return change(coords)
        whole = coords.clone()
        part = self.space.framed(whole)
        part.copy_(change(self._points(coords)).view(part.shape))
        return whole

    def _points(self, coords: Tensor) -> Tensor:
        part = self.space.framed(coords)
        return part.flatten(0, len(self.batch)) if self.batch else part

    def _each(self, key: str, value: Tensor) -> Tensor:
        if key in OF_PARAMETER:
            return value.repeat_interleave(math.prod(self.batch))
        return value.flatten(0, len(self.batch)) if value.ndim > len(self.batch) else value
