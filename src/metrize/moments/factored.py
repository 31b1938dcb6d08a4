"""Mean squares of rows and columns."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
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
    min_size: float = 1
    floor: float | None = 0.0

    matrices: ClassVar[bool] = True
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
        row, col, pair = state[f"{slot.name}.row"], state[f"{slot.name}.col"], self._pair(slot.shape)
        kernel = slot.shape[-2:] if _is_kernel(slot.shape, pair, row.device) else None
        return _FactoredStream(row, col, pair, floor, kernel)

    def read(self, slot: Slot, state: dict[str, Tensor]) -> Tensor:
        return self.stream(slot, state).again(Cut(self.layout(slot.shape)))

    def write(self, slot: Slot, state: dict[str, Tensor], value: Tensor) -> None:
        stream = self.stream(slot, state)
        for factor, dim in stream.factors():
            factor.copy_(value.mean(1 + dim))


class _FactoredStream(Stream):
    fresh: ClassVar[bool] = True

    def __init__(
        self, row: Tensor, col: Tensor, pair: tuple[int, int], floor: float, kernel: torch.Size | None
    ) -> None:
        self.row, self.col, self.pair, self.floor, self.kernel = row, col, pair, floor, kernel
        self.totals: list[Tensor] = []
        self.made: tuple[object, tuple[Tensor, Tensor]] | None = None

    def factors(self) -> list[tuple[Tensor, int]]:
        """Both factors, each with the dimension of the tensor that it lacks."""
        return [(self.row, self.pair[1]), (self.col, self.pair[0])]

    def observe(self, cut: Cut, value: Tensor, decay: float | Tensor, gain: float | Tensor) -> None:
        self.layout, self.decay, self.gain = cut.layout, decay, gain
        square = value.square()
        sums = [self._sum(cut, square, dim) for _, dim in self.factors()]
        if self._whole(cut):
            self._blend([cut.of_factor(factor, dim) for factor, dim in self.factors()], sums)
            return
        self.totals = self.totals or [torch.zeros_like(factor) for factor, _ in self.factors()]
        for total, part, (_, dim) in zip(self.totals, sums, self.factors(), strict=True):
            cut.of_factor(total, dim).add_(part)

    def settle(self) -> None:
        if self.totals:
            self._blend([self.row, self.col], self.totals)

    def again(self, cut: Cut) -> Tensor:
        row, col = self._parts(cut, self, lambda row, col: (row / self._mean(row), col))
        return self._wide(cut, row, self.pair[1]) * self._wide(cut, col, self.pair[0])

    def whiten(self, cut: Cut, value: Tensor, floor: float, scale: float | Tensor) -> Tensor:
        def roots(row: Tensor, col: Tensor) -> tuple[Tensor, Tensor]:
            row, col = row + floor, col + floor  # added to all squares, it were added to all means
            return (row / self._mean(row)).rsqrt_().mul_(per_member(scale, row)), col.rsqrt_()

        row, col = self._parts(cut, scale, roots)
        return (value * self._wide(cut, col, self.pair[0])).mul_(self._wide(cut, row, self.pair[1]))

    def _whole(self, cut: Cut) -> bool:
        """Whether a piece has all rows and columns of the matrices in it, whose means it knows then."""
        return all(dim < self.pair[0] for dim, _, _ in cut.ranges)

    def _parts(
        self, cut: Cut, key: object, make: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
    ) -> tuple[Tensor, Tensor]:
        """What is made of both factors for a piece; made once for all pieces where they have matrices in common."""
        second, first = (dim for _, dim in self.factors())
        if self._whole(cut):
            return make(cut.of_factor(self.row, second), cut.of_factor(self.col, first))
        if self.made is None or self.made[0] is not key:
            self.made = key, make(self.row, self.col)
        row, col = self.made[1]
        return cut.of_factor(row, second), cut.of_factor(col, first)

    def _blend(self, factors: list[Tensor], sums: list[Tensor]) -> None:
        """``a <- decay a + gain x`` for the means that belong to these sums."""
        for factor, total, (_, dim) in zip(factors, sums, self.factors(), strict=True):
            weights = per_member(self.decay, factor), per_member(self.gain, factor)
            accumulate_(factor, total.div_(self.layout[dim]), *weights, "linear")

    def _mean(self, row: Tensor) -> Tensor:
        return row.mean(1 + self.pair[0], keepdim=True).clamp_(min=self.floor)

    def _wide(self, cut: Cut, part: Tensor, dim: int) -> Tensor:
        """A part of a factor, shaped to broadcast with a piece."""
        if self.kernel is None or not self._whole(cut):
            return part.unsqueeze(1 + dim)
        wide = part.flatten(0, -2) @ self._places(dim).mT.contiguous()
        return wide.view(*part.shape[:-1], *self.kernel)

    def _sum(self, cut: Cut, square: Tensor, dim: int) -> Tensor:
        if self.kernel is None or not self._whole(cut):
            return square.sum(1 + dim)
        sums = square.reshape(-1, self.kernel.numel()) @ self._places(dim)
        return sums.view(*square.shape[:-2], -1)

    def _places(self, dim: int) -> Tensor:
        return _places(*self.kernel or (), dim == self.pair[1], self.row.dtype, self.row.device)


def _is_kernel(shape: torch.Size, pair: tuple[int, int], device: torch.device) -> bool:
    """Whether the two dimensions are those of a small kernel.

    Sums over so few neighbours, and products with numbers that repeat after so few, are slow one by one and fast as
    products with a small matrix; in full precision, which matrix products have by default on the CPU.
    """
    small = len(shape) > 2 and pair == (len(shape) - 2, len(shape) - 1) and shape[-2] * shape[-1] <= 64
    return small and device.type == "cpu" and torch.get_float32_matmul_precision() == "highest"


@functools.lru_cache
def _places(rows: int, cols: int, of_rows: bool, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Ones where a number of a kernel lies in a row, ``[rows cols, rows]``, or in a column."""
    if of_rows:
        return torch.eye(rows, dtype=dtype, device=device).repeat_interleave(cols, 0)
    return torch.eye(cols, dtype=dtype, device=device).repeat(rows, 1)
