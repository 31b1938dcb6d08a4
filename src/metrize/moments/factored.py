"""Mean squares of rows and columns."""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Literal

import torch
from torch import Tensor

from metrize.moments.base import Kind, Moments, Slot, Streaming, accumulate_, per_member
from metrize.moments.dense import Dense
from metrize.moments.stream import Cut, Stream
from metrize.part import Spec, choice


@dataclasses.dataclass(frozen=True)
class Factored(Streaming):
    """Averages of squares as their means over rows and over columns (Adafactor, arXiv:1804.04235).

    R is the average of the squares' mean over the second of two dimensions, C over the first, and the average is taken
    to be ``R C / mean(R)``, the matrix of rank 1 with these means that is nearest in the sense of the Kullback-Leibler
    divergence. Other dimensions count matrices. Averages with signs, and tensors with fewer than two dimensions, are
    stored densely.

    Args:
        dims: which two dimensions: the ``"largest"`` two, or the ``"last"`` two, which in a convolution are those of
            its kernel and save little.
        min_size: tensors whose smaller one of the two is below are stored densely.
        floor: the least mean that R is divided by; None: the machine epsilon of the arithmetic.

    Raises:
        ValueError: an unknown option or a number out of range.
    """

    dims: Literal["largest", "last"] = "largest"
    min_size: int = 1
    floor: float | None = 0.0

    ahead: ClassVar[bool] = True

    def __post_init__(self) -> None:
        choice(self, "dims", ("largest", "last"))
        if self.min_size < 1:
            raise ValueError(f"Factored(min_size={self.min_size}): at least 1")
        if self.floor is not None and not self.floor >= 0:
            raise ValueError(f"Factored(floor={self.floor}): at least 0, or None")

    def of(self, shape: torch.Size, kind: Kind) -> Moments:
        if kind == "linear" or len(shape) < 2 or min(shape[d] for d in self._pair(shape)) < self.min_size:
            return Dense()
        return self

    def _pair(self, shape: torch.Size) -> tuple[int, int]:
        """The two dimensions, the earlier one first."""
        order = list(range(len(shape)))
        if self.dims == "largest":
            order.sort(key=lambda d: (shape[d], d))
        return min(order[-2:]), max(order[-2:])

    def state_spec(self, name: str, shape: torch.Size, dtype: torch.dtype, kind: Kind) -> Spec:
        first, second = self._pair(shape)
        row, col = (tuple(length for d, length in enumerate(shape) if d != dim) for dim in (second, first))
        return {f"{name}.row": (row, dtype), f"{name}.col": (col, dtype)}

    def stream(self, slot: Slot, state: dict[str, Tensor]) -> _FactoredStream:
        floor = torch.finfo(slot.dtype).eps if self.floor is None else max(self.floor, torch.finfo(slot.dtype).tiny)
        return _FactoredStream(state[f"{slot.name}.row"], state[f"{slot.name}.col"], self._pair(slot.shape), floor)

    def read(self, slot: Slot, state: dict[str, Tensor]) -> Tensor:
        stream = self.stream(slot, state)
        stream.normalise()
        return stream.again(Cut(self.layout(slot.shape)))

    def write(self, slot: Slot, state: dict[str, Tensor], value: Tensor) -> None:
        stream = self.stream(slot, state)
        for factor, dim in stream.factors():
            factor.copy_(value.mean(1 + dim))


class _FactoredStream(Stream):
    fresh: ClassVar[bool] = True

    def __init__(self, row: Tensor, col: Tensor, pair: tuple[int, int], floor: float) -> None:
        self.row, self.col, self.pair, self.floor = row, col, pair, floor
        self.sums: list[Tensor] = []
        self.roots: tuple[Tensor, Tensor] | None = None
        self.scaled: tuple[float | Tensor, Tensor]

    def factors(self) -> list[tuple[Tensor, int]]:
        """Both factors, each with the dimension of the tensor that it lacks."""
        return [(self.row, self.pair[1]), (self.col, self.pair[0])]

    def observe(self, cut: Cut, value: Tensor, decay: float | Tensor, gain: float | Tensor) -> None:
        if not self.sums:
            self.sums = [torch.zeros_like(factor) for factor, _ in self.factors()]
        self.layout, self.decay, self.gain = cut.layout, decay, gain
        square = value.square()
        for total, (_, dim) in zip(self.sums, self.factors(), strict=True):
            cut.of_factor(total, dim).add_(square.sum(1 + dim))

    def settle(self) -> None:
        for total, (factor, dim) in zip(self.sums, self.factors(), strict=True):
            weights = per_member(self.decay, factor), per_member(self.gain, factor)
            accumulate_(factor, total.div_(self.layout[dim]), *weights, "linear")
        self.normalise()

    def normalise(self) -> None:
        """Divide R by its mean."""
        self.normal = self.row / self._mean(self.row)

    def again(self, cut: Cut) -> Tensor:
        return self._wide(cut, self.normal, self.pair[1]) * self._wide(cut, self.col, self.pair[0])

    def whiten(self, cut: Cut, value: Tensor, floor: float, scale: float | Tensor) -> Tensor:
        if self.roots is None:  # added to all squares, it were added to all means
            row, col = self.row + floor, self.col + floor
            self.roots = (row / self._mean(row)).rsqrt_(), col.rsqrt_()
            self.scaled = 1.0, self.roots[0]
        if self.scaled[0] is not scale:
            self.scaled = scale, self.roots[0] * per_member(scale, self.row)
        result = value * self._wide(cut, self.roots[1], self.pair[0])
        return result.mul_(self._wide(cut, self.scaled[1], self.pair[1]))

    def _mean(self, row: Tensor) -> Tensor:
        return row.mean(1 + self.pair[0], keepdim=True).clamp_(min=self.floor)

    def _wide(self, cut: Cut, factor: Tensor, dim: int) -> Tensor:
        """The part of a factor that belongs to a piece, shaped to broadcast with it."""
        return cut.of_factor(factor, dim).unsqueeze(1 + dim)
