"""Mean squares along every dimension."""

from __future__ import annotations

import dataclasses
import functools
import math
import operator
from typing import ClassVar

import torch
from torch import Tensor

from metrize.moments.base import Kind, Moments, Slot, Streaming, accumulate_, per_member
from metrize.moments.dense import Dense
from metrize.moments.stream import Cut, Stream
from metrize.part import Spec


@dataclasses.dataclass(frozen=True)
class Outer(Streaming):
    """Averages of squares as one vector for each dimension (Adafactor in arXiv:2407.07972).

    r_i is the average of the squares' mean over all dimensions but the i-th, and the average is taken to be
    ``r_1 x ... x r_N / mean(r_1)^(N - 1)``. For a matrix it is that of `Factored`; a convolution keeps as many numbers
    as its sides are long together. Averages with signs, and tensors with fewer than two dimensions, are stored densely.
    """

    matrices: ClassVar[bool] = True
    ahead: ClassVar[bool] = True

    def of(self, shape: torch.Size, kind: Kind) -> Moments:
        return Dense() if kind == "linear" or len(shape) < 2 else self

    def state_spec(self, name: str, shape: torch.Size, dtype: torch.dtype, kind: Kind) -> Spec:
        return {f"{name}.{dim}": ((length,), dtype) for dim, length in enumerate(shape)}

    def stream(self, slot: Slot, state: dict[str, Tensor]) -> _OuterStream:
        return _OuterStream([state[f"{slot.name}.{dim}"] for dim in range(len(slot.shape))], slot.shape)

    def read(self, slot: Slot, state: dict[str, Tensor]) -> Tensor:
        stream = self.stream(slot, state)
        stream.normalise()
        return stream.again(Cut(self.layout(slot.shape)))

    def write(self, slot: Slot, state: dict[str, Tensor], value: Tensor) -> None:
        stream = self.stream(slot, state)
        for dim, factor in enumerate(stream.factors):
            factor.copy_(value.mean(stream.others(dim)))


class _OuterStream(Stream):
    def __init__(self, factors: list[Tensor], shape: torch.Size) -> None:
        self.factors, self.shape = factors, shape
        self.sums: list[Tensor] = []

    def others(self, dim: int) -> list[int]:
        """All dimensions of a stack but the batch and this one."""
        return [1 + d for d in range(len(self.shape)) if d != dim]

    def observe(self, cut: Cut, value: Tensor, decay: float | Tensor, gain: float | Tensor) -> None:
        self.sums = self.sums or [torch.zeros_like(factor) for factor in self.factors]
        self.decay, self.gain = decay, gain
        square = value.square()
        for dim, total in enumerate(self.sums):
            self._part(total, cut, dim).add_(square.sum(self.others(dim)))

    def settle(self) -> None:
        numbers = math.prod(self.shape)
        for total, factor in zip(self.sums, self.factors, strict=True):
            weights = per_member(self.decay, factor), per_member(self.gain, factor)
            accumulate_(factor, total.mul_(factor.shape[1] / numbers), *weights, "linear")
        self.normalise()

    def normalise(self) -> None:
        """Divide all factors but the first by the mean of the first."""
        first, *rest = self.factors
        mean = first.mean(1, keepdim=True).clamp_(min=torch.finfo(first.dtype).tiny)
        self.normal = [first, *(factor / mean for factor in rest)]

    def again(self, cut: Cut) -> Tensor:
        shapes = ([-1 if d == dim else 1 for d in range(len(self.shape))] for dim in range(len(self.shape)))
        parts = (self._part(factor, cut, dim) for dim, factor in enumerate(self.normal))
        return functools.reduce(
            operator.mul, (part.reshape(len(part), *shape) for part, shape in zip(parts, shapes, strict=True))
        )

    def _part(self, factor: Tensor, cut: Cut, dim: int) -> Tensor:
        """The places of a factor that belong to a piece."""
        return factor[:, cut.index[dim]] if dim < len(cut.index) else factor
