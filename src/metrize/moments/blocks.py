"""One number for each block."""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar, Literal

import torch
from torch import Tensor

from metrize.moments.base import Kind, Moments, Slot, Streaming, accumulate_, per_member
from metrize.moments.dense import Dense
from metrize.moments.stream import Cut, Stream
from metrize.part import Spec, choice


@dataclasses.dataclass(frozen=True)
class Blocks(Streaming):
    """Averages of squares as their mean over blocks (Adam-mini, arXiv:2406.16793; Adalayer, arXiv:2407.07972).

    Averages with signs are stored densely.

    Args:
        by: a block is the whole ``"tensor"``, or made of ``"rows"`` (slices of the first dimension) or ``"columns"``
            (of the second).
        count: into how many equal blocks the rows or columns are cut, such as the heads of an attention or the three
            parts of a fused query, key and value; None: every one is a block.

    Raises:
        ValueError: an unknown option, or (when used) rows that `count` does not divide.
    """

    by: Literal["tensor", "rows", "columns"] = "tensor"
    count: int | None = None

    ahead: ClassVar[bool] = True

    def __post_init__(self) -> None:
        choice(self, "by", ("tensor", "rows", "columns"))
        if self.count is not None and (self.count < 1 or self.by == "tensor"):
            raise ValueError(f"Blocks(by={self.by!r}, count={self.count}): at least 1, and for rows or columns only")

    def of(self, shape: torch.Size, kind: Kind) -> Moments:
        return Dense() if kind == "linear" else self

    def check_shape(self, shape: torch.Size) -> None:
        self._blocks(shape)

    def layout(self, shape: torch.Size) -> tuple[int, ...]:
        return tuple(shape) or (1,)

    def _blocks(self, shape: torch.Size) -> tuple[int, int]:
        """The dimension that is cut, and into how many blocks.

        Raises:
            ValueError: they would not be equal.
        """
        dim = 1 if self.by == "columns" and len(shape) > 1 else 0
        length = self.layout(shape)[dim]
        count = 1 if self.by == "tensor" else length if self.count is None else self.count
        if count > 1 and length % count:
            raise ValueError(f"{self}: the {length} {self.by} of shape {tuple(shape)} are not {count} equal blocks")
        return dim, count

    def state_spec(self, name: str, shape: torch.Size, dtype: torch.dtype, kind: Kind) -> Spec:
        return {name: ((self._blocks(shape)[1],), dtype)}

    def stream(self, slot: Slot, state: dict[str, Tensor]) -> _BlocksStream:
        return _BlocksStream(state[slot.name], self.layout(slot.shape), *self._blocks(slot.shape))

    def read(self, slot: Slot, state: dict[str, Tensor]) -> Tensor:
        layout = self.layout(slot.shape)
        means = self.stream(slot, state).again(Cut(layout))
        return means.expand(-1, *layout).reshape(-1, *slot.shape).clone()

    def write(self, slot: Slot, state: dict[str, Tensor], value: Tensor) -> None:
        stream = self.stream(slot, state)
        stream.keep(Cut(stream.layout), value.reshape(value.shape[0], *stream.layout), 0.0, 1.0)
        stream.settle()


class _BlocksStream(Stream):
    def __init__(self, kept: Tensor, layout: tuple[int, ...], dim: int, count: int) -> None:
        self.kept, self.layout, self.dim = kept, layout, dim
        self.size = layout[dim] // count if count else 1
        self.sums = torch.zeros_like(kept)

    def observe(self, cut: Cut, value: Tensor, decay: float | Tensor, gain: float | Tensor) -> None:
        self.keep(cut, value.square(), decay, gain)

    def keep(self, cut: Cut, square: Tensor, decay: float | Tensor, gain: float | Tensor) -> None:
        """Take in a piece of squares."""
        others = [1 + d for d in range(len(self.layout)) if d != self.dim]
        self.sums.index_add_(1, self._places(cut), square.sum(others) if others else square)
        self.decay, self.gain = decay, gain

    def settle(self) -> None:
        numbers = math.prod(self.layout) // self.kept.shape[1]
        weights = per_member(self.decay, self.kept), per_member(self.gain, self.kept)
        accumulate_(self.kept, self.sums.div_(numbers), *weights, "linear")

    def again(self, cut: Cut) -> Tensor:
        one = self.kept.shape[1] == 1
        means = self.kept if one else self.kept.index_select(1, self._places(cut))
        return means.reshape(len(means), *(-1 if d == self.dim else 1 for d in range(len(self.layout))))

    def _places(self, cut: Cut) -> Tensor:
        """The block of each slice of a piece."""
        index = cut.index[self.dim] if self.dim < len(cut.index) else slice(None)
        return torch.arange(self.layout[self.dim], device=self.kept.device)[index] // self.size
