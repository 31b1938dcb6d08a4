"""Rank 1 of a nearly square matrix, with signs at one bit each."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import ClassVar, Literal

import torch
from torch import Tensor

from metrize.moments.base import Kind, Moments, Slot, Streaming, accumulate_, per_member
from metrize.moments.bits import packed, signs
from metrize.moments.dense import Dense
from metrize.moments.stream import Cut, Stream
from metrize.part import Spec, choice


@functools.lru_cache(maxsize=4096)
def nearly_square(count: int) -> tuple[int, int]:
    """``(n, m)`` with ``n m = count``, ``n >= m`` and m as large as can be."""
    if not count:
        return 0, 1
    m = next(m for m in range(math.isqrt(count), 0, -1) if count % m == 0)
    return count // m, m


@dataclasses.dataclass(frozen=True)
class RankOne(Streaming):
    """Averages as a matrix of rank 1 and a bit for each sign (SMMF, arXiv:2412.08894).

    A tensor with N numbers is read row by row as a matrix ``n x m``, as nearly square as the divisors of N allow. Of an
    average A it keeps ``r = |A| 1`` and ``c = |A|^T 1 / sum |A|``, so that ``|A|`` is read as ``r c^T``, and where A
    has signs, one bit for each: set where A is above 0. The fresh gradient enters the uncompressed average, and that
    one is used before it is compressed again.

    Args:
        vectors: ``"matrix"`` treats tensors with one dimension as all others; ``"dense"`` stores them densely, which
            for prime lengths is also smaller.

    Raises:
        ValueError: an unknown option.
    """

    vectors: Literal["matrix", "dense"] = "matrix"

    rereads: ClassVar[bool] = False
    align: ClassVar[int] = 8  # no byte of signs lies in two pieces

    def __post_init__(self) -> None:
        choice(self, "vectors", ("matrix", "dense"))

    def of(self, shape: torch.Size, kind: Kind) -> Moments:
        vector = sum(length != 1 for length in shape) == 1
        return Dense() if self.vectors == "dense" and vector else self

    def layout(self, shape: torch.Size) -> tuple[int, ...]:
        return nearly_square(math.prod(shape))

    def state_spec(self, name: str, shape: torch.Size, dtype: torch.dtype, kind: Kind) -> Spec:
        n, m = self.layout(shape)
        factors: Spec = {f"{name}.row": ((n,), dtype), f"{name}.col": ((m,), dtype)}
        return factors | ({f"{name}.sign": ((-(-n * m // 8),), torch.uint8)} if kind == "linear" else {})

    def stream(self, slot: Slot, state: dict[str, Tensor]) -> _RankOneStream:
        row, col = state[f"{slot.name}.row"], state[f"{slot.name}.col"]
        return _RankOneStream(slot, row, col, state.get(f"{slot.name}.sign"))

    def read(self, slot: Slot, state: dict[str, Tensor]) -> Tensor:
        whole = self.stream(slot, state).again(Cut(self.layout(slot.shape)))
        return whole.reshape(len(whole), *slot.shape)

    def write(self, slot: Slot, state: dict[str, Tensor], value: Tensor) -> None:
        stream = self.stream(slot, state)
        layout = self.layout(slot.shape)
        stream.keep(Cut(layout), stream.row, value.reshape(value.shape[0], *layout))
        stream.close()


class _RankOneStream(Stream):
    fresh: ClassVar[bool] = True

    def __init__(self, slot: Slot, row: Tensor, col: Tensor, sign: Tensor | None) -> None:
        self.slot, self.row, self.col, self.sign = slot, row, col, sign
        self.decay: float | Tensor | None = None
        self.sums = torch.zeros_like(col)  # the old factor is needed until the last piece

    def update(self, cut: Cut, value: Tensor, decay: float | Tensor, gain: float | Tensor) -> Tensor:
        if self.decay is None:
            self.decay = per_member(decay, self.row)
        row = cut.of_factor(self.row, 1)
        average = self._read(cut, row * self.decay)
        accumulate_(average, value, 1.0, gain, self.slot.kind)
        self.keep(cut, row, average)
        return average

    def again(self, cut: Cut) -> Tensor:
        """The average of a piece as it was kept until this step."""
        return self._read(cut, cut.of_factor(self.row, 1))

    def _read(self, cut: Cut, row: Tensor) -> Tensor:
        if self.sign is None:
            return row.unsqueeze(2) * self.col.unsqueeze(1)
        ones = signs(self._bytes(cut), cut.stop - cut.start, row.dtype).reshape(len(row), *cut.shape)
        return ones.mul_(row.unsqueeze(2)).mul_(self.col.unsqueeze(1))

    def keep(self, cut: Cut, row: Tensor, average: Tensor) -> None:
        """Compress a piece, whose part of the row factor is `row`."""
        if self.sign is not None:
            positive = torch.gt(average, 0, out=torch.empty_like(average))
            self._bytes(cut).copy_(packed(positive.flatten(1)))
            average = torch.abs(average, out=positive)
        torch.sum(average, 2, out=row)
        self.sums += average.sum(1)

    def close(self) -> None:
        total = self.sums.sum(1, keepdim=True)
        self.col.copy_(self.sums.div_(total.where(total > 0, 1)))

    def _bytes(self, cut: Cut) -> Tensor:
        assert self.sign is not None
        return self.sign[:, cut.start // 8 : -(-cut.stop // 8)]
